"""T2I-CompBench's rule of numeracy: how many of what a prompt asks for, and how far a picture shows that.

Pure functions on texts and boxes. Facts: T2I-CompBench++ (arXiv 2307.06350v3) and its public code
(github.com/Karine-Huang/T2I-CompBench, ``UniDet_eval/numeracy_eval.py`` and ``examples/dataset/new_objects.txt``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from mitune.referees.detection import Box, Detection
from mitune.referees.placement import known_as

_COUNTS = {
    word: number
    for number, words in enumerate(("a an one", "two", "three", "four", "five", "six", "seven", "eight"), 1)
    for word in words.split()
}
# The objects whose numbers are understood, in words of one; their plurals follow the rules below but for these.
_OBJECTS = frozenset(
    re.findall(
        r"\w+",
        """
airplane apple backpack bag balloon banana bear bee bicycle bird boat book bottle bowl boy bread butterfly cake camel
camera candle car cat chair chicken clock computer couch cow cup deer desk dog drum duck egg fish flag frog giraffe girl
goldfish guitar hamburger helicopter helmet horse key kite knife lamp lemon man microphone microwave mouse paddle
painting peach pear pen person phone pig pillow plate printer rabbit refrigerator sheep ship shrimp sink sofa stool
strawberry suitcase swan table television tent tomato toy train truck turtle vase woman
        """,
    )
)
_PLURALS = {
    "knife": "knives", "mouse": "mice", "man": "men", "woman": "women", "person": "people", "fish": "fish",
    "deer": "deer", "goldfish": "goldfish", "shrimp": "shrimp", "sheep": "sheep",
}  # fmt: skip
_ALSO = {"ship": "boat", "goldfish": "fish", "painting": "picture"}
"""By what name else an object is looked for. (The benchmark means to look for a tv, too, but misspells television.)"""
SAME = 0.9
"""Two boxes of one label that share more, of their union or of either, are one object."""

Amount = tuple[str, int]
"""The name that an object is looked for by, and how many there should be."""


def _plural(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(ch|sh|s|x|to)$", noun) else f"{noun}s"


_SINGULARS = {_plural(noun): noun for noun in _OBJECTS}


def amounts_of(prompt: str) -> list[Amount]:
    """Find how many of what a prompt asks for, in text order; [] where it names no number of a known object.

    A number (a, an, one, two … eight, in small letters) right before one of the objects: the first three before the
    singular, all but the first two before the plural. What does not go together ("two dog") is passed over; the
    benchmark's own code stops there.
    """
    words = re.findall(r"[^\W_]+|[^\w\s]|_", prompt)
    found = []
    for number, noun in itertools.pairwise(words):
        count = _COUNTS.get(number, 0)
        one = (
            noun
            if count == 1 and noun in _OBJECTS
            else None
            if number in ("a", "an")
            else _SINGULARS.get(noun)
        )
        if count and one is not None:
            found.append((_ALSO.get(one, known_as(one)), count))
    return found


def without_doubles(found: Sequence[Detection]) -> list[Detection]:
    """Leave out what was found twice: a box that an earlier one of its label shares more than ``SAME`` with."""
    kept: list[Detection] = []
    for one in found:
        if not any(_same(one.box, other.box) for other in kept if other.label == one.label):
            kept.append(one)
    return kept


def _same(one: Box, other: Box) -> bool:
    """Whether two boxes are one object; sides are counted in whole pixels, both ends among them."""
    wide = max(0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    high = max(0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    both = wide * high
    first, second = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other))
    return any(both / float(whole) > SAME for whole in (first + second - both, first, second))


def numeracy_score(amounts: Sequence[Amount], found: Sequence[Detection]) -> float:
    """Score a picture, 0 to 1, by what was ``found`` in it, the most confident first, its boxes as
    :func:`mitune.referees.placement.framed` has them.

    The objects count alike: half for one that is there at all, half for the right number. One that is not there by its
    name is taken for all that have its name in theirs ("table" in "dining table"), also for the objects after it.
    """
    labels = [one.label for one in without_doubles(found)]
    score, weight = 0.0, 1.0 / len(amounts)
    for name, count in amounts:
        if name not in labels:
            labels = [name if name in label else label for label in labels]
        if name in labels:
            score += 0.5 * weight
            if labels.count(name) == count:
                score += 0.5 * weight
    return score
