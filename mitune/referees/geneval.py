"""GenEval's rules: what its prompts ask for, and whether what was found in a picture is that.

Pure functions on plain data; the networks are in :mod:`mitune.referees.geneval_judge`. Facts: Ghosh et al. 2023 (arXiv
2310.11513) and its public code (github.com/djghosh13/geneval: ``evaluation/evaluate_images.py``,
``prompts/create_prompts.py``). A request is a line of its ``evaluation_metadata.jsonl``: tag, include, exclude, prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mitune.errors import UserError, short
from mitune.referees.coco import NAMES as COCO
from mitune.referees.detection import Detection

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
SIDES = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
MOST = 16
"""Objects of a class that count, the most confident ones."""
REDUCED = 0.1
"""Share of both objects' sizes by which the distance of their middles is reduced."""
_RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
NAMES = tuple(_RENAMED.get(name, name) for name in COCO)
"""The 80 objects by GenEval's names, in COCO's order."""

Request = Mapping[str, Any]
Colours = Callable[[str, int], Sequence[str]]
"""Called with (an object's name, a number): the colours of so many of these objects, the most confident first."""


@dataclass(frozen=True)
class Verdict:
    """Holds what GenEval says of a picture.

    Attributes:
        correct: whether all that was asked for is there, and no more.
        reason: why not: lines as the official results have them.
        details: name -> [left, top, right, bottom, confidence] of what was found, as the official results have them.
    """

    correct: bool
    reason: str
    details: dict[str, list[list[float]]]


def named(label: str) -> str:
    """Give GenEval's name for one of COCO's."""
    return _RENAMED.get(label, label)


def kept(found: Iterable[Detection], confidence: float) -> dict[str, list[Detection]]:
    """Sort what was found in a picture by GenEval's names, the most confident first: what is surer than ``confidence``,
    and at most ``MOST`` of a name.
    """
    ordered = sorted((one for one in found if one.confidence > confidence), key=lambda one: -one.confidence)
    names = dict.fromkeys(named(one.label) for one in ordered)
    order = [name for name in NAMES if name in names] + [name for name in names if name not in NAMES]
    return {name: [one for one in ordered if named(one.label) == name][:MOST] for name in order}


def judged(request: Request, found: Mapping[str, Sequence[Detection]], colours: Colours) -> Verdict:
    """Judge a picture by what was ``found`` in it (as ``kept`` gives it).

    Of every include clause the ``count`` most confident objects of its class must be there and, where it says so, have
    its colour and stand in its position to all objects of an earlier clause that held itself. Of an exclude clause
    there must be less than its ``count``.
    """
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in request.get("include", ()):
        own = found.get(clause["class"], ())[: clause["count"]]
        wrong = _lacking(clause, own, colours)
        if not wrong and "position" in clause:
            wrong = _misplaced(clause, own, groups)
        reasons += wrong
        groups.append(None if wrong else own)
    for clause in request.get("exclude", ()):
        number = len(found.get(clause["class"], ()))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    details = {name: [[*one.box, one.confidence] for one in own] for name, own in found.items() if own}
    return Verdict(not reasons, "\n".join(reasons), details)


def _lacking(clause: Mapping[str, Any], own: Sequence[Detection], colours: Colours) -> list[str]:
    """What a clause's objects lack: there are too few of them, or of its colour."""
    name, count = clause["class"], clause["count"]
    if len(own) < count:
        return [f"expected {name}>={count}, found {len(own)}"]
    if "color" not in clause:
        return []
    seen = list(colours(name, count))
    right = seen.count(clause["color"])
    if right >= count:
        return []
    rest = ", ".join(f"{seen.count(colour)} {colour}" for colour in COLOURS if colour in seen)
    return [f"expected {clause['color']} {name}>={count}, found {right} {clause['color']}; and {rest}"]


def _misplaced(
    clause: Mapping[str, Any], own: Sequence[Detection], groups: Sequence[Sequence[Detection] | None]
) -> list[str]:
    """The first of a clause's objects that does not stand to one of another clause's as it says."""
    side, number = clause["position"]
    others = groups[number]
    if others is None:
        return [f"no target for {clause['class']} to be {side}"]
    for one in own:
        for other in others:
            true = sides(one.box, other.box)
            if side not in true:
                return [f"expected {clause['class']} {side} target, found {' and '.join(true)} target"]
    return []


