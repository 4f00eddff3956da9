"""People who answer by preferences that are known: what the tables should find is known, too.

A person's own chances are drawn around those of all people, so that the answers of one are alike: a Dirichlet
distribution over what may be chosen, of which the mean is the truth and the correlation between rounds ``alike``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mitune.survey.answers import Answer, Participant
from mitune.survey.blocks import blocks
from mitune.survey.design import ATTENTION, Picture, Round, Survey, place_of, plan_of
from mitune.survey.shares import marginals_of

Array = NDArray[np.float64]
_START = 1_700_000_000.0  # when the first one begins


@dataclass(frozen=True)
class Preferences:
    """Says what people choose.

    Attributes:
        combinations: of each category, the chances of all combinations of the names in binary order, [2^k]; ``""``: of
            a category that is not named.
        strengths: of Bradley and Terry, [k]: for rounds of pairs.
        alike: correlation between the rounds of a person, 0 to below 1.
        careless: share of persons who choose by chance and at once.
    """

    combinations: Mapping[str, Array] = field(default_factory=dict)
    strengths: Array | None = None
    alike: float = 0.05
    careless: float = 0.0

    def of(self, category: str) -> Array:
        """Give the chances of the combinations in a category."""
        return self.combinations.get(category, self.combinations.get("", np.ones(1)))

    def marginals(self, category: str) -> Array:
        """Give the chance that each name is chosen."""
        return marginals_of(self.of(category))


class Someone:
    """A person with preferences of his or her own."""

    def __init__(self, preferences: Preferences, names: Sequence[str], rng: np.random.Generator) -> None:
        self.preferences, self.names, self.rng = preferences, names, rng
        self.careless = bool(rng.random() < preferences.careless)
        self._own: dict[object, Array] = {}

    def choose(self, one: Round) -> tuple[str, ...]:
        """Choose pictures of a round, by their ids."""
        if self.careless:
            return tuple(own.id for own in one.pictures if self.rng.random() < 0.5)
        if one.right or one.kind == ATTENTION:
            return one.right
        if self.preferences.strengths is not None:
            return (self._of_two(one.pictures, self.preferences.strengths),)
        chances = self._drawn(one.category, self.preferences.of(one.category))
        number = int(self.rng.choice(len(chances), p=chances))
        taken = {name for place, name in enumerate(self.names) if number >> (len(self.names) - 1 - place) & 1}
        return tuple(own.id for own in one.pictures if taken & {*own.shows})

    def _of_two(self, pictures: Sequence[Picture], strengths: Array) -> str:
        first, second = sorted(pictures, key=lambda own: own.shows)
        one, other = (self.names.index(own.shows[0]) for own in (first, second))
        chance = 1 / (1 + math.exp(strengths[other] - strengths[one]))
        own = self._drawn((one, other), np.array([chance, 1 - chance]))
        return first.id if self.rng.random() < own[0] else second.id

    def _drawn(self, key: object, mean: Array) -> Array:
        """This person's own chances."""
        if key not in self._own:
            alike = self.preferences.alike
            self._own[key] = (
                mean if alike <= 0 else self.rng.dirichlet(np.maximum(mean * (1 / alike - 1), 1e-9))
            )
        return self._own[key]


def answered(
    survey: Survey, people: int, preferences: Preferences, seed: int
) -> tuple[list[Participant], list[Answer]]:
    """Let so many people answer all their rounds, as :func:`mitune.survey.answers.read_answers` gives it."""
    participants, answers = [], []
    groups = survey.groups or ("",)
    for number in range(people):
        rng = np.random.default_rng([seed, number])
        someone = Someone(preferences, survey.names, rng)
        code = hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:16]
        group, now = groups[number % len(groups)], _START + 60.0 * number
        begun = now
        for one, pictures in plan_of(survey, number):
            seconds = 0.3 if someone.careless else float(rng.lognormal(1.8, 0.4))
            now += seconds
            shown = tuple(own.id for own in pictures)
            answers.append(Answer(code, number, group, one.id, shown, someone.choose(one), seconds, now))
        participants.append(Participant(code, number, group, survey.languages[0], begun, begun, now))
    return participants, answers


def made_up(
    kind: str,
    names: Sequence[str],
    prompts: int,
    rounds: int,
    participants: int,
    shown: int | None = None,
    categories: Sequence[str] = ("color",),
    groups: Sequence[str] = (),
    attention: bool = False,
    seed: int = 0,
) -> Survey:
    """Make a survey of pictures that there are not.

    Args:
        kind, names, groups, seed: of the survey.
        prompts, rounds, participants: as :func:`mitune.survey.blocks.blocks` takes them.
        shown: names in a round; all of them where it is not said.
        categories: that the prompts have in turn.
        attention: every participant has an attention check.
    """
    asked = blocks(prompts, len(names), shown or len(names), rounds, participants, seed)
    made: dict[object, Round] = {}
    for own in asked:
        for prompt, chosen in own:
            pictures = tuple(_picture(prompt, names[name]) for name in chosen)
            identity = _digest("round", prompt, chosen)[:12]
            category = categories[prompt % len(categories)]
            made[prompt, chosen] = Round(identity, f"prompt {prompt}", category, pictures)
    checks: tuple[Round, ...] = ()
    if attention:
        right, wrong = _picture(-1, ""), _picture(-2, "")
        checks = (
            Round(_digest("check")[:12], "check", categories[0], (right, wrong), ATTENTION, (right.id,)),
        )
    return Survey(
        kind=kind,
        title="made up",
        question="Which?",
        names=tuple(names),
        seed=seed,
        multiple=kind != "pairs",
        rounds=(*made.values(), *checks),
        blocks=tuple((*(made[item].id for item in own), *(one.id for one in checks)) for own in asked),
        groups=tuple(groups),
    )


def _picture(prompt: int, name: str) -> Picture:
    identity = _digest("picture", prompt, name)[:16]
    return Picture(identity, place_of(identity), (name,) if name else ())


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
