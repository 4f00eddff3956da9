"""A weighted sum of rewards is a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.referees.pairs import check_pairs
from mitune.referees.reward import Reward


class WeightedSum:
    """Σ_k w_k r_k; differentiable where all its parts are. UserError without parts, or for a weight that is no number.

    With weights w and 20 (1 − w) on ``aesthetic`` and ``clip`` it is the mixed reward of DAS (Kim et al. 2025).
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]], name: str | None = None) -> None:
        if not parts:
            raise UserError("a sum of rewards needs one reward or more")
        for weight, reward in parts:
            if not math.isfinite(weight):
                raise UserError(f"the weight of the reward {reward.name} is {weight}; give a number")
        self.parts = tuple(parts)
        self.name = name or "+".join(f"{weight:g}*{reward.name}" for weight, reward in parts)
        self.differentiable = all(reward.differentiable for _, reward in parts)

    @property
    def identity(self) -> str:
        """Which judges, by which weights."""
        return " + ".join(f"{weight:g} * {reward.identity}" for weight, reward in self.parts)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        total = torch.zeros(len(pictures), device=pictures.device)
        for weight, reward in self.parts:
            total = total + weight * reward.score(pictures, prompts).to(total.device)
        return total