def sides(one: Sequence[float], other: Sequence[float]) -> tuple[str, ...]:
    """Tell where the box ``one`` is, seen from the ``other``: none, one or two of ``SIDES``.

    The distance of the middles on each axis, less ``REDUCED`` of both sizes, must be more than half of the distance of
    the middles.
    """
    boxes = np.array([one, other], dtype=np.float64)[:, :4].reshape(2, 2, 2)
    middles, sizes = boxes.mean(axis=1), np.abs(boxes[:, 1] - boxes[:, 0])
    offset = middles[0] - middles[1]
    left = np.maximum(np.abs(offset) - REDUCED * (sizes[0] + sizes[1]), 0) * np.sign(offset)
    if np.all(np.abs(left) < 1e-3):
        return ()
    right, down = left / np.linalg.norm(offset)
    true = (right < -0.5, right > 0.5, down < -0.5, down > 0.5)
    return tuple(side for side, holds in zip(SIDES, true, strict=True) if holds)


# -- prompts -----------------------------------------------------------------------------------------------------------

_NUMBERS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_IRREGULAR = {"person": "people", "knife": "knives", "computer mouse": "computer mice", "sheep": "sheep"}
_PLURALS = {
    plural: name
    for name in NAMES
    for plural in (
        f"{name}s",
        f"{name}es",
        _IRREGULAR.get(name, f"{name}s"),
        *([name] if name[-1] == "s" else []),
    )
}


def _any(words: Iterable[str]) -> str:
    return f"({'|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))})"


_THING, _COLOUR, _SIDE = _any(NAMES), _any(COLOURS), _any(SIDES)
_FORMS = {
    "single_object": rf"an? {_THING}",
    "two_object": rf"an? {_THING} and an? {_THING}",
    "counting": rf"{_any(_NUMBERS)} {_any(_PLURALS)}",
    "colors": rf"an? {_COLOUR} {_THING}",
    "position": rf"an? {_THING} {_SIDE} an? {_THING}",
    "color_attr": rf"an? {_COLOUR} {_THING} and an? {_COLOUR} {_THING}",
}
_READERS = {tag: re.compile(f"a photo of {form}") for tag, form in _FORMS.items()}


def request_of(prompt: str) -> dict[str, Any]:
    """Read what a prompt of one of GenEval's six forms asks for, as a line of its metadata says it.

    UserError for any other prompt.

    >>> request_of("a photo of two clocks")["exclude"]
    [{'class': 'clock', 'count': 3}]
    """
    plain = " ".join(prompt.lower().split()).rstrip(".")
    for tag, reader in _READERS.items():
        match = reader.fullmatch(plain)
        if match is not None:
            return {"tag": tag, **_clauses(tag, match.groups()), "prompt": prompt}
    raise UserError(
        f"geneval: the prompt {short(prompt)!r} is of none of its six forms ('a photo of a dog', '… a dog and a cat',"
        " '… two dogs', '… a red car', '… a dog left of a cat', '… a red car and a blue bus'; 80 objects of COCO, ten"
        " colours); leave it out, or judge by the benchmark's own metadata (evaluate.benchmark=geneval)"
    )


def _clauses(tag: str, words: Sequence[str]) -> dict[str, Any]:
    if tag == "counting":
        name, count = _PLURALS[words[1]], _NUMBERS[words[0]]
        return {"include": [_clause(name, count)], "exclude": [_clause(name, count + 1)]}
    if tag == "position":
        return {"include": [_clause(words[2]), {**_clause(words[0]), "position": [words[1], 0]}]}
    if tag in ("colors", "color_attr"):
        pairs = zip(words[::2], words[1::2], strict=True)
        return {"include": [{**_clause(name), "color": colour} for colour, name in pairs]}
    return {"include": [_clause(name) for name in words]}


def _clause(name: str, count: int = 1) -> dict[str, Any]:
    return {"class": name, "count": count}


def classes_of(request: Request) -> tuple[str, ...]:
    """Name the objects that a request is about, each once."""
    clauses = [*request.get("include", ()), *request.get("exclude", ())]
    return tuple(dict.fromkeys(clause["class"] for clause in clauses))
