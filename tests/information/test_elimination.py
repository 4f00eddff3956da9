"""Who is still in the race for the best: chances against counting, and how often a Gaussian world loses a winner."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mitune.information.elimination import (
    Elimination,
    Forecast,
    add_up,
    chances,
    forecast,
    turns,
)


@pytest.mark.parametrize(
    ("times", "paired"), [(1, False), (2, False), (7, False), (8, True), (9, True), (50, False)]
)
def test_passes_hold_every_time_once_and_pairs_stay_together(times: int, paired: bool) -> None:
    found = turns(times, paired)
    assert sorted(itertools.chain(*found)) == list(range(times))
    if paired:
        for turn in found:
            assert all(at + 1 in turn or at + 1 == times for at in turn if at % 2 == 0)


def test_the_first_pass_is_spread_over_the_range() -> None:
    assert turns(7)[0] == [0, 2, 4]
    assert turns(16)[0] == [0, 4, 8]
    assert len(turns(50)) < 12  # many times are not as many passes


def test_chances_are_those_that_counting_gives() -> None:
    rng = np.random.default_rng(5)
    mean, spread = rng.normal(size=7), rng.uniform(0.3, 1.2, 7)
    found = chances(Forecast(mean, spread**2), 3, 1)
    drawn = mean + spread * rng.standard_normal((40_000, 7))
    place = np.argsort(np.argsort(-drawn, axis=1), axis=1)
    counted = ((place < 3) | (place == 6)).mean(0)
    assert np.abs(found - counted).max() < 4 * 0.5 / math.sqrt(40_000) + 0.005  # the quadrature's own
    assert found.sum() == pytest.approx(4, abs=0.02)


def test_a_score_known_to_the_end_is_foretold_as_it_is() -> None:
    gaps = np.random.default_rng(1).normal(size=(5, 7, 3))
    found = forecast(gaps, np.ones((5, 7), dtype=bool))
    np.testing.assert_allclose(found.mean, -np.log(np.exp(-gaps.sum(1)).sum(1)), atol=1e-12)
    assert not found.variance.any()


def test_a_sum_is_standardised_among_all_candidates() -> None:
    first, second = np.array([1.0, 2.0, 6.0]), np.array([3.0, 0.0, 3.0])
    known = np.zeros(3)
    found = add_up([(1.0, True, Forecast(first, known)), (0.5, False, Forecast(second, known))])
    np.testing.assert_allclose(found.mean, (first - 3) / first.std() + 0.5 * second)
    assert not found.variance.any()


def test_nobody_leaves_where_a_score_is_no_number() -> None:
    race = Elimination(4, 1, 0, 0.5)
    race.look(Forecast(np.array([0.0, 9.0, np.nan, 1.0]), np.full(4, 0.01)))
    assert race.running.all()
    few = forecast(np.zeros((2, 7, 1)), np.arange(7) < np.full((2, 1), 3))  # two say nothing of each other
    assert np.isnan(few.mean).all()


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize(("alike", "k", "losers"), [(0.0, 3, 0), (0.3, 3, 0), (0.8, 1, 0), (0.1, 2, 4)])
def test_as_many_winners_are_lost_as_the_level_allows(
    level: float, alike: float, k: int, losers: int
) -> None:
    """16 candidates, 8 times of falling spread and equal correlation, a mean of each time that all share."""
    rng = np.random.default_rng([17, int(100 * alike), k, losers])
    prompts, lost, spent = 50, [], 0
    for _ in range(prompts):
        common, own = rng.standard_normal((16, 1)), rng.standard_normal((16, 8))
        parts = (alike**0.5 * common + (1 - alike) ** 0.5 * own) * np.linspace(1, 0.3, 8) + 3 * rng.normal(
            size=8
        )
        race, there = Elimination(16, k, losers, level), np.zeros((16, 8), dtype=bool)
        for number, turn in enumerate(passes := turns(8)):
            there[np.ix_(np.flatnonzero(race.running), turn)] = True
            if number < len(passes) - 1:
                race.look(forecast(parts[:, :, None], there))
        order = np.argsort(-parts.sum(1))
        chosen = np.concatenate([order[:k], order[16 - losers :]])
        lost.append(1 - race.running[chosen].mean())
        spent += int(there.sum())
    error = float(np.std(lost)) / math.sqrt(prompts)
    assert np.mean(lost) < level + 3 * max(error, 0.01)
    assert spent < prompts * 16 * 8 * (0.95 if losers else 0.85)
