"""How right masks are: intersection over union by class over a data set, by picture, and by object.

The rules, which are those of every figure that the project prints:

* A pixel that nobody judged (label 255) is in no set: not in the true one, nor in the predicted one.
* Over a data set (Zhou et al., arXiv 2506.09740): pixels are summed over all pictures first, IoU = right / (true +
  predicted − right) for each class, the background among them. A class that occurs neither in a label nor in a mask has
  no IoU and is left out of the mean; one that occurs in masks alone counts 0.
* Of a picture: the same over its own pixels.
* Object IoU: the mean over the objects of a picture, which are the phrases that its label has, then over the pictures,
  with its standard error. A phrase that is absent is no object: what it takes wrongly lowers the others, and is told
  apart as its area.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mitune.errors import UserError

IGNORED = 255
"""What a label is where nobody judged."""
NOTHING = "(background)"
"""The class of what is no phrase; no class is written so."""
Numbers = NDArray[Any]


class Pixels(NamedTuple):
    """Counts the pixels of a class: in mask and label alike, in the mask, in the label."""

    right: int
    predicted: int
    true: int

    @property
    def iou(self) -> float | None:
        """right / (true + predicted − right); None where there is none of either."""
        union = self.true + self.predicted - self.right
        return self.right / union if union else None


def judged(
    mask: ArrayLike, label: ArrayLike, phrases: int, what: str = "the label"
) -> tuple[Numbers, Numbers]:
    """Give what was judged of a mask and its label, each [pixels].

    Args:
        mask, label: the number of a phrase (1 …) at each pixel [h, w]; 0: none.
        phrases: how many there are.
        what: the label's name in messages.

    Raises UserError for a label of another size or with a number that no phrase has.
    """
    found, told = np.asarray(mask), np.asarray(label)
    if told.ndim != 2 or found.shape != told.shape:
        sizes = " against ".join("×".join(map(str, reversed(one.shape))) for one in (told, found))
        raise UserError(f"{what} is of another size than the mask ({sizes}); bring both to the picture's")
    if told.dtype.kind not in "iu":
        raise UserError(f"{what} holds {told.dtype} and no whole numbers; give 0 … {phrases}, or {IGNORED}")
    keep = told != IGNORED
    found, told = found[keep].astype(np.int64), told[keep].astype(np.int64)
    for numbers, name in ((told, what), (found, "the mask")):
        wrong = numbers[(numbers < 0) | (numbers > phrases)]
        if len(wrong):
            raise UserError(
                f"{name} holds the value {wrong[0]}, but there are {phrases} phrases; give 0 … {phrases}, or {IGNORED}"
                " where nobody judged"
            )
    return found, told


def counts(
    mask: ArrayLike, label: ArrayLike, classes: Sequence[str], what: str = "the label"
) -> dict[str, Pixels]:
    """Count a picture by class, the background among them; phrases of one class are counted as one.

    Raises UserError as :func:`judged` does.
    """
    found, told = judged(mask, label, len(classes), what)
    order = {name: number for number, name in enumerate(dict.fromkeys([NOTHING, *classes]))}
    number = np.array([order[name] for name in (NOTHING, *classes)])
    found, told = number[found], number[told]
    right, predicted, true = (
        np.bincount(values, minlength=len(order)).tolist() for values in (found[found == told], found, told)
    )
    return {name: Pixels(right[at], predicted[at], true[at]) for name, at in order.items()}


class Tally:
    """Adds up the pixels of the classes over the pictures of a data set."""

    def __init__(self) -> None:
        self.pixels: dict[str, Pixels] = {}

    def add(self, counted: Mapping[str, Sequence[int]]) -> None:
        """Add a picture, as :func:`counts` gives it."""
        for name, three in counted.items():
            before = self.pixels.get(name, (0, 0, 0))
            self.pixels[name] = Pixels(*(a + b for a, b in zip(before, three, strict=True)))

    def classes(self) -> dict[str, float]:
        """Give the IoU of each class that occurs in a label or in a mask."""
        found = {name: pixels.iou for name, pixels in self.pixels.items()}
        return {name: iou for name, iou in found.items() if iou is not None}

    def mean(self) -> float:
        """Give the mean over these classes; NaN where there is none."""
        found = self.classes()
        return math.fsum(found.values()) / len(found) if found else math.nan


def of_picture(mask: ArrayLike, label: ArrayLike, classes: Sequence[str], what: str = "the label") -> float:
    """Give the mean IoU over the classes of one picture, the background among them; NaN where nothing was judged."""
    tally = Tally()
    tally.add(counts(mask, label, classes, what))
    return tally.mean()


def objects(mask: ArrayLike, label: ArrayLike, phrases: int, what: str = "the label") -> list[float | None]:
    """Give the IoU of each phrase of a picture; None of one that the label has not.

    Raises UserError as :func:`judged` does.
    """
    found, told = judged(mask, label, phrases, what)
    size = phrases + 1
    table = np.bincount(told * size + found, minlength=size * size).reshape(size, size)
    every = [
        Pixels(int(table[at, at]), int(table[:, at].sum()), int(table[at].sum())) for at in range(1, size)
    ]
    return [one.iou if one.true else None for one in every]


class Mean(NamedTuple):
    """Holds a mean over pictures and its standard error; None where one picture alone tells nothing of it."""

    mean: float
    error: float | None
    pictures: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Give the 95 % interval, mean ± 1.96 standard errors."""
        return None if self.error is None else (self.mean - 1.96 * self.error, self.mean + 1.96 * self.error)


def mean_of(values: Sequence[float]) -> Mean:
    """Give the mean of one value a picture. ValueError for none."""
    count = len(values)
    if not count:
        raise ValueError("a mean of no pictures")
    mean = math.fsum(values) / count
    spread = math.fsum((one - mean) ** 2 for one in values)
    return Mean(mean, math.sqrt(spread / (count - 1) / count) if count > 1 else None, count)


def object_iou(pictures: Sequence[Sequence[float | None]]) -> Mean:
    """Give the mean over the objects of a picture, then over the pictures that have any; as :func:`objects` gives them.

    ValueError where no picture has an object.
    """
    there = [[one for one in own if one is not None] for own in pictures]
    return mean_of([math.fsum(own) / len(own) for own in there if own])


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Give the mean difference over the same pictures. ValueError where they are not as many."""
    return mean_of([one - other for one, other in zip(ours, theirs, strict=True)])
