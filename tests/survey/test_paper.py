"""MI-Tune's printed Table 3 (appendix B): its eight combinations give its nine marginals exactly."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.survey import TABLE_3
from mitune.survey.answers import Answer, Participant
from mitune.survey.counting import count, people_of
from mitune.survey.shares import combinations, marginals, marginals_of
from mitune.survey.simulated import made_up

# Percent of rounds: rows 000, 001, …, 111 of (MI, BLIP-VQA, HPS); columns academic, random, students, average.
COMBINATIONS = np.array([
    [14.7, 16.9, 25.0, 18.9], [1.8, 14.0, 2.7, 6.2], [10.4, 22.0, 4.1, 12.2], [4.0, 7.4, 3.6, 5.0],
    [4.0, 10.6, 0.9, 5.2], [6.0, 2.5, 2.3, 3.6], [18.7, 10.6, 16.8, 15.4], [40.4, 16.0, 44.6, 33.7],
])  # fmt: skip
MARGINALS = np.array([[69.1, 39.7, 64.6, 57.8], [73.5, 56.0, 69.1, 66.2], [52.2, 39.9, 53.2, 48.2]])
GROUPS = ("academic", "random", "students")


def test_the_printed_combinations_give_the_printed_marginals() -> None:
    assert np.abs(marginals_of(COMBINATIONS[:, :3]) - MARGINALS[:, :3]).max() < 1e-9


def test_no_other_order_of_the_names_would_do() -> None:
    """So the order of the rows is known, though the circles that named them are lost."""
    for order in itertools.permutations(range(3)):
        bits = [[number >> 2 - place & 1 for place in order] for number in range(8)]
        moved = np.empty_like(COMBINATIONS)
        moved[[4 * one + 2 * other + last for one, other, last in bits]] = COMBINATIONS
        close = np.abs(marginals_of(moved[:, :3]) - MARGINALS[:, :3]).max() < 1e-9
        assert close == (order == (0, 1, 2))


def test_the_printed_averages_are_means_of_the_groups_and_not_pooled() -> None:
    assert np.abs(COMBINATIONS[:, :3].mean(1) - COMBINATIONS[:, 3]).max() <= 0.1 + 1e-9
    assert np.allclose(MARGINALS[:2, :3].mean(1), MARGINALS[:2, 3], atol=0.05)
    assert round(MARGINALS[2, :3].mean(), 1) == 48.4  # 48.2 is printed
    pooled = COMBINATIONS[:, :3] @ np.array([45, 35, 22]) / 102
    assert np.abs(pooled - COMBINATIONS[:, 3]).max() > 0.5


def test_the_benchmark_draws_from_the_printed_table() -> None:
    assert np.allclose(TABLE_3, COMBINATIONS[:, 3])


def test_our_table_of_such_answers_is_the_printed_one() -> None:
    """1000 answers of each group, in the printed shares to the tenth of a percent."""
    survey = made_up("best_of_scores", ("mi", "blip", "hps"), 10, 10, 1, groups=GROUPS)
    rounds, participants, answers = survey.rounds, [], []
    columns = np.round(10 * COMBINATIONS[:, :3]).astype(int)
    for column, group in enumerate(GROUPS):
        numbers = np.repeat(np.arange(8), columns[:, column])  # 1000 or 999, as they were rounded
        for person, own in enumerate(np.array_split(numbers, 100)):
            code = f"{group}{person}"
            participants.append(Participant(code, 0, group, "en", 0.0, 0.0, 1.0))
            for one, number in zip(rounds, own, strict=False):
                shown = tuple(picture.id for picture in one.pictures)
                chosen = tuple(name for bit, name in zip(f"{number:03b}", shown, strict=True) if bit == "1")
                answers.append(Answer(code, 0, group, one.id, shown, chosen, 5.0, 1.0))
    short = [group for column, group in enumerate(GROUPS) if columns[:, column].sum() < 1000]
    counted = count(survey, people_of(survey, participants, answers))
    assert counted.people == 300 - len(short)  # whose last one lacks an answer is left out
    found, single = combinations(counted), marginals(counted)
    assert found is not None
    assert np.abs(100 * found.value[:3].T - COMBINATIONS[:, :3]).max() < 0.6
    assert np.abs(100 * single.value[:3].T - MARGINALS[:, :3]).max() < 0.6
    assert np.allclose(found.value[3], found.value[:3].mean(0))
    assert np.allclose(marginals_of(found.value.T), single.value.T)
