"""Agreement of people with one another and with scores, held to examples worked out by others and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mitune.survey.agreement import agree_among, agree_with, alpha
from mitune.survey.counting import Counted, count, people_of
from mitune.survey.simulated import Preferences, answered, made_up
from tests.survey.test_intervals import counted_of


def test_alpha_is_the_one_of_the_worked_example() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part C: four observers, twelve units."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    values = np.zeros((12, 5))
    for row in rows:
        for unit, answer in enumerate(row):
            if answer is not None:
                values[unit, answer - 1] += 1
    assert alpha(values) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_one_where_all_agree_and_near_nothing_where_they_throw_dice() -> None:
    assert alpha(np.array([[5.0, 0.0], [0.0, 7.0], [3.0, 0.0]])) == 1.0
    assert math.isnan(alpha(np.array([[5.0, 0.0], [3.0, 0.0]])))  # nothing else was ever answered
    assert math.isnan(alpha(np.array([[1.0, 0.0], [0.0, 1.0]])))  # nobody judged what another did
    dice = np.random.default_rng(0).multinomial(20, [0.5, 0.5], size=2000).astype(float)
    assert abs(alpha(dice)) < 4 * 1 / math.sqrt(2000 * 190)  # pairs of answers


def test_people_of_pairs_agree_on_which_of_the_two() -> None:
    survey = made_up("pairs", ("a", "b"), 6, 6, 4, shown=2)
    own = {one: "ab"[place % 2] for place, one in enumerate(sorted(survey.blocks[0]))}
    found = agree_among(
        counted_of(survey, [[[own[name]] for name in block] for block in survey.blocks]), True
    )
    assert (found["alpha"], found["units"]) == (1.0, 6)


def counted(kind: str, shown: int | None = None) -> Counted:
    survey = made_up(kind, ("a", "b", "c"), 12, 8, 20, shown=shown)
    chances = np.random.default_rng(3).dirichlet(np.ones(8))
    return count(survey, people_of(survey, *answered(survey, 20, Preferences({"": chances}, alike=0.2), 1)))


def tables(own: Counted) -> tuple[dict[tuple[str, str], dict[str, float]], dict[tuple[str, str], list[bool]]]:
    """A score of each picture, and all answers about it."""
    rng = np.random.default_rng(0)
    asked: dict[tuple[str, str], list[bool]] = {}
    for row, name in zip(*np.nonzero(own.shown), strict=True):
        key = own.prompts[own.prompt[row]], own.pictures[own.picture[row, name]]
        asked.setdefault(key, []).append(bool(own.chosen[row, name]))
    return {key: {"s": float(rng.integers(0, 9))} for key in asked}, asked


def test_pictures_shown_alone_are_compared_over_all_prompts_as_scipy_does() -> None:
    own = counted("agree", shown=1)
    scores, asked = tables(own)
    found = agree_with(own, scores, alone=True)["s"]
    share = [np.mean(asked[key]) for key in scores]
    assert found["tau"] == pytest.approx(stats.kendalltau([v["s"] for v in scores.values()], share).statistic)
    yes, no = (
        [scores[key]["s"] for key in asked for one in asked[key] if one == own] for own in (True, False)
    )
    assert found["auc"] == pytest.approx(stats.mannwhitneyu(yes, no).statistic / len(yes) / len(no))
    assert found["tau_ci95"][0] < found["tau"] < found["tau_ci95"][1]
    assert found["auc_ci95"][0] < found["auc"] < found["auc_ci95"][1]


def test_pictures_of_a_round_are_compared_within_prompt_and_answer() -> None:
    own = counted("methods")
    scores, asked = tables(own)
    found = agree_with(own, scores, alone=False)["s"]
    taus, good, all_ = [], 0.0, 0
    for prompt in own.prompts:
        keys = [key for key in scores if key[0] == prompt]
        tau = stats.kendalltau([scores[k]["s"] for k in keys], [np.mean(asked[k]) for k in keys]).statistic
        taus += [tau] if math.isfinite(tau) else []
    for row in range(len(own.person)):
        values = [scores[own.prompts[own.prompt[row]], own.pictures[one]]["s"] for one in own.picture[row]]
        for one, first in zip(own.chosen[row], values, strict=True):
            for other, second in zip(own.chosen[row], values, strict=True):
                if one and not other:
                    good, all_ = good + (first > second) + 0.5 * (first == second), all_ + 1
    assert found["tau"] == pytest.approx(np.mean(taus))
    assert found["auc"] == pytest.approx(good / all_)
    assert found["auc_ci95"][0] < found["auc"] < found["auc_ci95"][1]


def test_a_score_that_people_follow_agrees_with_them_and_one_that_is_always_the_same_is_left_out() -> None:
    survey = made_up("methods", ("a", "b"), 6, 6, 5)
    own = counted_of(survey, [[["a"]] * 6] * 5)
    scores = {
        (one.prompt, picture.id): {"right": float(picture.shows == ("a",)), "same": 1.0}
        for one in survey.rounds
        for picture in one.pictures
    }
    found = agree_with(own, scores, alone=False)
    assert {*found} == {"right"}
    assert (found["right"]["tau"], found["right"]["auc"]) == (1.0, 1.0)
    assert agree_with(own, {}, alone=False) == {}
