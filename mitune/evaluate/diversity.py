"""Diversity: how far apart the pictures of one prompt are. A tuned model must not pay for alignment with sameness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mitune.evaluate.bootstrap import paired_ratio


def pairwise_distance(pictures: Tensor) -> float:
    """Compute the mean over all pairs of the root-mean-square pixel distance; ``pictures`` [n ≥ 2, …] float in [0, 1]
    (or uint8)."""
    if len(pictures) < 2:
        raise ValueError("a pairwise distance needs two pictures or more")
    flat = pictures.detach().cpu().flatten(1).to(torch.float64)
    if pictures.dtype == torch.uint8:
        flat = flat / 255.0
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


class Distances:
    """Takes pictures one by one, and holds those of a group (prompt) until its last one came: ``found`` are the
    pairwise distances within the groups of two pictures or more.

    >>> distances = Distances(["a", "a", "b"])
    >>> for row in range(3): distances.add(row, torch.zeros(3, 2, 2))
    >>> distances.found
    {'a': 0.0}
    """

    def __init__(self, groups: Sequence[Any]) -> None:
        self._groups = groups
        self._rows: dict[Any, list[int]] = {}
        for row, group in enumerate(groups):
            self._rows.setdefault(group, []).append(row)
        self._held: dict[Any, dict[int, Tensor]] = {}
        self._found: dict[Any, float] = {}

    def add(self, row: int, picture: Tensor) -> None:
        """Take the picture of a row."""
        group = self._groups[row]
        rows = self._rows[group]
        if len(rows) < 2:
            return
        held = self._held.setdefault(group, {})
        held[row] = picture
        if len(held) == len(rows):
            self._found[group] = pairwise_distance(torch.stack([held[own] for own in rows]))
            del self._held[group]

    @property
    def found(self) -> dict[Any, float]:
        """The distances, in the order in which the groups have their first rows."""
        return {group: self._found[group] for group in self._rows if group in self._found}


def by_prompt(pictures: Iterable[Tensor], groups: Sequence[Any]) -> dict[Any, float]:
    """Compute the pairwise distance within each group (prompt) of two pictures or more; ``pictures`` and ``groups`` are
    row by row."""
    if isinstance(pictures, Sized) and len(pictures) != len(groups):
        raise ValueError(f"{len(pictures)} pictures but {len(groups)} groups")
    distances = Distances(groups)
    for row, picture in zip(range(len(groups)), pictures, strict=True):
        distances.add(row, picture)
    return distances.found


def compare_diversity(
    before: Iterable[Tensor], after: Iterable[Tensor], groups: Sequence[Any], seed: int = 0
) -> dict[str, Any]:
    """Compare the mean distance of both models' pictures, as :func:`compare_distances`, row by row of ``groups``."""
    return compare_distances(by_prompt(before, groups), by_prompt(after, groups), seed)


def compare_distances(old: Mapping[Any, float], new: Mapping[Any, float], seed: int = 0) -> dict[str, Any]:
    """Compare the mean of two models' distances by prompt, and give the ratio after / before, over the prompts with two
    pictures or more.

    Gives ``{"before", "after", "ratio", "ratio_ci95", "prompts"}``; the figures are null where no prompt
    has two pictures, the ratio where the base model's pictures are all equal.
    """
    if not old:
        return {"before": None, "after": None, "ratio": None, "ratio_ci95": None, "prompts": 0}
    names = list(old)
    first, second = np.array([old[name] for name in names]), np.array([new[name] for name in names])
    result: dict[str, Any] = {
        "before": float(first.mean()),
        "after": float(second.mean()),
        "prompts": len(names),
    }
    if not (first > 0).all():
        # A resample of nothing but equal pictures would divide by zero: no interval then.
        ratio = float(second.sum() / first.sum()) if first.sum() > 0 else None
        return {**result, "ratio": ratio, "ratio_ci95": None}
    estimate = paired_ratio(first, second, list(range(len(names))), seed)
    return {**result, "ratio": estimate.mean, "ratio_ci95": estimate.interval}
