"""How a survey stands: who came how far, what was chosen how often, and how wide the intervals are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mitune.survey.answers import Answer, Participant
from mitune.survey.counting import COUNTED, REASONS, count, people_of
from mitune.survey.design import Survey
from mitune.survey.shares import marginals


@dataclass(frozen=True)
class Chosen:
    """Holds how often the pictures of a score or method were chosen: share and 95 % interval, NaN where none is known.

    Attributes:
        chosen, shown: answers.
    """

    name: str
    chosen: int
    shown: int
    share: float
    low: float
    high: float


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
        answers: all of them, practice and checks too.
        counted: people whose answers the report would count now.
        left_out: why the answers of others would not, {reason: people}.
        seconds: the median time of the answers that count.
        chosen: a row a name, by the people who count: the report's figures.
    """

    groups: tuple[GroupProgress, ...]
    answers: int
    counted: int
    left_out: Mapping[str, int]
    seconds: float
    chosen: tuple[Chosen, ...]

    @property
    def widest(self) -> float:
        """The half-width of the widest interval; infinite while one is not known."""
        widths = [(one.high - one.low) / 2 for one in self.chosen]
        return max((math.inf if math.isnan(width) else width for width in widths), default=math.inf)


def progress_of(survey: Survey, participants: Sequence[Participant], answers: Sequence[Answer]) -> Progress:
    """Count and estimate what there is."""
    groups = [_group("", participants)]
    groups += [_group(name, [one for one in participants if one.group == name]) for name in survey.groups]
    people = people_of(survey, participants, answers)
    verdicts = Counter(one.verdict for one in people)
    counted = count(survey, people)
    found = marginals(counted) if counted.people else None
    rows = []
    for place, name in enumerate(survey.names):
        chosen, shown = (int(own[:, place].sum()) for own in (counted.chosen, counted.shown))
        estimate = [math.nan] * 3
        if found is not None:
            estimate = [float(own[-1, place]) for own in (found.value, found.low, found.high)]
        rows.append(Chosen(name, chosen, shown, *estimate))
    seconds = statistics.median(counted.seconds.tolist()) if len(counted.seconds) else math.nan
    left_out = {reason: verdicts[reason] for reason in REASONS if verdicts[reason]}
    return Progress(tuple(groups), len(answers), verdicts[COUNTED], left_out, seconds, tuple(rows))


def _group(name: str, people: Sequence[Participant]) -> GroupProgress:
    consented = sum(one.consented is not None for one in people)
    return GroupProgress(name, len(people), consented, sum(one.finished is not None for one in people))
