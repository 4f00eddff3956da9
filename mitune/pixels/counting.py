"""Masks from heatmaps as they are on the disk (256 grey levels), their areas counted, and the threshold that fits best.

As the masks are made of what is on the disk, they can be made again from it, by anybody, to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mitune.pixels.drawings import Levels

BACKGROUND = "(background)"
"""The class of what is no phrase; no phrase is written so."""
_LEVELS = 256
Numbers = NDArray[np.int64]


def winners(grey: Sequence[Levels]) -> tuple[Numbers, Levels]:
    """Give the number (from 1) of the hottest phrase at each pixel [H, W], the first of equal ones, and its level."""
    stack = np.stack(list(grey))
    return stack.argmax(axis=0).astype(np.int64) + 1, stack.max(axis=0)


def mask_of(grey: Sequence[Levels], threshold: float) -> Numbers:
    """Give the number of the hottest phrase at each pixel [H, W], or 0 where its heat is below ``threshold``."""
    numbers, top = winners(grey)
    return np.where(top / (_LEVELS - 1) < threshold, 0, numbers)


@dataclass
class Tally:
    """Counts pixels of masks against labels, by class, over many pictures.

    Attributes:
        right, predicted, true: pixels by class: in both, of the mask, of the label. Pixels that nobody judged (255)
            are in none of them.
    """

    right: dict[str, int] = field(default_factory=dict)
    predicted: dict[str, int] = field(default_factory=dict)
    true: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Mapping[str, Sequence[int]]) -> None:
        """Count a picture as :func:`counted` says it."""
        for name, three in counts.items():
            for own, count in zip((self.right, self.predicted, self.true), three, strict=True):
                own[name] = own.get(name, 0) + count

    def figures(self, objects: Sequence[float]) -> dict[str, Any]:
        """Give ``miou``, the mean of IoU = right / (predicted + true - right) over the classes that occur in a mask or a
        label, the background among them; ``classes``; and of ``objects``, the mean IoU of each picture's phrases, the
        mean with its standard error."""
        unions = {name: self.true[name] + self.predicted[name] - self.right[name] for name in self.right}
        classes = {name: self.right[name] / union for name, union in unions.items() if union}
        count = len(objects)
        mean = math.fsum(objects) / count if count else None
        error = None
        if mean is not None and count > 1:
            error = math.sqrt(math.fsum((one - mean) ** 2 for one in objects) / (count - 1) / count)
        return {
            "miou": math.fsum(classes.values()) / len(classes) if classes else 0.0,
            "object_iou": mean,
            "object_error": error,
            "classes": classes,
        }


def counted(mask: ArrayLike, label: ArrayLike, classes: Sequence[str], ignored: int) -> dict[str, list[int]]:
    """Count a picture: class -> pixels right, predicted, true; the background among them.

    Args:
        mask, label: the number of a phrase at each pixel [H, W]; 0: none.
        classes: the class of each phrase; several phrases of one class are one.
        ignored: what the label is where nobody judged.
    """
    judged = np.asarray(label) != ignored
    found, told = np.asarray(mask)[judged], np.asarray(label)[judged]
    order, one = _classes(classes)
    found, told = one[found], one[told]
    size = len(order)
    sums = [np.bincount(values, minlength=size) for values in (found[found == told], found, told)]
    return {name: [int(part[number]) for part in sums] for name, number in order.items()}


def _classes(classes: Sequence[str]) -> tuple[dict[str, int], Numbers]:
    """The number of each class, 0 for the background, and the class number of each phrase number."""
    names = [BACKGROUND, *classes]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return order, np.array([order[name] for name in names])


class Fit:
    """Finds the threshold at which the mean IoU of a labelled set is highest, over all 256 levels at once."""

    def __init__(self) -> None:
        self._right: dict[str, Numbers] = {}
        self._predicted: dict[str, Numbers] = {}
        self._true: dict[str, int] = {}

    def add(self, grey: Sequence[Levels], label: ArrayLike, classes: Sequence[str], ignored: int) -> None:
        """Count a picture, as :func:`counted` takes it."""
        numbers, top = winners(grey)
        told = np.asarray(label)
        judged = told != ignored
        numbers, top, told = numbers[judged], top[judged], told[judged]
        order, one = _classes(classes)
        found, told = one[numbers], one[told]
        for name, number in order.items():
            true = told == number
            if not number:  # below the threshold all is background
                self._add(name, _below(top[true]), _below(top), int(true.sum()))
            else:
                own = found == number
                self._add(name, _from(top[own & true]), _from(top[own]), int(true.sum()))

    def _add(self, name: str, right: Numbers, predicted: Numbers, true: int) -> None:
        none = np.zeros(_LEVELS, dtype=np.int64)
        self._right[name] = self._right.get(name, none) + right
        self._predicted[name] = self._predicted.get(name, none) + predicted
        self._true[name] = self._true.get(name, 0) + true

    def curve(self) -> NDArray[np.float64]:
        """Give the mean IoU at each of the levels 0 to 255 that a heat has to reach."""
        rows = []
        for name, right in self._right.items():
            union = self._true[name] + self._predicted[name] - right
            rows.append(np.where(union > 0, right / np.maximum(union, 1), np.nan))
        table = np.stack(rows)
        there = ~np.isnan(table)
        return np.where(there, table, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)

    def best(self) -> float:
        """Give the threshold: half-way below the level that fits best, in the middle of several that do."""
        found = self.curve()[1:]
        equal = np.flatnonzero(found >= found.max() - 1e-12) + 1
        return round((float(equal[(len(equal) - 1) // 2]) - 0.5) / (_LEVELS - 1), 6)


def _from(top: Levels) -> Numbers:
    """Pixels at or above each level."""
    return np.bincount(top, minlength=_LEVELS)[::-1].cumsum()[::-1]


def _below(top: Levels) -> Numbers:
    """Pixels below each level."""
    return top.size - _from(top)
