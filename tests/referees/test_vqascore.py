"""VQAScore is the probability of "Yes" by the model's own processor and forward, one picture at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.errors import UserError
from mitune.files import read_json, write_json
from mitune.referees.preprocess import to_images
from mitune.referees.weighted import load_reward
from tests.referees.conftest import TEXTS, pictures, settings
from tests.referees.small_speakers import build_blip2_t5, build_llava, build_qwen

BUILD: dict[str, Callable[[Path], Path]] = {"llava": build_llava, "blip2_t5": build_blip2_t5}
ASKED = 'Does this figure show "{}"? Please answer yes or no.'


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("speakers")
    return {name: build(place / name) for name, build in BUILD.items()}


def judge(folder: Path, **keys: Any) -> Any:
    section = settings()
    section["vqascore"] |= {"path": str(folder)} | keys
    return load_reward("vqascore", section)


def package_s(name: str, folder: Path, shown: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """P(Yes) by AutoProcessor and the class, a picture at a time; the chat written out."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    yes = processor.tokenizer.convert_tokens_to_ids("Yes")
    found = []
    for image, text in zip(to_images(shown), texts, strict=True):
        question = ASKED.format(text)
        said = f"<user> <image>{question} <assistant> " if name == "llava" else question
        inputs = processor(images=image, text=said, return_tensors="pt")
        extra = {} if name == "llava" else {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}
        with torch.no_grad():
            found.append(model(**inputs, **extra).logits[0, -1].softmax(0)[yes])
    return torch.stack(found)


@pytest.mark.parametrize("name", BUILD)
def test_it_is_the_package_s_probability(name: str, speakers: dict[str, Path]) -> None:
    """Questions of several lengths in one batch, and in batches of two: the padding of one is none of another's."""
    shown = pictures(3, 40, 40)
    expected = package_s(name, speakers[name], shown, TEXTS)
    assert expected.std() > 1e-5
    for size in (8, 2):
        reward = judge(speakers[name], batch_size=size)
        score = reward.score(shown, TEXTS)
        torch.testing.assert_close(score, expected, atol=1e-6, rtol=1e-4)
    assert score.dtype == torch.float32
    assert not reward.differentiable
    assert speakers[name].name in reward.identity


def test_logits_of_the_end_alone_are_made(speakers: dict[str, Path]) -> None:
    reward, shapes = judge(speakers["llava"]), []
    reward.model.lm_head.register_forward_hook(lambda _, __, found: shapes.append(tuple(found.shape)))
    reward.score(pictures(3), TEXTS)
    spread = max(len(text.split()) for text in TEXTS) - min(len(text.split()) for text in TEXTS)
    assert shapes == [(3, spread + 1, reward.model.config.text_config.vocab_size)]


def test_question_and_answer_are_keys(speakers: dict[str, Path]) -> None:
    shown, folder = pictures(2), speakers["llava"]
    default = judge(folder).score(shown, TEXTS[:2])
    assert (
        judge(folder, question="this figure show {}").score(shown, TEXTS[:2]) - default
    ).abs().min() > 1e-6
    assert (judge(folder, answer="no").score(shown, TEXTS[:2]) - default).abs().min() > 1e-6


def test_a_model_without_a_chat_is_told_what_stands_around(speakers: dict[str, Path], tmp_path: Path) -> None:
    silent, shown = build_llava(tmp_path / "silent", chat=False), pictures(2)
    around = judge(silent, around="<user> <image>{} <assistant> ").score(shown, TEXTS[:2])
    torch.testing.assert_close(around, judge(speakers["llava"]).score(shown, TEXTS[:2]))
    with pytest.raises(UserError, match=r"say scorer\.vqascore\.around") as error:
        judge(silent).score(shown, TEXTS[:2])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"answer": "Certainly"}, r"answer='Certainly' is not one token of llava"),
        ({"answer": "Yes no"}, r"answer='Yes no' is not one token of llava \('Yes', 'no'\)"),
        ({"question": "Is it so?"}, r"question='Is it so\?' has no \{\}"),
        ({"around": "<image>"}, r"around='<image>' has no \{\}"),
        ({"dtype": "float8"}, "dtype"),
    ],
)
def test_settings_that_cannot_be(speakers: dict[str, Path], keys: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        judge(speakers["llava"], **keys).score(pictures(1), TEXTS[:1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another kind", "is no image-text-to-text model.*model_type=clip"),
        ("no processor", "its processor"),
        ("pickled", "pickled, which are not read"),
    ],
)
def test_a_folder_that_will_not_do(what: str, says: str, speakers: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(speakers["llava"], folder)
    if what == "another kind":
        write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "clip"})
    if what == "no processor":
        (folder / "processor_config.json").unlink()
    if what == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=rf"scorer\.vqascore\.path=judge.*{says}") as error:
        judge(folder).score(pictures(1), TEXTS[:1])
    assert "\n" not in str(error.value)


def test_a_prompt_that_speaks_the_model_s_own_tokens_is_refused_in_a_line(speakers: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="take tokens of the model's own out") as error:
        judge(speakers["llava"]).score(pictures(1), ["a <image> of a cat"])
    assert "\n" not in str(error.value)


def test_qwen_judges_where_torchvision_is_and_says_so_elsewhere(tmp_path: Path) -> None:
    """Its processor reads videos too, and transformers opens that part with torchvision only."""
    reward = judge(build_qwen(tmp_path / "qwen"))
    if util.find_spec("torchvision") is None:
        with pytest.raises(UserError, match="pip install torchvision") as error:
            reward.score(pictures(2, 40, 40), TEXTS[:2])
        assert "\n" not in str(error.value)
        return
    together = reward.score(pictures(2, 40, 40), TEXTS[:2])
    assert together.isfinite().all()


def test_librehps_is_refused_by_name_and_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types
    from importlib import machinery

    with pytest.raises(UserError, match=r"needs the package librehps.*pins transformers 5\.5\.4"):
        load_reward("librehps", settings())

    class LibreHPS:
        @staticmethod
        def from_pretrained(path: str, device: object) -> LibreHPS:
            return LibreHPS()

        def score_image(self, image: Any, prompt: str) -> Any:
            mean = image.getpixel((0, 0))[0] + len(prompt)
            return types.SimpleNamespace(overall=types.SimpleNamespace(mean=mean))

    module = types.ModuleType("librehps")
    module.__spec__ = machinery.ModuleSpec("librehps", None)
    module.LibreHPS = LibreHPS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "librehps", module)
    reward, shown = load_reward("librehps", settings()), pictures(2)
    expected = (shown[:, 0, 0, 0] * 255).round() + torch.tensor([len(text) for text in TEXTS[:2]])
    torch.testing.assert_close(reward.score(shown, TEXTS[:2]), expected)
    assert "LibreHPS-4B" in reward.identity
