"""Who is counted: by the rules that the survey stated beforehand."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from mitune.survey.analysis import analysed
from mitune.survey.answers import Answer, Participant
from mitune.survey.counting import (
    COUNTED,
    FAST,
    INATTENTIVE,
    NOT_BEGUN,
    UNFINISHED,
    attends,
    count,
    people_of,
)
from mitune.survey.design import ATTENTION, Rules, Survey, plan_of
from mitune.survey.simulated import Preferences, answered, made_up

SURVEY = made_up("methods", ("a", "b"), 5, 5, 3, attention=True)


def answers_of(
    survey: Survey, attentive: bool = True, share: float = 1.0, seconds: float = 4.0, consented: bool = True
) -> tuple[Participant, list[Answer]]:
    """One person, who answers so many of the rounds, each in so many seconds."""
    plan = plan_of(survey, 0)
    made = [
        Answer(
            "code", 0, "", one.id, tuple(p.id for p in pictures), one.right if attentive else (), seconds, 1.0
        )
        for one, pictures in plan[: round(share * len(plan))]
    ]
    person = Participant("code", 0 if consented else None, "", "en", 0.0, 0.0 if consented else None, None)
    return person, made if consented else []


def verdict(survey: Survey = SURVEY, **how: float | bool) -> str:
    person, made = answers_of(survey, **how)  # type: ignore[arg-type]
    (found,) = people_of(survey, [person], made)
    return found.verdict


def test_each_rule_leaves_out_whom_it_means() -> None:
    assert verdict() == COUNTED
    assert verdict(consented=False) == NOT_BEGUN
    assert verdict(share=0.5) == UNFINISHED
    assert verdict(share=0.0) == UNFINISHED
    assert verdict(attentive=False) == INATTENTIVE
    assert verdict(seconds=0.4) == FAST


def test_the_rules_are_the_surveys_own() -> None:
    lenient = dataclasses.replace(SURVEY, rules=Rules(attention=0.0, answered=0.5, seconds=0.0))
    assert verdict(lenient, share=0.5) == COUNTED
    assert verdict(lenient, attentive=False) == COUNTED
    assert verdict(lenient, seconds=0.01) == COUNTED
    strict = dataclasses.replace(SURVEY, rules=Rules(seconds=10.0))
    assert verdict(strict) == FAST


@pytest.mark.parametrize(
    ("chosen", "attentive"),
    [([], False), (["r"], True), (["r", "s"], True), (["w"], False), (["r", "w"], False)],
)
def test_who_attends_chooses_a_right_picture_and_none_of_another_prompt(
    chosen: list[str], attentive: bool
) -> None:
    check = next(one for one in SURVEY.rounds if one.kind == ATTENTION)
    assert attends(SURVEY, dataclasses.replace(check, right=("r", "s")), chosen) == attentive


def test_a_wrong_picture_alone_is_not_to_be_chosen() -> None:
    check = dataclasses.replace(next(one for one in SURVEY.rounds if one.kind == ATTENTION), right=())
    assert attends(SURVEY, check, [])
    assert not attends(SURVEY, check, [check.pictures[0].id])


def test_the_report_says_who_was_left_out_and_why() -> None:
    participants, answers = answered(SURVEY, 60, Preferences({}, careless=0.5), 0)
    invited = Participant("late", None, "", "en", 0.0, None, None)
    found = analysed(SURVEY, [*participants, invited], answers)
    (row,) = found["people"]
    assert row["participants"] == 61
    assert row[NOT_BEGUN] == 1
    assert row[INATTENTIVE] + row[FAST] > 10
    assert sum(row[name] for name in (COUNTED, NOT_BEGUN, UNFINISHED, INATTENTIVE, FAST)) == 61
    assert found["answers"] == 5 * row[COUNTED]
    assert found["time"][-1]["median"] > 1


def test_attention_checks_practice_and_rounds_of_another_survey_are_in_no_table() -> None:
    person, made = answers_of(SURVEY)
    strange = dataclasses.replace(made[0], round="ffffffffffff")
    people = people_of(SURVEY, [person], [*made, strange])
    assert len(count(SURVEY, people).person) == 5


def test_persons_are_numbered_without_their_codes_and_not_in_the_order_of_coming() -> None:
    participants, answers = answered(SURVEY, 30, Preferences({}), 0)
    people = people_of(SURVEY, participants, answers)
    assert Counter(one.name for one in people) == Counter(f"P{place:04d}" for place in range(1, 31))
    came = [next(iter(one.answers.values())).number for one in people]
    assert came != sorted(came)
    assert people == people_of(SURVEY, participants[::-1], answers)


def test_without_answers_there_is_a_report_that_says_so() -> None:
    found = analysed(SURVEY, [], [])
    assert found["answers"] == 0
    assert "marginals" not in found
