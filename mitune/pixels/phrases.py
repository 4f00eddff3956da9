"""Phrases of a prompt: where in the text each is, which is its noun, and the prompt without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mitune.errors import UserError, short


@dataclass(frozen=True)
class Phrase:
    """A part of a prompt that names one thing: its text, and where it is.

    Attributes:
        text: as it stands in the prompt.
        start, stop: its characters.
        noun: the characters of its head noun within the prompt; a heatmap reads its columns.
    """

    text: str
    start: int
    stop: int
    noun: tuple[int, int]


@dataclass(frozen=True)
class Asked:
    """A prompt and the phrases that are looked for, in text order.

    >>> text = "a red circle and a blue square"
    >>> Asked(text, find(text, ["a blue square"])).phrases[0].start
    17
    """

    prompt: str
    phrases: tuple[Phrase, ...]


_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_AFTER = re.compile(r"\s(?:of|with|in|on|from|that|who|which|wearing|holding)\s", re.IGNORECASE)


def noun_of(text: str) -> tuple[int, int]:
    """Find the head noun of an English noun phrase: its last word, before "of", "with" and the like.

    >>> noun_of("a bowl of soup"), "a bowl of soup"[2:6]
    ((2, 6), 'bowl')
    """
    after = _AFTER.search(text)
    words = list(_WORD.finditer(text, 0, after.start() if after else len(text))) or list(_WORD.finditer(text))
    return (words[-1].start(), words[-1].end()) if words else (0, len(text))


def find(prompt: str, phrases: Sequence[str]) -> tuple[Phrase, ...]:
    """Find phrases in a prompt, whole words only, whatever their case; each place is used once, in the order given.

    UserError for a phrase that is not there (again), or is empty.
    """
    taken: list[tuple[int, int]] = []
    found = []
    for text in phrases:
        words = text.split()
        if not words:
            raise UserError(f"an empty phrase for the prompt {short(prompt)!r}; leave it out")
        together = r"\s+".join(map(re.escape, words))
        pattern = re.compile(rf"(?<!\w){together}(?!\w)", re.IGNORECASE)
        places = ((m.start(), m.end()) for m in pattern.finditer(prompt))
        place = next((p for p in places if all(p[1] <= low or p[0] >= high for low, high in taken)), None)
        if place is None:
            often = sum(1 for other in phrases if other.split() == words)
            again = f" {often} times" if often > 1 else ""
            raise UserError(
                f"the phrase {short(text)!r} is not{again} in the prompt {short(prompt)!r}; give words that stand there"
            )
        taken.append(place)
        start, stop = place
        low, high = noun_of(prompt[start:stop])
        found.append(Phrase(prompt[start:stop], start, stop, (start + low, start + high)))
    return tuple(found)


def phrases_of(prompt: str, source: str = "auto") -> tuple[Phrase, ...]:
    """Find the phrases of a prompt of the embedded world (a stand-in until the branch that has all is merged)."""
    from mitune.worlds.shapes.grammar import parse_prompt

    try:
        spec = parse_prompt(prompt)
    except ValueError as error:
        raise UserError(f"the prompt {short(prompt)!r}: {error}") from error
    return find(prompt, [str(thing) for thing in spec.objects])
