"""Diversity: how far apart the pictures of one prompt are. A tuned model must not pay for alignment with sameness."""

from __future__ import annotations

from collections.abc import Sequence
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


def by_prompt(pictures: Tensor | Sequence[Tensor], groups: Sequence[Any]) -> dict[Any, float]:
    """Compute the pairwise distance within each group (prompt) of two pictures or more; ``pictures`` and ``groups`` are
    row by row."""
    if len(pictures) != len(groups):
        raise ValueError(f"{len(pictures)} pictures but {len(groups)} groups")
    members: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return {
        group: pairwise_distance(torch.stack([pictures[row] for row in rows]))
        for group, rows in members.items()
        if len(rows) > 1
    }


def compare_diversity(
    before: Tensor | Sequence[Tensor], after: Tensor | Sequence[Tensor], groups: Sequence[Any], seed: int = 0
) -> dict[str, Any]:
    """Compare the mean distance of both models' pictures, and give the ratio after / before, over the prompts with two
    pictures or more.

    Gives ``{"before", "after", "ratio", "ratio_ci95", "prompts"}``; the figures are null where no prompt
    has two pictures, the ratio where the base model's pictures are all equal.
    """
    old, new = by_prompt(before, groups), by_prompt(after, groups)
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
