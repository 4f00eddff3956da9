"""T2I-CompBench's 3-in-1 is the mean of what a prompt's list asks for; its three judges have tests of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mitune.english import Word
from mitune.errors import UserError
from mitune.referees import three_in_one
from mitune.referees.three_in_one import about, combined, without_adjectives
from mitune.referees.weighted import load_reward
from tests.referees.conftest import Detectors, pictures, settings
from tests.referees.small_blips import SIDE, build_blip

CASES = 300


def test_scores_are_those_of_the_plain_rule_to_the_last_digit():
    rng = np.random.default_rng(7)
    for _ in range(CASES):
        a, s, c = (float(one) for one in rng.random(3))
        assert repr(combined("spatial", a, s, c)) == repr((s + a) * 0.5)
        assert repr(combined("action", a, s, c)) == repr((c + a) * 0.5)
        assert repr(combined("both", a, s, c)) == repr((a + s + c) / 3)


def test_a_prompt_of_no_list_is_about_places_where_it_names_a_relation():
    assert about("a red circle above a square and a cross") == "both"
    assert about("a circle far from a square") == "action"  # a relation that the benchmark's rule lacks
    assert about("the red cat sits near the dog", "spacy") == "both"
    assert about("the red cat eats") == "action"


def test_clip_reads_prompts_without_adjectives(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(prompt: str) -> list[Word]:
        return [Word(text, 0, 0, "ADJ" if text in ("red", "big") else "X") for text in prompt.split(" ")]

    monkeypatch.setattr(three_in_one, "words", words)
    assert without_adjectives("The big red cat sleeps .") == "The cat sleeps ."
    assert (
        without_adjectives("a big red circle above a square and a dotted cross")
        == "a circle above a square and a cross"
    )


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, detector_folders: Detectors, clip_folder: Path):
    blip = build_blip(tmp_path_factory.mktemp("three") / "vqa", "BlipForQuestionAnswering")
    section = settings()
    own = {"blip": str(blip), "detector": str(detector_folders["owlv2"]), "clip": str(clip_folder)}
    section["three_in_one"] |= {**own, "side": SIDE, "confidence": 0.0, "phrases": "world"}
    return section, load_reward("three_in_one", section)


def test_it_is_the_mean_of_the_three_judges(judge) -> None:
    section, reward = judge
    shown = pictures(3, 40, 60)
    prompts = [
        "a red circle above a square",
        "a circle touching a big triangle",
        "a green cross and a square",
    ]
    own = section["three_in_one"]
    parts = {
        "blip_vqa": {"path": own["blip"], "side": SIDE, "phrases": "world"},
        "spatial_owlv2": {"path": own["detector"], "confidence": 0.0, "form": "complex"},
        "clip": {"path": own["clip"], "form": "cosine"},
    }
    for name, keys in parts.items():
        section[name] |= keys
    a = load_reward("blip_vqa", section).score(shown, prompts)
    s = load_reward("spatial_owlv2", section).score(shown[:2], prompts[:2])
    plain = ["a circle above a square", "a circle touching a triangle", "a cross and a square"]
    c = load_reward("clip", section).score(shown, plain)
    wanted = torch.stack([(a[0] + s[0] + c[0]) / 3, (a[1] + s[1] + c[1]) / 3, (a[2] + c[2]) / 2])
    torch.testing.assert_close(reward.score(shown, prompts), wanted, atol=2e-5, rtol=0)
    listed = reward.detailed(shown, prompts, [{"about": "spatial"}, {"about": "action"}, {"about": "both"}])
    wanted = [(a[0] + s[0]) / 2, (a[1] + c[1]) / 2, (a[2] + c[2]) / 3]
    assert [one["value"] for one in listed] == pytest.approx([float(one) for one in wanted], abs=2e-5)
    assert reward.identity.count("@") == 3


def test_what_is_not_there_is_named_by_its_own_key(judge, tmp_path: Path) -> None:
    section, _ = judge
    for key in ("blip", "detector", "clip"):
        changed = {**section, "three_in_one": {**section["three_in_one"], key: "nowhere at all"}}
        with pytest.raises(UserError, match=rf"^scorer\.three_in_one\.{key}=nowhere at all is neither"):
            load_reward("three_in_one", changed)
    changed = {
        **section,
        "three_in_one": {**section["three_in_one"], "blip": section["three_in_one"]["clip"]},
    }
    with pytest.raises(UserError, match=r"^scorer\.three_in_one\.blip=.* is no Blip"):
        load_reward("three_in_one", changed)


def test_words_that_cannot_be_found_are_refused_before_anything_is_drawn(judge) -> None:
    from mitune.information.scoring import check_judges

    section, _ = judge
    with pytest.raises(
        UserError, match=r"^scorers: the prompt 'a cat' is not of the embedded world's grammar"
    ):
        check_judges(["three_in_one"], ["a cat"], "scorers", {**section, "combined": ""})


def test_what_the_detector_cannot_find_is_refused_before_anything_is_drawn(
    judge, detector_folders: Detectors
) -> None:
    from mitune.information.scoring import check_judges

    section, _ = judge
    own = {**section["three_in_one"], "detector": str(detector_folders["detr"])}
    changed = {**section, "three_in_one": own, "combined": ""}
    check_judges(["three_in_one"], ["a circle and a square"], "scorers", changed)  # no places are judged
    with pytest.raises(
        UserError, match=r"^scorers: the prompt 'a circle above a square'.* cannot find 'circle'"
    ):
        check_judges(["three_in_one"], ["a circle above a square"], "scorers", changed)
    reward = load_reward("three_in_one", changed)
    reward.check_request(
        {"about": "action"}, "a circle above a square"
    )  # its list says that no place is judged
    with pytest.raises(UserError, match="cannot find 'circle'"):
        reward.check_request({"about": "spatial"}, "a circle above a square")


def test_a_side_that_cannot_be_is_named_by_its_own_key(judge) -> None:
    section, _ = judge
    changed = {**section, "three_in_one": {**section["three_in_one"], "side": 30}}
    with pytest.raises(UserError, match=r"^scorer\.three_in_one\.side=30 cannot be cut"):
        load_reward("three_in_one", changed)
