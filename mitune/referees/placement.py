"""T2I-CompBench's rule of 2D placement: what a prompt says of two objects, and how far two boxes do as it says.

Pure functions on texts, words and boxes. Facts: Huang et al. 2023 (arXiv 2307.06350) and its public code
(github.com/Karine-Huang/T2I-CompBench, ``UniDet_eval/2D_spatial_eval.py``, read in the version of 2024).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mitune.english import Word
from mitune.referees.detection import Box, Detection

# The first of these that stands in a prompt, wherever it stands, is its relation. The last one was forgotten where
# relations are judged: it is never fulfilled.
_NEAR = ("on side of", "next to", "near")
LEFT, RIGHT, BOTTOM, TOP = (f"on the {side} of" for side in ("left", "right", "bottom", "top"))
RELATIONS = (*_NEAR, LEFT, RIGHT, BOTTOM, TOP, "on top of")
# What objects are looked for around, in complex prompts: another list than the one above.
_AROUND = frozenset({"on top of", "on bottom of", "on the left", "on the right", *_NEAR})
_PEOPLE = frozenset({"girl", "boy", "man", "woman"})

DISTANCE = 150.0
"""px of a picture of ``SHORTER`` px: nearer on either axis is near."""
OVERLAP = 0.1
"""Share of two boxes' union from which on beside and above count less."""
LEAST = 0.5
"""A picture's score below it is 0."""
SHORTER, LONGER = 479, 480
"""px that pictures are brought to before UniDet sees them, which is where the boxes are measured."""


@dataclass(frozen=True)
class Asked:
    """Hold what a prompt asks for: the relation of the first object to the second."""

    relation: str | None
    first: str | None
    second: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The objects, each once."""
        return tuple(dict.fromkeys(name for name in (self.first, self.second) if name is not None))


def relation_of(prompt: str) -> str | None:
    """Find the relation in a prompt: the first of ``RELATIONS`` that stands in it; None without one."""
    return next((one for one in RELATIONS if one in prompt), None)


def simple_objects(words: Sequence[Word]) -> tuple[str | None, str | None]:
    """Find the two objects of a simple prompt: its first and its last noun (NOUN alone); None without one."""
    nouns = [word.text for word in words if word.kind == "NOUN"]
    return (known_as(nouns[0]), known_as(nouns[-1])) if nouns else (None, None)


def complex_objects(prompt: str, words: Sequence[Word]) -> tuple[str | None, str | None]:
    """Find the two objects of a complex prompt: the noun nearest before a preposition and the nearest behind it.

    Before it NOUN or PROPN; behind it the first NOUN, and only where there is none the last word of the first run of
    PROPN that something follows. None where all prepositions together do not have exactly two objects.
    """
    found = []
    for at in range(len(words)):
        length = _preposition(prompt, words, at)
        if length:
            found += [word.text for word in words[:at][::-1] if word.kind in ("NOUN", "PROPN")][:1]
            found += _behind(words[at + length :])[:1]
    return (known_as(found[0]), known_as(found[1])) if len(found) == 2 else (None, None)


def _preposition(prompt: str, words: Sequence[Word], at: int) -> int:
    """How many words the preposition has that begins at word ``at``, the longest first; 0: none begins there."""
    for length in (3, 2, 1):
        own = words[at : at + length]
        if prompt[own[0].start : own[-1].stop] in _AROUND:
            return length
    return 0


def _behind(words: Sequence[Word]) -> list[str]:
    nouns = [word.text for word in words if word.kind == "NOUN"]
    names = [
        word.text
        for word, after in itertools.pairwise(words)
        if word.kind == "PROPN" and after.kind != "PROPN"
    ]
    return nouns or names


def known_as(noun: str) -> str:
    """Give the name that a noun is looked for by: a girl, boy, man or woman is a person."""
    return "person" if noun in _PEOPLE else noun


def frame(height: int, width: int) -> tuple[int, int]:
    """Give the (height, width) that a picture of [height, width] px is brought to: its shorter side is ``SHORTER`` px
    long, or less where the other would be longer than ``LONGER``.
    """
    short, long = sorted((height, width))
    shorter, longer = SHORTER, int(SHORTER * long / short)
    if longer > LONGER:
        shorter, longer = int(LONGER * shorter / longer), LONGER
    return (shorter, longer) if width > height else (longer, shorter)


def framed(box: Box, height: int, width: int) -> Box:
    """Measure the box of a picture of [height, width] px in its ``frame``."""
    high, wide = frame(height, width)
    return box[0] * wide / width, box[1] * high / height, box[2] * wide / width, box[3] * high / height


def overlap(one: Box, other: Box) -> float:
    """Share of two boxes' union that both have; 0 where both are empty."""
    wide = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    both = wide * high
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both
    return both / union if union else 0.0


def fulfilled(relation: str | None, one: Box, other: Box) -> float:
    """Tell how far box ``one`` is in the ``relation`` to the ``other``, 0 to 1.

    Near: 1 within ``DISTANCE`` on either axis, else ``DISTANCE`` over the larger distance of the middles. On a side: 1
    where the middles lie that way, and further than across; boxes that overlap by ``OVERLAP`` or more count less.
    """
    right = (other[0] + other[2]) / 2 - (one[0] + one[2]) / 2
    down = (other[1] + other[3]) / 2 - (one[1] + one[3]) / 2
    if relation in _NEAR:
        near = min(abs(right), abs(down)) < DISTANCE
        return 1.0 if near else DISTANCE / max(abs(right), abs(down))
    along, across = {
        LEFT: (right, down),
        RIGHT: (-right, down),
        TOP: (down, right),
        BOTTOM: (-down, right),
    }.get(relation or "", (0.0, 0.0))
    if along <= 0 or along <= abs(across):
        return 0.0
    shared = overlap(one, other)
    return 1.0 if shared < OVERLAP else OVERLAP / shared


def placement_score(asked: Asked, found: Sequence[Detection]) -> float:
    """Score a picture, 0 to 1, by what was ``found`` in it, the most confident first, its boxes ``framed``.

    A quarter of the confidence of each object's first detection and, where both are there, half of how far the
    relation holds; below ``LEAST`` it is 0.
    """
    first, second = (_first(name, found) for name in (asked.first, asked.second))
    score = 0.0
    if first is not None and second is not None:
        score = 0.25 * first.confidence + 0.25 * second.confidence
        score += fulfilled(asked.relation, first.box, second.box) / 2
    elif first is not None or second is not None:
        only = first or second
        score = 0.25 * only.confidence if only else 0.0
    return score if score >= LEAST else 0.0


def _first(name: str | None, found: Sequence[Detection]) -> Detection | None:
    return next((one for one in found if one.label == name), None)
