"""Whose answers count, by the rules that the survey stated beforehand, and the answers as arrays."""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitune.survey.answers import Answer, Participant
from mitune.survey.design import ATTENTION, PRACTICE, ROUND, Round, Survey, plan_of

COUNTED, NOT_BEGUN = "counted", "not begun"
UNFINISHED, INATTENTIVE, FAST = "unfinished", "attention failed", "too fast"
REASONS = (UNFINISHED, INATTENTIVE, FAST)
EVERYONE = "everyone"  # the group's name where there are none


@dataclass(frozen=True)
class Person:
    """A participant as the tables know one.

    Attributes:
        name: not the code, and not in the order of coming.
        group: or :data:`EVERYONE`.
        verdict: ``counted``, ``not begun``, or why left out.
        answers: by round.
    """

    name: str
    group: str
    language: str
    verdict: str
    answers: Mapping[str, Answer]


def people_of(survey: Survey, participants: Sequence[Participant], answers: Sequence[Answer]) -> list[Person]:
    """Judge the participants by the survey's rules, in an order that tells nothing."""
    own: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in answers:
        own[answer.participant][answer.round] = answer
    rounds = {one.id: one for one in survey.rounds}
    # Not in the order of the codes: a code may count up.
    ordered = sorted(
        participants, key=lambda one: hashlib.sha256(f"{survey.seed} {one.code}".encode()).digest()
    )
    return [
        Person(
            f"P{place:04d}",
            one.group or EVERYONE,
            one.language,
            _verdict(survey, rounds, one, own[one.code]),
            {name: answer for name, answer in own[one.code].items() if name in rounds},
        )
        for place, one in enumerate(ordered, 1)
    ]


def _verdict(
    survey: Survey, rounds: Mapping[str, Round], one: Participant, answers: Mapping[str, Answer]
) -> str:
    if one.consented is None or one.number is None:
        return NOT_BEGUN
    asked = [own for own, _ in plan_of(survey, one.number) if own.kind != PRACTICE]
    told = [own for own in asked if own.id in answers]
    rules = survey.rules
    if len(told) < rules.answered * len(asked) or not any(own.kind == ROUND for own in told):
        return UNFINISHED
    checks = [attends(survey, own, answers[own.id].chosen) for own in told if own.kind == ATTENTION]
    if checks and sum(checks) < rules.attention * len(checks):
        return INATTENTIVE
    if statistics.median(answers[own.id].seconds for own in told) < rules.seconds:
        return FAST
    return COUNTED


def attends(survey: Survey, one: Round, chosen: Sequence[str]) -> bool:
    """Tell whether what was chosen in an attention check is right: nothing else than right ones, and one of them where
    there are any."""
    return {*chosen} <= {*one.right} and bool(chosen) == bool(one.right)


@dataclass(frozen=True, eq=False)
class Counted:
    """The counted answers, a row each.

    Attributes:
        names: of the columns of ``shown`` and ``chosen``.
        groups, categories, prompts, pictures: what the numbers below count in.
        person_group: of each person, [people].
        person, category, prompt: of each answer, [answers].
        shown, chosen: whether a name's picture was shown, and chosen, [answers, names].
        picture: of each name where it was shown, else −1, [answers, names].
        seconds: [answers].
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    categories: tuple[str, ...]
    prompts: tuple[str, ...]
    pictures: tuple[str, ...]
    person_group: NDArray[np.int64]
    person: NDArray[np.int64]
    category: NDArray[np.int64]
    prompt: NDArray[np.int64]
    shown: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    picture: NDArray[np.int64]
    seconds: NDArray[np.float64]

    @property
    def people(self) -> int:
        """The number of persons."""
        return len(self.person_group)

    def summed(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Add the rows of ``values`` [answers, …] up by person: [people, …]."""
        total = np.zeros((self.people, *values.shape[1:]))
        np.add.at(total, self.person, values.astype(np.float64))
        return total


def count(survey: Survey, people: Sequence[Person]) -> Counted:
    """Put the answers of the counted persons to the counted rounds into arrays."""
    rounds = {one.id: one for one in survey.rounds if one.kind == ROUND}
    counted = [one for one in people if one.verdict == COUNTED]
    groups = tuple(survey.groups) or (EVERYONE,)
    groups += tuple(sorted({one.group for one in counted} - {*groups}))
    groups = tuple(name for name in groups if any(one.group == name for one in counted))
    rows = [
        (place, rounds[name], answer)
        for place, one in enumerate(counted)
        for name, answer in one.answers.items()
        if name in rounds
    ]
    categories = tuple(dict.fromkeys(one.category for one in rounds.values()))
    prompts = tuple(dict.fromkeys(one.prompt for one in rounds.values()))
    pictures = tuple(dict.fromkeys(own.id for one in rounds.values() for own in one.pictures))
    places = [
        {name: place for place, name in enumerate(own)}
        for own in (categories, prompts, pictures, survey.names)
    ]
    shown = np.zeros((len(rows), len(survey.names)), bool)
    chosen, picture = np.zeros_like(shown), np.full(shown.shape, -1)
    for row, (_, one, answer) in enumerate(rows):
        for own in one.pictures:
            for name in own.shows:
                column = places[3][name]
                shown[row, column], chosen[row, column] = True, own.id in answer.chosen
                picture[row, column] = places[2][own.id]
    return Counted(
        survey.names, groups, categories, prompts, pictures,
        np.array([groups.index(one.group) for one in counted], np.int64),
        np.array([place for place, _, _ in rows], np.int64),
        np.array([places[0][one.category] for _, one, _ in rows], np.int64),
        np.array([places[1][one.prompt] for _, one, _ in rows], np.int64),
        shown, chosen, picture,
        np.array([answer.seconds for _, _, answer in rows], np.float64),
    )  # fmt: skip
