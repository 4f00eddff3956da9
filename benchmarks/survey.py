"""How often the human study's intervals hold the truth, and its plan finds a difference: people whose preferences are
known answer many studies.

Table 3's own shares are the truth of the first: 102 people in three groups, ten rounds each. Of the second it is
shares that differ by category, with eight methods of which a round shows four; of the third strengths of Bradley and
Terry. The interval of each cell should hold its truth in 95 of 100 studies.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from mitune.survey.agreement import agree_with
from mitune.survey.counting import Counted, count, people_of
from mitune.survey.design import Survey
from mitune.survey.power import people_needed, power
from mitune.survey.shares import by_category, combinations, differences, marginals, marginals_of
from mitune.survey.simulated import Preferences, answered, made_up
from mitune.survey.strengths import strengths

Array = NDArray[np.float64]
LOW, HIGH = 0.93, 0.97  # of the studies, in which an interval holds the truth
# Table 3 of the paper: the average over its groups, in binary order of (MI, BLIP-VQA, HPS), percent.
TABLE_3 = (18.9, 6.2, 12.2, 5.0, 5.2, 3.6, 15.4, 33.7)
ALIKE = 0.1
STRENGTHS = (0.8, 0.2, -0.3, -0.7)
DIFFERENCE = 0.15


_made_up = functools.cache(made_up)


def held(found: Any, truth: Array) -> NDArray[np.bool_]:
    """Whether each interval holds the truth."""
    return (found.low <= truth) & (truth <= found.high)


def table_3(seed: int) -> dict[str, NDArray[np.bool_]]:
    """One study of three scores, in three groups."""
    truth = np.array(TABLE_3) / sum(TABLE_3)
    survey = _made_up(
        "best_of_scores", ("mi", "blip", "hps"), 60, 10, 102, groups=("academic", "random", "students")
    )
    counted = _counted(survey, 102, Preferences({"": truth}, alike=ALIKE), seed)
    found = combinations(counted)
    assert found is not None
    pairs, apart = differences(counted)
    single = marginals_of(truth)
    return {
        "combinations": held(found, truth),
        "marginals": held(marginals(counted), single),
        "differences": held(apart, np.array([single[one] - single[other] for one, other in pairs])),
        "areas": _area(counted, survey, truth),
    }


def _area(counted: Counted, survey: Survey, chances: Array) -> NDArray[np.bool_]:
    """Whether the interval of the area under the curve holds the truth, of a score that is 2, 1 and 0 of the names."""
    ranks = dict(zip(survey.names, (2.0, 1.0, 0.0), strict=True))
    scores = {
        (one.prompt, own.id): {"rank": ranks[own.shows[0]]} for one in survey.rounds for own in one.pictures
    }
    low, high = agree_with(counted, scores, alone=False)["rank"]["auc_ci95"]
    chosen = (np.arange(8)[:, None] >> np.array([2, 1, 0]) & 1).astype(bool)
    alone = np.einsum("c,ci,cj->ij", chances, chosen, ~chosen)  # i is chosen, and j is not
    truth = np.triu(alone).sum() / alone.sum()
    return np.array([low <= truth <= high])


def table_4(seed: int) -> dict[str, NDArray[np.bool_]]:
    """One study of eight methods by category, four in a round."""
    names, categories = tuple("abcdefgh"), ("color", "shape", "texture")
    rng = np.random.default_rng(7)
    chances = {name: rng.dirichlet(np.full(256, 0.5)) for name in categories}
    survey = _made_up("methods", names, 36, 12, 42, shown=4, categories=categories)
    counted = _counted(survey, 42, Preferences(chances, alike=ALIKE), seed)
    found = by_category(counted)
    return {
        "categories": np.array([
            held(own, marginals_of(chances[name]))[-1] for own, name in zip(found, counted.categories, strict=True)
        ])
    }  # fmt: skip


def pairs(seed: int) -> dict[str, NDArray[np.bool_]]:
    """One study of pairs."""
    truth = np.array(STRENGTHS)
    survey = _made_up("pairs", tuple("abcd"), 40, 15, 30, shown=2)
    found = strengths(_counted(survey, 30, Preferences(strengths=truth, alike=ALIKE), seed))
    return {"strengths": held(found, truth)}


def _counted(survey: Survey, people: int, preferences: Preferences, seed: int) -> Counted:
    return count(survey, people_of(survey, *answered(survey, people, preferences, seed)))


STUDIES: tuple[Callable[[int], dict[str, NDArray[np.bool_]]], ...] = (table_3, table_4, pairs)


def coverage(studies: int, first: int = 0) -> dict[str, NDArray[np.bool_]]:
    """For each table whether each study's intervals held the truth, [studies, …]."""
    found: dict[str, list[NDArray[np.bool_]]] = {}
    for make in STUDIES:
        for seed in range(first, first + studies):
            for name, own in make(seed).items():
                found.setdefault(name, []).append(own)
    return {name: np.array(own) for name, own in found.items()}


def found_share(studies: int, wanted: float = 0.8) -> tuple[int, float, float]:
    """(participants planned for a power, the power they have by the formula, share of studies that find it)."""
    # Two methods: one is chosen alone by 0.325, the other by 0.175, both or neither by a quarter each.
    differ, rounds = 0.5, 8
    chances = np.array([0.25, (differ - DIFFERENCE) / 2, (differ + DIFFERENCE) / 2, 0.25])
    people = people_needed(wanted, DIFFERENCE, rounds, differ, ALIKE)
    assert people is not None
    survey = _made_up("methods", ("a", "b"), 24, rounds, people)
    hits = 0
    for seed in range(studies):
        _, apart = differences(_counted(survey, people, Preferences({"": chances}, alike=ALIKE), seed))
        hits += bool(apart.low[-1, 0] > 0)
    return people, power(DIFFERENCE, people, rounds, differ, ALIKE), hits / studies


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings and figures."""
    figures = list(_figures(options.studies))
    return {"settings": common.settings_of(options, "device"), "comparisons": [], "figures": figures}


def _figures(studies: int) -> Iterator[dict[str, Any]]:
    for name, own in coverage(studies).items():
        cells = own.reshape(studies, -1).mean(0)
        error = math.sqrt(0.95 * 0.05 / studies)
        note = f"{len(cells)} cells, each {cells.min():.3f} to {cells.max():.3f}, Monte Carlo error {error:.3f} each"
        entry = common.figure(f"{name}: intervals that hold the truth", float(cells.mean()), "", LOW, note)
        yield entry | {"reached": bool(LOW <= cells.mean() <= HIGH), "cells": cells.tolist()}
    people, said, share = found_share(studies)
    error = math.sqrt(said * (1 - said) / studies)
    note = f"{people} people; {said:.3f} by the plan, Monte Carlo error {error:.3f}"
    entry = common.figure(f"a difference of {DIFFERENCE:g} found, planned for 0.8", share, "", None, note)
    yield entry | {"planned": said, "reached": bool(abs(share - said) <= 3 * error)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = common.parser("survey", __doc__, "survey", studies=(500, "of each kind"))
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
