"""BLIP's and BLIP-2's scores are those of the package's own forward, with its traps avoided."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mitune.errors import UserError
from mitune.files import read_json, write_json
from mitune.referees.weighted import load_reward
from tests.referees.conftest import TEXTS, pictures, settings
from tests.referees.small_blips import SIDE, build_blip, build_blip2

CLASSES = {
    "blip_vqa": "BlipForQuestionAnswering",
    "blip_itm": "BlipForImageTextRetrieval",
    "blip_itc": "BlipForImageTextRetrieval",
    "caption": "BlipForConditionalGeneration",
    "blip2_itm": "Blip2ForImageTextRetrieval",
    "blip2_itc": "Blip2ForImageTextRetrieval",
}
SOME = ["blip_itm", "blip_itc", "caption", "blip2_itm", "blip2_itc"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place, found = tmp_path_factory.mktemp("blips"), {}
    for kind in dict.fromkeys(CLASSES.values()):
        found[kind] = build_blip2(place / kind) if kind[:5] == "Blip2" else build_blip(place / kind, kind)
    return found


def judge(name: str, folder: Path, **keys: Any) -> Any:
    section = settings()
    section[name] |= {"path": str(folder)} | keys
    if name == "blip_vqa":
        section[name] |= {"side": SIDE, "phrases": "world"}
    return load_reward(name, section)


def parts(folder: Path, kind: str, shown: torch.Tensor) -> tuple[Any, Any, torch.Tensor]:
    """(The class as the package opens it, its tokenizer, what its own processor makes of the pictures.)"""
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    return model, tokenizer, (shown - mean) / std  # of the network's own size: nothing to resize


def package_s(name: str, folder: Path, shown: torch.Tensor) -> torch.Tensor:
    """The score by the package's own forward, picture by picture and without padding."""
    model, tokenizer, pixels = parts(folder, CLASSES[name], shown)
    found = []
    for i, text in enumerate(TEXTS):
        if name == "caption":
            ids = tokenizer(f"a picture of {text}", return_tensors="pt")["input_ids"]
            ids[:, 0] = model.config.text_config.bos_token_id
            labels = ids.clone()
            labels[:, :4] = -100  # [DEC] a picture of
            found.append(-model(pixel_values=pixels[i : i + 1], input_ids=ids, labels=labels).loss)
            continue
        inputs = dict(tokenizer(text, return_tensors="pt", return_token_type_ids=False))
        if name == "blip_itm":
            inputs["input_ids"][:, 0] = len(tokenizer) + 1
        head = {"use_image_text_matching_head" if "2" in name else "use_itm_head": name.endswith("itm")}
        out = model(pixel_values=pixels[i : i + 1], **inputs, **head)
        logits = out.logits_per_image if "2" in name else out.itm_score
        found.append(logits.log_softmax(-1)[0, 1] if name.endswith("itm") else logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("name", SOME)
def test_scores_and_gradients_are_those_of_the_package_s_forward(name: str, folders: dict[str, Path]) -> None:
    folder, shown = folders[CLASSES[name]], pictures(3).requires_grad_()
    reward = judge(name, folder)
    score, expected = reward.score(shown, TEXTS), package_s(name, folder, shown)
    assert (score.dtype, score.shape) == (torch.float32, (3,))
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-4)
    assert expected.std() > 1e-3  # or there would be nothing to agree on
    ours, theirs = (torch.autograd.grad(value.sum(), shown)[0] for value in (score, expected))
    assert ours.abs().amax((1, 2, 3)).min() > 1e-5
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    assert reward.differentiable


@pytest.mark.parametrize("name", CLASSES)
def test_the_gradient_through_the_resize_is_the_slope(name: str, folders: dict[str, Path]) -> None:
    reward = judge(name, folders[CLASSES[name]], **({"form": "log"} if name == "blip_vqa" else {}))
    shown = (0.1 + 0.8 * pictures(2, 44, 50)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(shown, TEXTS[:2]).sum(), shown)
    along, h = gradient / gradient.norm(), 0.0005  # at 0.002 curvature shows in some draws
    with torch.no_grad():
        ends = [reward.score(shown + sign * h * along, TEXTS[:2]).sum() for sign in (1, -1)]
    # The largest of several queries has a kink where another takes over.
    near = 0.1 if name == "blip2_itc" else 0.02
    assert float(ends[0] - ends[1]) / (2 * h) == pytest.approx(float(gradient.norm()), rel=near)


@pytest.mark.parametrize("name", SOME)
def test_a_score_depends_on_its_own_picture_and_text_alone(name: str, folders: dict[str, Path]) -> None:
    shown, texts = pictures(5), [TEXTS[i % 3] for i in range(5)]
    together = judge(name, folders[CLASSES[name]]).score(shown, texts)
    apart = judge(name, folders[CLASSES[name]], batch_size=2).score(shown, texts)
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["blip_itc", "blip2_itc"])
def test_a_text_is_encoded_once(name: str, folders: dict[str, Path]) -> None:
    reward, rows = judge(name, folders[CLASSES[name]]), []
    encode = reward._text_features._encode
    reward._text_features._encode = lambda texts: rows.extend(texts) or encode(texts)
    reward.score(pictures(4), [*TEXTS, TEXTS[0]])
    reward.score(pictures(2), TEXTS[:2])
    assert rows == TEXTS


