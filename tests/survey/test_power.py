"""The planned power is the one that simulated studies have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mitune.survey.power import comparing, people_needed, planned, power, rounds_needed


@pytest.mark.parametrize(
    ("difference", "people", "rounds", "differ", "alike"),
    [(0.1, 40, 10, 0.5, 0.05), (0.15, 20, 8, 0.5, 0.2), (0.3, 12, 3, 0.7, 0.0), (0.08, 60, 20, 0.3, 0.3)],
)
def test_the_power_is_that_of_simulated_studies(
    difference: float, people: int, rounds: int, differ: float, alike: float
) -> None:
    """A person's chances (the one alone, the other alone, else) come from a Dirichlet distribution of correlation ρ."""
    studies, rng = 4000, np.random.default_rng(0)
    mean = np.array([(differ + difference) / 2, (differ - difference) / 2, 1 - differ])
    if alike:
        chances = rng.dirichlet(mean * (1 / alike - 1), size=(studies, people))
    else:
        chances = np.broadcast_to(mean, (studies, people, 3))
    counts = rng.multinomial(rounds, chances)
    each = (counts[..., 0] - counts[..., 1]) / rounds
    t = each.mean(1) / (each.std(1, ddof=1) / math.sqrt(people))
    found = float((t > stats.t.ppf(0.975, people - 1)).mean())
    said = power(difference, people, rounds, differ, alike)
    # The differences of persons are not quite normal: 0.01 for that, beside the Monte Carlo error.
    assert abs(found - said) < 3 * math.sqrt(said * (1 - said) / studies) + 0.01


def test_those_needed_are_the_fewest() -> None:
    people = people_needed(0.8, 0.1, 10)
    assert people is not None
    assert power(0.1, people - 1, 10) < 0.8 <= power(0.1, people, 10)
    rounds = rounds_needed(0.8, 0.1, people)
    assert rounds is not None
    assert power(0.1, people, rounds - 1) < 0.8 <= power(0.1, people, rounds)
    assert rounds <= 10


def test_of_persons_who_are_alike_within_no_number_of_rounds_is_enough() -> None:
    assert rounds_needed(0.9, 0.05, 10, alike=0.3) is None
    assert people_needed(0.9, 1e-4, 1) is None
    said = planned(0.05, 10, 10, 1.0, 0.5, 0.3)
    assert said["needed"]["0.9"]["rounds"] is None
    assert power(0.1, 1, 100) == 0.0


def test_two_given_methods_meet_in_a_part_of_the_rounds() -> None:
    assert comparing("methods", 3, 3) == 1
    assert comparing("pairs", 4, 2) == pytest.approx(1 / 6)
    assert comparing("agree", 2, 1) == 0.5
    assert comparing("agree", 1, 1) == 1
