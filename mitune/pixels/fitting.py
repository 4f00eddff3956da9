"""The threshold that fits a labelled set best, found over all grey levels of the heatmaps at once.

``masks.fitted`` tries thresholds one after the other on maps in memory; here pictures come one at a time, and nothing
is kept of them but counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mitune.errors import UserError
from mitune.pixels.drawings import HOTTEST, Levels
from mitune.pixels.iou import IGNORED, NOTHING, judged
from mitune.pixels.masks import Threshold

_COUNT = HOTTEST + 1
Numbers = NDArray[np.int64]


class Fit:
    """Counts masks at every level against labels, picture by picture."""

    def __init__(self) -> None:
        self.pictures = 0
        self._right: dict[str, Numbers] = {}
        self._predicted: dict[str, Numbers] = {}
        self._true: dict[str, int] = {}

    def add(self, grey: Sequence[Levels], label: ArrayLike, classes: Sequence[str]) -> None:
        """Count a picture: its heatmaps as levels, the phrase's number (from 1) at each pixel of its label, and what
        each phrase is counted as. Raises UserError for a label that does not fit."""
        self.pictures += 1
        stack = np.stack(list(grey))
        hottest, top = (
            stack.argmax(axis=0) + 1,
            stack.max(axis=0),
        )  # of equal ones the first, as ``masks`` has it
        order = {name: number for number, name in enumerate(dict.fromkeys([NOTHING, *classes]))}
        one = np.array([order[name] for name in (NOTHING, *classes)])
        found, told = judged(hottest, label, len(classes))
        heat = top[np.asarray(label) != IGNORED]
        found, told = one[found], one[told]
        for name, number in order.items():
            true = told == number
            if not number:  # below the threshold all is background
                self._add(name, _below(heat[true]), _below(heat), int(true.sum()))
            else:
                own = found == number
                self._add(name, _from(heat[own & true]), _from(heat[own]), int(true.sum()))

    def _add(self, name: str, right: Numbers, predicted: Numbers, true: int) -> None:
        none = np.zeros(_COUNT, dtype=np.int64)
        self._right[name] = self._right.get(name, none) + right
        self._predicted[name] = self._predicted.get(name, none) + predicted
        self._true[name] = self._true.get(name, 0) + true

    def curve(self) -> NDArray[np.float64]:
        """Give the mean IoU over the classes, by the rules of ``iou``, where a pixel needs each level from 0 to 255."""
        rows = []
        for name, right in self._right.items():
            union = self._true[name] + self._predicted[name] - right
            rows.append(np.where(union > 0, right / np.maximum(union, 1), np.nan))
        table = np.stack(rows)
        there = ~np.isnan(table)
        return np.where(there, table, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)

    def best(self, on: str, oracle: bool = False) -> Threshold:
        """Give the threshold, half-way below the level that fits best, in the middle of neighbours that are as good.

        Args:
            on: what it is fitted on, in words.
            oracle: whether these are the labels that it is then judged by.

        Raises UserError where no labelled picture was counted, or nobody judged a pixel of them.
        """
        if not self.pictures:
            raise UserError(f"no threshold can be fitted on {on}: none of them decodes and has a label")
        if not any(self._true.values()):
            raise UserError(
                f"no threshold can be fitted on {on}: every pixel of their labels is {IGNORED}, not judged"
            )
        found = self.curve()[1:]
        equal = np.flatnonzero(found >= found.max() - 1e-12)
        run = equal[: int((np.diff(equal, prepend=equal[0]) <= 1).cumprod().sum())]  # neighbours of the first
        level = int(run[(len(run) - 1) // 2]) + 1
        value = round((level - 0.5) / HOTTEST, 6)
        return Threshold(value, f"{'oracle: ' if oracle else ''}fitted on {on}", oracle)


def _from(heat: NDArray[np.integer]) -> Numbers:
    """Pixels at or above each level."""
    return np.bincount(heat, minlength=_COUNT)[::-1].cumsum()[::-1]


def _below(heat: NDArray[np.integer]) -> Numbers:
    """Pixels below each level."""
    return heat.size - _from(heat)
