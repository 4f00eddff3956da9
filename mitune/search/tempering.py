"""Tempering: how much of the potential counts at each step, λ from the noise (0 or more) to the picture (always 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.search.resampling import effective_sample_size

SCHEDULES = ("adaptive", "gamma", "exponential", "linear", "constant")


@dataclass(frozen=True)
class Tempering:
    """A schedule of λ_k, k = 0 (noise) … S (picture). UserError where a value is not one of those below.

    "adaptive": as far as the effective sample size allows (:func:`largest_temper`), but at most k/S: near the noise all
    predicted pictures are alike, and the sample size would let λ = 1 pass before there is anything to tell.
    "gamma": min(1, (1 + γ)^k − 1) (Kim et al. 2025). "exponential": the same curve scaled to end at 1.
    "linear": k/S. "constant": 1 throughout, as in the twisted diffusion sampler (Wu et al. 2023).
    All are 1 at k = S, whatever came before.
    """

    name: str = "adaptive"
    gamma: float = 0.008

    def __post_init__(self) -> None:
        check_known("search.tempering", self.name, SCHEDULES)
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise UserError(f"search.gamma={self.gamma} must be a positive number")

    @property
    def adaptive(self) -> bool:
        """Whether λ depends on the particles."""
        return self.name == "adaptive"

    def table(self, steps: int) -> Tensor:
        """λ_k [steps + 1] float64, rising from k = 0 to 1 at the end; of adaptive tempering, its upper bounds."""
        k = torch.arange(steps + 1, dtype=torch.float64)
        if self.name == "constant":
            return torch.ones_like(k)
        if self.name in ("linear", "adaptive"):
            return k / steps
        curve = torch.expm1(k * math.log1p(self.gamma))
        curve = curve / curve[-1] if self.name == "exponential" else curve.clamp(max=1.0)
        curve[-1] = 1.0
        return curve


def largest_temper(
    base: Tensor, slope: Tensor, low: Tensor, high: Tensor, share: float, iterations: int = 24
) -> Tensor:
    """The λ [P] in [low, high] at which log-weights ``base`` + λ ``slope`` [P, N] have an ESS of ``share`` · N.

    N counts the living. ``high`` [P] where even that leaves more, ``low`` [P] where that leaves less already. ``base``
    is −∞ for the dead, ``slope`` finite. Bisection: ``iterations`` halvings of all brackets at once, nothing asked of
    the device in between; the error is (high − low) 2^−iterations. (Where the ESS is not monotone in λ this is one of
    its crossings.)
    """
    wanted = share * (base > -float("inf")).sum(-1)

    def enough(temper: Tensor) -> Tensor:
        return effective_sample_size(base + temper.unsqueeze(-1) * slope) >= wanted

    below, above = low, high
    for _ in range(iterations):
        middle = (below + above) / 2
        holds = enough(middle)
        below, above = torch.where(holds, middle, below), torch.where(holds, above, middle)
    return torch.where(enough(high), high, torch.where(enough(low), below, low))
