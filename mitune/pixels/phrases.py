"""Phrases of a prompt: where in the text each is, which is its noun, and the prompt without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mitune.english import noun_chunks
from mitune.errors import UserError, check_known, short
from mitune.pixels.catalogue import SOURCES
from mitune.pixels.leaving_out import leave_out, of_pictures
from mitune.worlds.shapes.grammar import PromptSpec, parse_prompt


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


_NAMING = ("NOUN", "PROPN", "NUM", "X")  # of the heads of chunks: no pronouns
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

    Longer phrases choose first: "dog" is not the dog of "hot dog" where both are asked for.
    UserError for a phrase that is not there (again), or is empty.
    """
    taken: list[tuple[int, int]] = []
    found: dict[int, Phrase] = {}
    for number in sorted(range(len(phrases)), key=lambda number: -len(phrases[number].split())):
        text = phrases[number]
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
        found[number] = Phrase(prompt[start:stop], start, stop, (start + low, start + high))
    return tuple(found[number] for number in range(len(phrases)))


def phrases_of(prompt: str, source: str = "auto") -> tuple[Phrase, ...]:
    """Find the phrases of a prompt that name things, in text order: by the embedded world's grammar, or by spaCy.

    Words of the picture itself ("a photo", "the left") are none. ``source``: one of ``SOURCES``.

    UserError for a prompt that is not of the grammar where that alone was asked for, and where spaCy or its English
    model is wanted and not installed.

    >>> [phrase.text for phrase in phrases_of("a red circle above a square")]
    ['a red circle', 'a square']
    """
    check_known("phrases", source, SOURCES)
    if source != "spacy":
        try:
            return _of_world(prompt, parse_prompt(prompt))
        except ValueError as error:
            if source == "world":
                raise UserError(
                    f"the prompt {short(prompt)!r} is not of the embedded world's grammar ({error}); have its phrases"
                    " found by spacy"
                ) from error
    try:
        found = [
            Phrase(prompt[one.start : one.stop], one.start, one.stop, (one.head.start, one.head.stop))
            for one in noun_chunks(prompt)
            if one.head.kind in _NAMING and not of_pictures(one.head.text)
        ]
    except UserError as error:
        raise UserError(f"the phrases of the prompt {short(prompt)!r}: {error}") from error
    return tuple(found)


def without(prompt: str, phrase: Phrase) -> str:
    """Leave a phrase out of a prompt: by the grammar of the embedded world, with the relation that needs it; of other
    texts by rule, with the word that ties it to the rest.

    UserError where nothing is left.

    >>> prompt = "a red circle above a square and a cross"
    >>> without(prompt, find(prompt, ["a square"])[0])
    'a red circle and a cross'
    """
    try:
        spec = parse_prompt(prompt)
    except ValueError:
        rest = leave_out(prompt, phrase.start, phrase.stop)
    else:
        there = _of_world(prompt, spec)
        place = next((i for i, own in enumerate(there) if own.noun == phrase.noun), None)
        if place is None:
            rest = leave_out(prompt, phrase.start, phrase.stop)
        else:
            others = spec.objects[:place] + spec.objects[place + 1 :]
            # A relation is one of the first object to the second.
            rest = str(PromptSpec(others, spec.relation if place > 1 else None)) if others else ""
    if not rest:
        raise UserError(
            f"nothing is left of the prompt {short(prompt)!r} without the phrase {short(phrase.text)!r}; give a prompt"
            " that names more"
        )
    return rest


def _of_world(prompt: str, spec: PromptSpec) -> tuple[Phrase, ...]:
    """The objects of a prompt that the grammar reads."""
    return find(prompt, [str(thing) for thing in spec.objects])
