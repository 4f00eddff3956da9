"""Shares, differences and strengths: what they are in closed form, and that their intervals hold the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.survey import coverage, found_share
from mitune.survey.answers import Answer, Participant
from mitune.survey.counting import Counted, count, people_of
from mitune.survey.design import Survey
from mitune.survey.shares import by_category, combinations, differences, gaps, marginals, marginals_of, shares
from mitune.survey.simulated import Preferences, answered, made_up
from mitune.survey.strengths import fit, strengths

STUDIES = 12
GROUP = np.zeros(30, np.int64)


def counted_of(survey: Survey, chosen: Sequence[Sequence[Sequence[str]]]) -> Counted:
    """Persons who choose these names, round by round."""
    participants, answers = [], []
    for number, own in enumerate(chosen):
        group = survey.groups[number % len(survey.groups)] if survey.groups else ""
        participants.append(Participant(f"c{number}", number, group, "en", 0.0, 0.0, 1.0))
        rounds = {one.id: one for one in survey.rounds}
        for name, names in zip(survey.blocks[number % len(survey.blocks)], own, strict=True):
            pictures = rounds[name].pictures
            taken = tuple(picture.id for picture in pictures if {*picture.shows} & {*names})
            answers.append(
                Answer(f"c{number}", number, group, name, tuple(p.id for p in pictures), taken, 5.0, 1.0)
            )
    return count(survey, people_of(survey, participants, answers))


def test_the_tables_count_what_was_chosen() -> None:
    survey = made_up("methods", ("a", "b"), 2, 2, 2, categories=("x", "y"), groups=("g", "h"))
    counted = counted_of(survey, [(["a"], ["a", "b"]), ([], ["b"])])
    single, all_ = marginals(counted), combinations(counted)
    assert all_ is not None
    assert single.value.tolist() == [[1.0, 0.5], [0.0, 0.5], [0.5, 0.5]]  # g, h, their mean
    assert all_.value.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0], [0.25] * 4]
    pairs, apart = differences(counted)
    assert (pairs, apart.value.tolist()) == ([(0, 1)], [[0.5], [-0.5], [0.0]])
    assert math.isnan(apart.low[0, 0])  # of one person nothing is known of the spread
    assert math.isnan(single.low[0, 0])
    assert sorted(found.value[2].tolist() for found in by_category(counted))[0][0] <= 0.5


def test_a_mean_of_groups_counts_each_the_same_whatever_their_sizes() -> None:
    top = np.array([[10.0]] * 3 + [[0.0]] * 27)
    group = np.array([0] * 3 + [1] * 27)
    found = shares(top, np.full((30, 1), 10.0), group)
    assert found.value[:, 0].tolist() == [1.0, 0.0, 0.5]


def test_of_independent_answers_the_interval_is_wilsons() -> None:
    """One answer a person: no clusters, so the interval is that of the textbook with Student's quantile."""
    from scipy import stats

    top = (np.arange(200) < 60).astype(float)[:, None]
    found = shares(top, np.ones((200, 1)), np.zeros(200, np.int64), draws=10_000)
    t, n, p = stats.t.ppf(0.975, 199), 199, 0.3  # the sample's variance is of n − 1
    middle, reach = (p + t**2 / 2 / n), t * math.sqrt(p * (1 - p) / n + t**2 / 4 / n**2)
    expected = [(middle - reach) / (1 + t**2 / n), (middle + reach) / (1 + t**2 / n)]
    # The variance of 10,000 draws is known to a hundredth.
    assert [found.low[0, 0], found.high[0, 0]] == pytest.approx(expected, abs=0.003)


def test_answers_that_are_alike_widen_the_interval() -> None:
    mixed = np.tile([[5.0]], (30, 1))
    mixed[::2], mixed[1::2] = 4.0, 6.0
    alike = np.where(np.arange(30)[:, None] % 2, 10.0, 0.0)
    bottom = np.full((30, 1), 10.0)
    narrow, wide = (shares(top, bottom, GROUP) for top in (mixed, alike))
    assert narrow.value[0, 0] == wide.value[0, 0] == 0.5
    assert (wide.high - wide.low)[0, 0] > 3 * (narrow.high - narrow.low)[0, 0]


