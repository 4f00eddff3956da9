"""Who took part, and what they chose: the rows of the answers' database. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ANSWERS = "answers.sqlite"  # in the survey folder


@dataclass(frozen=True)
class Participant:
    """A person who was invited, or came by the open link. Times are in seconds since 1970, UTC.

    Attributes:
        code: random; the secret part of this person's link, not for an export.
        number: which plan this person has (:func:`mitune.survey.design.plan_of`); given with the consent, None before.
        group, language: "" where the survey has no groups.
        invited: when the link was made.
        consented: when this person agreed to take part, or None.
        finished: when the last round was answered for the first time, or None.
    """

    code: str
    number: int | None
    group: str
    language: str
    invited: float
    consented: float | None
    finished: float | None


@dataclass(frozen=True)
class Answer:
    """An answer is what a person chose in a round, the last time that it was answered.

    Attributes:
        participant: the code.
        number, group: the participant's.
        round: its id.
        shown: the ids of the pictures, in the order in which they were shown.
        chosen: ids of them, in that order; none may be chosen.
        seconds: that the round was looked at, up to its first answer.
        saved: when the last answer was saved, in seconds since 1970.
    """

    participant: str
    number: int
    group: str
    round: str
    shown: tuple[str, ...]
    chosen: tuple[str, ...]
    seconds: float
    saved: float


def is_url(place: str | Path) -> bool:
    """Tell a database's URL from a folder."""
    return "://" in str(place)