@pytest.mark.parametrize("name", ["blip_itm", "blip2_itm"])
def test_the_probability_is_that_of_the_logarithm(name: str, folders: dict[str, Path]) -> None:
    shown, folder = pictures(3), folders[CLASSES[name]]
    chances = judge(name, folder, form="probability").score(shown, TEXTS)
    torch.testing.assert_close(judge(name, folder).score(shown, TEXTS), chances.log())


def test_captions_are_cleaned_and_the_whole_is_the_mean_times_its_tokens(folders: dict[str, Path]) -> None:
    folder, shown = folders["BlipForConditionalGeneration"], pictures(3)
    mean = judge("caption", folder).score(shown, TEXTS)
    loud = judge("caption", folder).score(shown, [f"  {text.upper()}!! " for text in TEXTS])
    torch.testing.assert_close(mean, loud)
    counts = torch.tensor([len(text.split()) + 1 for text in TEXTS])  # and the end
    torch.testing.assert_close(judge("caption", folder, form="sum").score(shown, TEXTS), mean * counts)
    bare = judge("caption", folder, prefix="").score(shown, TEXTS)
    assert (bare - mean).abs().max() > 5e-5


def test_smoothed_labels_are_no_part_of_a_likelihood(tmp_path: Path) -> None:
    """With ``label_smoothing`` in config.json, the package's loss is not −log P."""
    plain = build_blip(tmp_path / "plain", "BlipForConditionalGeneration")
    smooth = build_blip(tmp_path / "smooth", "BlipForConditionalGeneration", label_smoothing=0.1)
    shown = pictures(3)
    torch.testing.assert_close(
        judge("caption", smooth).score(shown, TEXTS), judge("caption", plain).score(shown, TEXTS)
    )
    assert (package_s("caption", smooth, shown) - package_s("caption", plain, shown)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["blip2_itm", "blip2_itc"])
def test_an_image_token_index_does_not_cut_the_text(name: str, tmp_path: Path) -> None:
    """The package's forward takes the first tokens away, and says nothing."""
    plain, marked = build_blip2(tmp_path / "plain"), build_blip2(tmp_path / "marked", image_token=True)
    weights = load_file(plain / "model.safetensors")
    theirs = load_file(marked / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"]
    theirs |= {key: value for key, value in weights.items() if "word_embeddings" not in key}
    theirs["embeddings.word_embeddings.weight"][: len(words)] = words
    save_file(theirs, marked / "model.safetensors", metadata={"format": "pt"})
    shown = pictures(3)
    score = judge(name, plain).score(shown, TEXTS)
    torch.testing.assert_close(judge(name, marked).score(shown, TEXTS), score)
    if name == "blip2_itc":
        assert (package_s(name, marked, shown) - score).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["blip2_itm", "blip2_itc"])
def test_blip2_runs_in_fewer_bits(name: str, dtype: str, folders: dict[str, Path]) -> None:
    folder, shown = folders["Blip2ForImageTextRetrieval"], pictures(3).requires_grad_()
    score = judge(name, folder, dtype=dtype).score(shown, TEXTS)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, judge(name, folder).score(shown, TEXTS), atol=0.05, rtol=0.05)
    assert torch.autograd.grad(score.sum(), shown)[0].isfinite().all()


def test_a_processor_saved_as_a_whole_says_how_pictures_are_prepared(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Transformers 5 writes processor_config.json, and BLIP's says nothing of a centre to cut out."""
    from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor

    folder = tmp_path / "blip"
    shutil.copytree(folders["BlipForImageTextRetrieval"], folder)
    (folder / "preprocessor_config.json").unlink()
    image = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    BlipProcessor(image, BertTokenizer.from_pretrained(folder)).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    shown = pictures(3, 50, 40)
    expected = judge("blip_itm", folders["BlipForImageTextRetrieval"]).score(shown, TEXTS)
    torch.testing.assert_close(judge("blip_itm", folder).score(shown, TEXTS), expected)


def spoil(folder: Path, what: str) -> None:
    config = read_json(folder / "config.json")
    if what == "another family":
        write_json(folder / "config.json", config | {"model_type": "clip"})
    if what == "another class":
        write_json(folder / "config.json", config | {"architectures": ["BlipModel"]})
    if what == "another class that hides":
        del config["architectures"]
        write_json(folder / "config.json", config)
        weights = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in weights.items() if "itm_head" not in key}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if what in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / what).unlink()
    if what == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    if what == "no numbers":
        weights = load_file(folder / "model.safetensors")
        weights["itm_head.weight"][0, 0] = float("nan")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if what == "no words":
        for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another family", "is no Blip.*model_type=clip"),
        ("another class", "its config.json says BlipModel"),
        ("another class that hides", "weights are missing"),
        ("config.json", "there is no config.json"),
        ("preprocessor_config.json", "there is no preprocessor_config.json"),
        ("model.safetensors", "there are no weights there"),
        ("pickled", "pickled, which are not read"),
        ("no numbers", "no finite numbers"),
        ("no words", "tokenizer"),
    ],
)
@pytest.mark.parametrize("name", ["blip_itm", "blip2_itm"])
def test_a_folder_that_will_not_do_is_refused_in_one_line(
    name: str, what: str, says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(folders[CLASSES[name]], folder)
    spoil(folder, what)
    with pytest.raises(UserError, match=rf"scorer\.{name}\.path=judge.*{says}") as error:
        judge(name, folder).score(pictures(1), TEXTS[:1])
    assert "\n" not in str(error.value)
