from __future__ import annotations

import pytest

from mitune.evaluate.judged import caption, few, in_markdown, judged_by, judges_in_words

MADE = {"model": "small#1", "judges": {"clip": "some/clip@2"}}


def test_each_score_is_said_by_the_model_whose_number_it_is() -> None:
    found = judged_by(["mi", "oracle", "exact", "clip", "contrast+0.5*clip"], "", MADE)
    assert {name: (entry["judge"], entry["itself"]) for name, entry in found.items()} == {
        "mi": ("small#1", True),
        "oracle": ("oracle", False),
        "exact": ("oracle", False),
        "clip": ("some/clip@2", False),
        "contrast+0.5*clip": ("small#1 and some/clip@2", False),
    }


def test_a_score_that_chose_is_said_to_have_chosen() -> None:
    found = judged_by(["contrast", "elbo", "clip"], "z(contrast)+z(clip)", MADE, ["combined"])
    assert {name: entry["selected"] for name, entry in found.items()} == {
        "contrast": True,
        "elbo": False,
        "clip": True,
    }
    assert not any(entry["selected"] for entry in judged_by(["mi"], "", MADE, ["random"]).values())


def test_a_column_that_is_no_score_is_left_out() -> None:
    assert judged_by(["aesthetic_of_mine", "weight", "das"], "", MADE) == {}
    assert judged_by(["mi"], "", {})["mi"]["judge"] == "a model that is not noted"


def test_judges_are_told_a_line_each() -> None:
    found = judged_by(["mi", "elbo", "oracle", "clip"], "", MADE, ["elbo"])
    assert judges_in_words(found) == [
        "mi, elbo (it also selected): the model itself (small#1)",
        "oracle: the embedded world's oracle",
        "clip: some/clip@2",
    ]
    assert caption({}, None) == ""
    assert caption({}, 8) == "8 prompts: the interval is wide"
    assert caption({"clip": found["clip"]}, 300) == "judged by clip: some/clip@2"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(None, ""), (1, "1 prompt: no interval"), (29, "29 prompts: the interval is wide"), (30, "")],
)
def test_few_prompts_are_said_to_be_few(prompts: int | None, said: str) -> None:
    assert few(prompts) == said


def test_a_name_stays_text_in_markdown() -> None:
    (line, _) = in_markdown(judged_by(["mi"], "", {"model": "a`<b>`\x1b[2J|x"}))
    assert line.count("`") == 2
    assert line.startswith("`")
    assert line.endswith("`")
    assert "\x1b" not in line
