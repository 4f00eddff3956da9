"""Masks as COCO writes them: runs of pixels down the columns, and these runs as letters.

The same as ``pycocotools.mask`` reads (``decode({"size": [h, w], "counts": text})``), which is not needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mitune.errors import UserError

_BITS, _FIRST = 5, 48  # of a number in a letter; the letter of 0


def runs(mask: ArrayLike) -> list[int]:
    """Count pixels column by column: so many outside, so many inside, and so on; the first count may be 0.

    >>> runs([[0, 1], [1, 1]])
    [1, 3]
    """
    down = np.asarray(mask).astype(bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(down)) + 1
    first = [0] if down.size and down[0] else []
    return [*first, *np.diff(np.concatenate([[0], ends, [down.size]])).tolist()]


def encode(mask: ArrayLike) -> dict[str, Any]:
    """Write a mask [H, W] as ``{"size": [H, W], "counts": letters}``."""
    height, width = np.asarray(mask).shape
    return {"size": [height, width], "counts": letters(runs(mask))}


def decode(written: dict[str, Any]) -> NDArray[np.bool_]:
    """Read a mask [H, W] that :func:`encode` or COCO's tools wrote. Raises UserError where the counts do not fit."""
    height, width = written["size"]
    counts = numbers(written["counts"])
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise UserError(
            f"a mask's counts add up to {sum(counts)}, not to its {height} x {width} pixels; mend it"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F")


def letters(counts: Sequence[int]) -> str:
    """Write counts as letters: from the fourth on their change to the last but one, five bits a letter, low ones first.

    >>> letters([1, 3])
    '13'
    """
    found = []
    for place, count in enumerate(counts):
        left, more = count - counts[place - 2] if place > 2 else count, True
        while more:
            part, left = left & 31, left >> _BITS
            # The highest bit of the last letter is the sign: the rest is that bit all over.
            more = left != (-1 if part & 16 else 0)
            found.append(chr(_FIRST + part + 32 * more))
    return "".join(found)


def numbers(text: str) -> list[int]:
    """Undo :func:`letters`."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        part = ord(letter) - _FIRST
        value |= (part & 31) << shift
        shift += _BITS
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
