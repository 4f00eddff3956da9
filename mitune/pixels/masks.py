"""Masks from heatmaps: each pixel is the hottest phrase's, or the background's where none is hot enough.

How hot that is, the threshold, is fixed beforehand, or fitted on labelled pictures, and always said which: one that is
fitted on the labels it is then judged by is an oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mitune.errors import UserError
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.iou import IGNORED, Tally, counts

BACKGROUND = 0
"""The number of what is no phrase in a mask; phrase i is i + 1."""
MOST = IGNORED - 1
"""Phrases that a mask has numbers for: a byte less the background's and the one of labels that nobody judged."""
GRID = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""Thresholds that are tried."""


def masks(maps: Tensor, threshold: float) -> Tensor:
    """Give [h, w] int64 of the heatmaps [P, h, w] of one picture: 0 is background, i + 1 phrase i.

    A pixel is the background's where no heat reaches ``threshold``; of equal heats the first phrase wins. The shape of
    the published code's masks (Zhou et al., arXiv 2506.09740). UserError for a threshold outside 0…1, maps that are no
    [P, h, w], and a map that is not finite.
    """
    HeatmapConfig(threshold=float(threshold)).check()
    if maps.ndim != 3 or not len(maps):
        raise UserError(f"masks need heatmaps [phrases, height, width], not {list(maps.shape)}")
    if not bool(torch.isfinite(maps).all()):
        raise UserError(
            "a heatmap has values that are no numbers, so it makes no mask; look at the model's output"
        )
    heat, hottest = maps.max(dim=0)  # of equal ones the first
    return torch.where(heat < threshold, BACKGROUND, hottest + 1)


class Threshold(NamedTuple):
    """Holds a threshold and where it is from: ``origin`` is printed beside every figure that it made."""

    value: float
    origin: str
    oracle: bool = False


def fixed(value: float) -> Threshold:
    """Give a threshold that was chosen before any label was seen."""
    return Threshold(value, "fixed beforehand")


def fitted(
    scores: Callable[[float], float], on: str, oracle: bool = False, grid: Sequence[float] = GRID
) -> Threshold:
    """Give the threshold of ``grid`` with the highest score, in the middle of neighbours that are as good.

    Args:
        scores: the score of a threshold, higher = better: :func:`agreement` or a mean of object IoUs.
        on: what it is fitted on, in words.
        oracle: whether these are the labels that it is then judged by.
        grid: rising thresholds to try.
    """
    found = np.array([scores(value) for value in grid])
    if not np.isfinite(found).all():
        raise UserError(f"no threshold can be fitted on {on}: it has no labelled pixels")
    best = int(found.argmax())
    last = best
    while last + 1 < len(found) and math.isclose(found[last + 1], found[best], rel_tol=0, abs_tol=1e-12):
        last += 1
    value = grid[(best + last) // 2]
    return Threshold(value, f"{'oracle: ' if oracle else ''}fitted on {on}", oracle)


def agreement(
    maps: Sequence[Tensor], labels: Sequence[NDArray[Any]], classes: Sequence[Sequence[str]]
) -> Callable[[float], float]:
    """Give what tells the mean IoU over the classes of a labelled set at a threshold, for :func:`fitted`."""

    def at(threshold: float) -> float:
        tally = Tally()
        for heat, label, names in zip(maps, labels, classes, strict=True):
            tally.add(counts(masks(heat, threshold).numpy(), label, names))
        return tally.mean()

    return at
