"""How a survey stands: who came how far, what was chosen how often, and whether the stop rule is met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mitune.survey.answers import Answer, Participant
from mitune.survey.design import ROUND, Survey

_DRAWS = 1000
_FEW = 10  # participants: below it the bootstrap has too few people to draw from
_Z = 1.959964


@dataclass(frozen=True)
class Share:
    """Holds how often the pictures of a score or method were chosen.

    Attributes:
        chosen, shown: answers.
        low, high: of the 95 % interval.
    """

    name: str
    chosen: int
    shown: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of the answers in which it could be chosen."""
        return self.chosen / self.shown if self.shown else math.nan

    @property
    def half_width(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class GroupProgress:
    """Holds how many people of a group were invited or came, consented and finished."""

    name: str
    invited: int
    consented: int
    finished: int


@dataclass(frozen=True)
class Progress:
    """Holds how a survey stands.

    Attributes:
        groups: all people first, under the name "".
        answers: those of rounds that count.
        seconds: the median time of them.
        shares: a row a name.
    """

    groups: tuple[GroupProgress, ...]
    answers: int
    seconds: float
    shares: tuple[Share, ...]

    @property
    def widest(self) -> float:
        """The half-width of the widest interval; infinite while one has no answers."""
        widths = [one.half_width if one.shown else math.inf for one in self.shares]
        return max(widths, default=math.inf)


def progress_of(survey: Survey, people: Sequence[Participant], answers: Sequence[Answer]) -> Progress:
    """Count and estimate. Nobody is left out here: that is the report's."""
    counted = {one.id for one in survey.rounds if one.kind == ROUND}
    own = [one for one in answers if one.round in counted]
    groups = [_group("", people)]
    groups += [_group(name, [one for one in people if one.group == name]) for name in survey.groups]
    seconds = statistics.median(one.seconds for one in own) if own else math.nan
    return Progress(tuple(groups), len(own), seconds, shares(survey, own))


def _group(name: str, people: Sequence[Participant]) -> GroupProgress:
    consented = sum(one.consented is not None for one in people)
    return GroupProgress(name, len(people), consented, sum(one.finished is not None for one in people))


def shares(survey: Survey, answers: Sequence[Answer]) -> tuple[Share, ...]:
    """Give the share of each name with its 95 % interval: a cluster bootstrap over participants, always of the same
    seed; for fewer than 10 people Wilson's, as if each had answered once, which is too wide rather than too narrow.
    """
    shows = {picture.id: {*picture.shows} for one in survey.rounds for picture in one.pictures}
    rows = {code: place for place, code in enumerate(dict.fromkeys(one.participant for one in answers))}
    chosen = np.zeros((len(rows), len(survey.names)))
    shown = np.zeros_like(chosen)
    for one in answers:
        for column, name in enumerate(survey.names):
            row = rows[one.participant]
            shown[row, column] += any(name in shows.get(picture, ()) for picture in one.shown)
            chosen[row, column] += any(name in shows.get(picture, ()) for picture in one.chosen)
    bounds = _bootstrap(chosen, shown) if len(rows) >= _FEW else _wilson(chosen, shown)
    return tuple(
        Share(name, int(chosen[:, column].sum()), int(shown[:, column].sum()), *map(float, bounds[:, column]))
        for column, name in enumerate(survey.names)
    )


def _bootstrap(chosen: np.ndarray, shown: np.ndarray) -> np.ndarray:
    people = len(chosen)
    drawn = np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), size=_DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn_shares = (drawn @ chosen) / (drawn @ shown)
    found = np.full((2, chosen.shape[1]), np.nan)
    for column in np.flatnonzero(shown.sum(0)):
        found[:, column] = np.nanquantile(drawn_shares[:, column], (0.025, 0.975))
    return found


def _wilson(chosen: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(low, high) by name, with as many trials as there are people who saw it."""
    people = (shown > 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = chosen.sum(0) / shown.sum(0)
        centre = (share + _Z**2 / (2 * people)) / (1 + _Z**2 / people)
        half = _Z / (1 + _Z**2 / people) * np.sqrt(share * (1 - share) / people + _Z**2 / (4 * people**2))
    return np.stack([centre - half, centre + half])
