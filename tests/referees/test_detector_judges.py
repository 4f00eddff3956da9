"""Judges on detectors: rule and network together, GenEval's colours as PIL and CLIP tell them, mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mitune import english
from mitune.english import Word
from mitune.errors import UserError
from mitune.referees import geneval_judge, placement_judge
from mitune.referees.amounts import numeracy_score
from mitune.referees.detection import Detection
from mitune.referees.geneval import COLOURS, TEMPLATES, judged, kept, request_of
from mitune.referees.placement import Asked, framed, placement_score
from mitune.referees.preprocess import to_images
from mitune.referees.weighted import load_reward
from tests.cli import main
from tests.referees.conftest import Detectors, pictures, settings

Refused = Callable[[list[str]], str]


@pytest.fixture(scope="module")
def folders(detector_folders: Detectors, clip_folder: Path) -> dict[str, Path]:
    kinds = ("owlv2", "grounding-dino", "detr", "mask2former")
    return {kind.replace("-", "_"): detector_folders[kind] for kind in kinds} | {"clip": clip_folder}


def judge(name: str, folder: Path, **more):
    section = settings()
    section[name] |= {"path": str(folder), "batch_size": 2, **more}
    return load_reward(name, section)


WORLD = ["a red circle above a square", "a green cross", "a circle touching a big triangle and a cross"]


@pytest.mark.parametrize("kind", ["owlv2", "grounding_dino"])
def test_a_placement_is_the_rule_on_what_the_detector_finds(folders: dict[str, Path], kind: str) -> None:
    shown = pictures(3, 40, 60)
    reward = judge(f"spatial_{kind}", folders[kind], confidence=0.0)
    prompts = [WORLD[0], WORLD[2], WORLD[0]]
    asked = [Asked("on the top of", "circle", "square"), Asked("next to", "circle", "triangle")]
    asked += asked[:1]
    found = reward.detector.detect(shown, [one.names for one in asked], 0.0)
    wanted = [
        placement_score(one, [replace(thing, box=framed(thing.box, 40, 60)) for thing in own])
        for one, own in zip(asked, found, strict=True)
    ]
    torch.testing.assert_close(reward.score(shown, prompts), torch.tensor(wanted))
    assert [one["value"] for one in reward.detailed(shown, prompts, [{}] * 3)] == pytest.approx(
        wanted, abs=1e-6
    )


def test_numbers_are_the_rule_on_what_the_detector_finds(folders: dict[str, Path]) -> None:
    shown = pictures(2, 40, 60)
    reward = judge("numeracy_owlv2", folders["owlv2"], confidence=0.0)
    found = reward.detector.detect(shown, [("circle", "cross"), ("person", "table")], 0.0)
    asked = [[("circle", 2), ("cross", 1)], [("person", 2), ("table", 3)]]
    wanted = [
        numeracy_score(one, [replace(thing, box=framed(thing.box, 40, 60)) for thing in own])
        for one, own in zip(asked, found, strict=True)
    ]
    prompts = ["a circle, a red cross and a circle", "two girls and three tables"]
    torch.testing.assert_close(reward.score(shown, prompts), torch.tensor(wanted))
    assert max(wanted) > 0


def test_a_detector_with_labels_counts_what_has_a_name_in_its_own(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = judge("numeracy_detr", folders["detr"])
    tables = [Detection("dining table", 0.9, (0, 0, 5, 5)), Detection("dining table", 0.8, (9, 9, 20, 20))]
    monkeypatch.setattr(reward.detector, "detect", lambda *_: iter([tables]))
    assert reward.score(pictures(1, 40, 60), ["two tables"]).item() == 1
    with pytest.raises(UserError, match=r"cannot find 'goat'|names no number"):
        reward.score(pictures(1, 40, 60), ["two goats"])


def told(monkeypatch: pytest.MonkeyPatch, **kinds: str) -> None:
    """Let prompts be read by a parser that knows the parts of speech of these words, and of no others."""

    def words(prompt: str) -> list[Word]:
        found, start = [], 0
        for text in prompt.split():
            start = prompt.index(text, start)
            found.append(Word(text, start, start + len(text), kinds.get(text, "X")))
            start += len(text)
        return found

    monkeypatch.setattr(placement_judge, "words", words)


def test_other_prompts_are_read_by_the_parser(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, cat="NOUN", dog="NOUN", hut="NOUN", Rex="PROPN")
    seen: list[tuple[str, ...]] = []

    def detect(pictures, names, confidence):
        seen.extend(names)
        return iter([[] for _ in names])

    for form, wanted in (("simple", ("cat", "hut")), ("complex", ("cat", "dog"))):
        reward = judge("spatial_owlv2", folders["owlv2"], form=form)
        monkeypatch.setattr(reward.detector, "detect", detect)
        assert reward.score(pictures(1, 40, 60), ["a cat near a dog in a hut"]).item() == 0
        assert seen.pop() == wanted
        assert reward.identity.endswith(f"above 0.1, {form} prompts")
    # A complex prompt without two objects around its preposition is worth nothing, and nothing is looked for.
    assert reward.score(pictures(1, 40, 60), ["near the cat"]).item() == 0
    assert not seen


@pytest.mark.parametrize(
    ("name", "prompt", "says"),
    [
        ("spatial_owlv2", "a red circle", "says of no two things"),
        ("spatial_owlv2", "a circle far from a square", "known: left of, right of, above, below, touching"),
        ("spatial_owlv2", "a cat and a dog", "known: on side of, next to"),
        ("spatial_owlv2", "red near blue", "'red near blue' has no noun"),
        ("spatial_detr", "a cat near a unicorn", "cannot find 'unicorn'"),
        ("spatial_detr", "a red circle above a square", "cannot find 'circle'"),
        ("numeracy_owlv2", "a photo", "names no number"),
        ("numeracy_detr", "two goldfish", "cannot find 'fish'"),
    ],
)
def test_a_prompt_that_cannot_be_judged_is_refused_before_anything_is_drawn(
    folders: dict[str, Path], name: str, prompt: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.information.scoring import check_judges

    told(monkeypatch, cat="NOUN", unicorn="NOUN")
    section = settings()
    section[name]["path"] = str(folders[name.split("_", 1)[1]])
    with pytest.raises(UserError, match=says) as caught:
        check_judges([name], [prompt], "scorers", {**section, "combined": ""})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("scorers: ")


def test_without_spacy_its_ways_are_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    english._parser.cache_clear()
    english._parsed.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"mitune\[spacy\]"):
        judge("spatial_owlv2", folders["owlv2"]).score(pictures(1, 40, 60), ["a cat near a dog"])


# -- GenEval -----------------------------------------------------------------------------------------------------------


def geneval(folders: dict[str, Path], **more):
    section = settings()
    own = {"detector": str(folders["mask2former"]), "clip": str(folders["clip"]), "batch_size": 3}
    section["geneval"] |= {**own, **more}
    return load_reward("geneval", section)


def plain_colour(folder: Path, image: Image.Image, thing: Detection, name: str) -> str:
    """What PIL and CLIP's own classes say of an object's colour."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    assert thing.mask is not None
    grey = Image.new("RGB", image.size, color="#999")
    cut = Image.composite(image, grey, Image.fromarray(thing.mask.numpy())).crop(thing.box)
    scores = []
    with torch.no_grad():
        seen = model.get_image_features(**processor(images=[cut], return_tensors="pt")).pooler_output[0]
        for colour in COLOURS:
            texts = [form.format(colour=colour, name=name) for form in TEMPLATES]
            said = model.get_text_features(
                **processor(text=texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
            )
            mean = torch.nn.functional.normalize(said.pooler_output, dim=-1).mean(0)
            scores.append(float(seen @ mean / mean.norm() / seen.norm()))
    return COLOURS[scores.index(max(scores))]


def square(left: int, top: int, side: int) -> torch.Tensor:
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    mask[top, left] = False
    return mask


def things(*places: tuple[str, float, int, int, int]) -> list[Detection]:
    """Objects with masks in pictures of 48 × 64 px, of (label, confidence, left, top, side)."""
    return [
        Detection(label, sure, (left, top, left + side, top + side), square(left, top, side))
        for label, sure, left, top, side in places
    ]


def test_colours_are_those_of_pil_and_clip(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pictures(2, 48, 64)
    reward = geneval(folders)
    found = [
        things(("mouse", 0.9, 2, 3, 32), ("mouse", 0.8, 20, 10, 32), ("bus", 0.7, 30, 4, 32)),
        things(("bus", 0.5, 8, 8, 32)),
    ]
    monkeypatch.setattr(reward.detector, "detect", lambda *_: iter(found))
    prompts = ["a photo of a red computer mouse and a blue bus", "a photo of a green bus"]
    told = reward.detailed(shown, prompts, [request_of(prompt) for prompt in prompts])
    for row, (own, image) in enumerate(zip(found, to_images(shown), strict=True)):

        def colours(name: str, count: int, own=own, image=image) -> list[str]:
            objects = kept(own, 0.3)[name][:count]
            return [plain_colour(folders["clip"], image, one, name) for one in objects]

        wanted = judged(request_of(prompts[row]), kept(own, 0.3), colours)
        assert (told[row]["correct"], told[row]["reason"]) == (wanted.correct, wanted.reason)
        assert told[row]["details"] == wanted.details
    assert any("found" in one["reason"] for one in told)  # colours were told


def test_counting_believes_surer_objects_alone(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = geneval(folders)
    three = things(("clock", 0.95, 1, 1, 5), ("clock", 0.92, 20, 1, 5), ("clock", 0.6, 40, 1, 5))
    monkeypatch.setattr(reward.detector, "detect", lambda shown, *_: iter([three] * len(shown)))
    prompts = ["a photo of two clocks", "a photo of three clocks", "a photo of a clock"]
    assert reward.score(pictures(3, 48, 64), prompts).tolist() == [1, 0, 1]
    metadata = {"tag": "two_object", "include": [{"class": "clock", "count": 3}], "prompt": "clocks"}
    assert reward.detailed(pictures(1, 48, 64), ["clocks"], [metadata])[0]["correct"] is True


def test_geneval_judges_with_a_real_network(folders: dict[str, Path]) -> None:
    reward = geneval(folders, confidence=0.01, counting_confidence=0.02)
    shown, prompt = pictures(3, 48, 64), "a photo of a red dog and a blue cat"
    scores = reward.score(shown, [prompt] * 3)
    assert set(scores.tolist()) <= {0.0, 1.0}
    assert reward.identity.endswith(", above 0.01, counting above 0.02")
    assert geneval(folders).identity.count("@") == 2


def test_another_detector_in_mask2formers_place_is_named(folders: dict[str, Path]) -> None:
    assert geneval(folders, detector=str(folders["detr"])).identity.endswith(
        ", by DETR in Mask2Former's place"
    )
    reward = geneval(folders, detector=str(folders["owlv2"]))
    assert reward.score(pictures(1, 48, 64), ["a photo of a red tv remote"]).shape == (
        1,
    )  # a box without a mask


def test_geneval_refuses_in_a_line(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="none of its six forms"):
        geneval(folders).score(pictures(1, 48, 64), ["a dog"])
    with pytest.raises(UserError, match=r"scorer\.geneval\.clip=.* is no CLIP"):
        geneval(folders, clip=str(folders["detr"]))
    with pytest.raises(UserError, match=r"scorer\.geneval\.detector=.* is no OWLv2"):
        geneval(folders, detector=str(folders["clip"]))
    metadata = {"tag": "colors", "include": [{"class": "unicorn", "count": 1}], "prompt": "a unicorn"}
    with pytest.raises(UserError, match=r"'a unicorn'.* cannot find 'unicorn'"):
        geneval(folders).verdicts(pictures(1, 48, 64), [metadata])


# -- from the command line ---------------------------------------------------------------------------------------------


def listed(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for number, image in enumerate(to_images(pictures(len(texts), 48, 64))):
        image.save(folder / f"{number}.png")
    lines = [f'{number}.png,"{text}"' for number, text in enumerate(texts)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    return folder


def test_score_judges_by_detectors(folders: dict[str, Path], tmp_path: Path, refused: Refused) -> None:
    import pandas as pd

    place = listed(tmp_path / "mine", ["a photo of a dog", "a photo of two cats"])
    words = [f"scorer.geneval.detector={folders['mask2former']}", f"scorer.geneval.clip={folders['clip']}"]
    words += ["scorer.geneval.confidence=0.01", "model.device=cpu", "score.scorers=[geneval]"]
    assert main(["score", f"score.source={place}", *words]) == 0
    rows = pd.read_parquet(tmp_path / "mine-scores.parquet")
    assert set(rows["geneval"]) <= {0.0, 1.0}
    texts = ["a red circle above a square", "a red circle"]
    place = listed(tmp_path / "others", texts)
    words = [
        f"scorer.spatial_owlv2.path={folders['owlv2']}",
        "model.device=cpu",
        "score.scorers=[spatial_owlv2]",
    ]
    assert "'a red circle' says of no two things" in refused(["score", f"score.source={place}", *words])
    place = listed(tmp_path / "right", texts[:1])
    words[0] = f"scorer.spatial_owlv2.path={folders['detr']}"
    assert "is no OWLv2: its config.json says model_type=detr" in refused(
        ["score", f"score.source={place}", *words]
    )


def test_geneval_looks_at_no_more_than_the_picture(folders: dict[str, Path]) -> None:
    """A box that ends up without a pixel is looked at by one."""
    thing = Detection("dog", 0.9, (63.8, 47.9, 64.0, 48.0))
    assert geneval_judge._cut_out(torch.rand(3, 48, 64), thing).shape == (1, 3, 1, 1)
