"""Tempering: how much of the potential counts at each step, λ from the noise (0 or more) to the picture (always 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mitune.search.catalogue import TEMPERINGS
from mitune.search.resampling import effective_sample_size


def temper_table(name: str, gamma: float, steps: int) -> Tensor:
    """λ_k [steps + 1] float64, rising from k = 0 (noise) to 1 at the picture; of adaptive tempering, its upper bounds.

    A schedule is a function of k = 0 … S that gives λ_k; all are 1 at k = S, whatever came before. UserError for an
    unknown name.
    """
    table: Tensor = TEMPERINGS.find(name).load()(torch.arange(steps + 1, dtype=torch.float64), gamma)
    table[-1] = 1.0
    return table


def linear(k: Tensor, gamma: float) -> Tensor:
    """k/S.

    "adaptive" goes as far as the effective sample size allows (:func:`largest_temper`), but at most so far: near the
    noise all predicted pictures are alike, and the sample size would let λ = 1 pass before there is anything to tell.
    """
    return k / k[-1]


def capped_growth(k: Tensor, gamma: float) -> Tensor:
    """min(1, (1 + γ)^k − 1) (Kim et al. 2025)."""
    return torch.expm1(k * math.log1p(gamma)).clamp(max=1.0)


def scaled_growth(k: Tensor, gamma: float) -> Tensor:
    """(1 + γ)^k − 1, scaled to end at 1."""
    curve = torch.expm1(k * math.log1p(gamma))
    return curve / curve[-1]


def constant(k: Tensor, gamma: float) -> Tensor:
    """1 throughout, as in the twisted diffusion sampler (Wu et al. 2023)."""
    return torch.ones_like(k)


def largest_temper(base: Tensor, slope: Tensor, low: Tensor, high: Tensor, share: float) -> Tensor:
    """Find the λ [P] in [low, high] at which log-weights ``base`` + λ ``slope`` have an ESS of ``share`` · N.

    Bisection of all brackets at once, nothing asked of the device in between; the error is (high − low) 2^−24.
    (Where the ESS is not monotone in λ this is one of its crossings.)

    Args:
        base: [P, N], −∞ for the dead; N counts the living.
        slope: [P, N], finite.
        low, high: [P]; ``high`` is given where even that leaves more, ``low`` where that leaves less already.
        share: of the living.
    """
    wanted = share * (base > -float("inf")).sum(-1)

    def enough(temper: Tensor) -> Tensor:
        return effective_sample_size(base + temper.unsqueeze(-1) * slope) >= wanted

    below, above = low, high
    for _ in range(24):
        middle = (below + above) / 2
        holds = enough(middle)
        below, above = torch.where(holds, middle, below), torch.where(holds, above, middle)
    return torch.where(enough(high), high, torch.where(enough(low), below, low))