def test_what_nobody_chose_has_an_interval_too() -> None:
    top = np.hstack([np.zeros((30, 1)), np.random.default_rng(0).binomial(10, 0.4, (30, 1))]).astype(float)
    found = shares(top, np.full((30, 2), 10.0), GROUP)
    assert found.low[0, 0] == 0.0
    assert 0.005 < found.high[0, 0] < 0.05  # 3/300 is the rule of thumb


def test_a_difference_of_pictures_shown_alone_is_one_of_two_shares() -> None:
    survey = made_up("agree", ("a", "b"), 8, 8, 20, shown=1)
    counted = counted_of(survey, [[["a"]] * 8] * 20)
    _, apart = differences(counted, alone=True)
    assert apart.value[0, 0] == 1.0
    assert combinations(counted) is None


def test_a_gap_that_is_always_the_same_is_certain() -> None:
    found = gaps([(np.full((30, 1), 2.0), np.full((30, 1), 10.0))], GROUP)
    assert found.low[0, 0] == pytest.approx(0.2)
    assert found.high[0, 0] == pytest.approx(0.2)


def test_two_strengths_are_the_logit_of_the_share() -> None:
    theta = fit(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert theta[0] - theta[1] == pytest.approx(math.log((30 + 0.01) / (10 + 0.01)))
    assert theta.sum() == pytest.approx(0)


def test_strengths_are_where_minorisation_and_maximisation_ends() -> None:
    """Hunter's MM algorithm (2004): p_i = w_i / Σ_j n_ij / (p_i + p_j)."""
    wins = np.random.default_rng(1).integers(1, 30, (5, 5)).astype(float) * (1 - np.eye(5))
    own = wins + 0.01 * (1 - np.eye(5))
    p = np.ones(5)
    for _ in range(5000):
        games = own + own.T
        p = own.sum(1) / (games / (p[:, None] + p[None])).sum(1)
        p /= p.sum()
    expected = np.log(p) - np.log(p).mean()
    assert fit(wins) == pytest.approx(expected, abs=1e-8)
    assert fit(np.stack([wins, wins.T]))[1] == pytest.approx(fit(wins.T))


def test_who_never_lost_has_a_strength_that_is_a_number() -> None:
    theta = fit(np.array([[0.0, 9.0, 9.0], [0.0, 0.0, 5.0], [0.0, 4.0, 0.0]]))
    assert np.isfinite(theta).all()
    assert theta.argmax() == 0


def test_a_tie_is_half_a_win_each() -> None:
    survey = made_up("pairs", ("a", "b"), 4, 4, 2, shown=2)
    found = strengths(counted_of(survey, [[["a"], ["a"], [], []], [["a"], ["b"], [], ["a"]]]))
    assert found is not None
    assert found.wins.tolist() == [[0.0, 5.5], [2.5, 0.0]]


def test_simulated_people_choose_as_they_prefer() -> None:
    chances = np.array([0.1, 0.2, 0.3, 0.4])
    survey = made_up("methods", ("a", "b"), 20, 20, 10)
    counted = count(
        survey, people_of(survey, *answered(survey, 400, Preferences({"": chances}, alike=0.2), 0))
    )
    found = combinations(counted)
    assert found is not None
    # 400 persons of 20 rounds: each worth 20 / (1 + 19 · 0.2).
    error = np.sqrt(chances * (1 - chances) / (400 * 20 / 4.8))
    assert (np.abs(found.value[0] - chances) < 4 * error).all()
    assert marginals(counted).value[0] == pytest.approx(marginals_of(found.value[0]))


def test_intervals_hold_the_truth() -> None:
    """A smaller one of ``benchmarks/survey.py``: of all cells of a table together, whose studies are independent and
    cells are not, so that the error is taken from the studies."""
    for name, own in coverage(STUDIES).items():
        each = own.reshape(STUDIES, -1).mean(1)
        error = max(each.std(ddof=1), math.sqrt(0.95 * 0.05 / own[0].size)) / math.sqrt(STUDIES)
        assert 0.93 - 4 * error < each.mean() < 0.97 + 4 * error, name


@pytest.mark.exhaustive
@pytest.mark.slow
def test_intervals_hold_the_truth_in_500_studies_and_power_is_as_planned() -> None:
    for name, own in coverage(500, first=1000).items():
        assert 0.93 <= own.mean() <= 0.97, name
    _, said, share = found_share(500)
    assert abs(share - said) < 3 * math.sqrt(said * (1 - said) / 500)
