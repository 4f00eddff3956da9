"""Whether a reward was hacked: told by scores that took no part in choosing, or said that there are none."""

from __future__ import annotations

from typing import Any

import pytest

from mitune.evaluate.watch import watched

UP = {"difference": 0.2, "ci95": [0.1, 0.3]}
DOWN = {"difference": -0.2, "ci95": [-0.3, -0.1]}
LEVEL = {"difference": 0.1, "ci95": [-0.1, 0.3]}
ONE = {"difference": -0.5, "ci95": None}  # of one prompt


@pytest.mark.parametrize(
    ("chooser", "witness", "hacked"),
    [
        (UP, DOWN, True),
        (UP, LEVEL, False),
        (LEVEL, DOWN, False),
        (DOWN, DOWN, False),
        (UP, UP, False),
        (UP, ONE, False),
    ],
)
def test_it_warns_only_where_what_chose_surely_rises_and_a_witness_surely_falls(
    chooser: dict[str, Any], witness: dict[str, Any], hacked: bool
) -> None:
    found = watched({"mi": chooser, "clip": witness, "n": 3}, ["mi"])
    assert (found["hacked"], found["witnesses"], found["chosen"]) == (hacked, ["clip"], ["mi"])
    assert ("may be hacked" in found["said"]) == hacked


def test_a_part_of_a_sum_that_chose_is_no_witness_nor_is_a_column_of_the_same_judge() -> None:
    cells = {"elbo": DOWN, "oracle": UP, "exact": DOWN, "clip": DOWN}
    found = watched(cells, ["combined", "oracle"], "z(contrast)+z(elbo)")
    assert found["witnesses"] == ["clip"]
    assert (found["rising"], found["falling"], found["hacked"]) == (["oracle"], ["clip"], True)


def test_no_witness_no_measure_of_what_chose_and_no_choice_are_said() -> None:
    assert "no witness" in watched({"mi": UP}, ["mi"])["said"]
    said = watched({"clip": DOWN}, ["mi"])["said"]
    assert "took no part in choosing: clip" in said
    assert "falling: clip −0.200 [−0.300, −0.100]" in said
    assert "what chose (mi) was not measured" in said
    assert watched({"clip": DOWN}, ["random"])["said"] == "no score chose what was trained on"


def test_cells_may_be_told_by_other_names_than_their_judges() -> None:
    found = watched({"color": UP, "complex": DOWN}, ["clip"], judges={"color": "clip", "complex": "jpeg"})
    assert (found["witnesses"], found["hacked"]) == (["complex"], True)
