"""``heun``: the trapezoidal rule, which looks at both ends of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.noise import MIN_ALPHA
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Evaluate, Grid, Interval, StepCoefficients

PURE = 1.01 * MIN_ALPHA  # α of pure noise, as a table that ends at SNR 0 has it


@dataclass(frozen=True, kw_only=True)
class _Step(StepCoefficients):
    """An interval and its move kept z + pull D; D is x, then x' with ``weight`` and x with the rest. ``after``: the
    next one, None where this ends at clean data.
    """

    interval: Interval
    after: Interval | None
    weight: float
    kept: float
    pull: float


class Heun:
    """Heun's method (Karras et al. 2022, arXiv 2206.00364, Algorithm 1 without churn), two evaluations a step.

    For diffusions in z/α over σ/α, for rectified flows in z over σ. With ρ the ratio of σ/α (σ) after the step to
    before, x the picture seen at z, z' the end of Euler's step and x' the picture seen there,

        z'      = ρ z + (1 − ρ) x
        z_prev  = ρ z + (1 − ρ) [x + (x' − x) / 2ρ]

    (of diffusions: of z/α). The last step, onto clean data, is Euler's. As diffusers' ``HeunDiscreteScheduler`` and
    ``FlowMatchHeunDiscreteScheduler``, whose ``timesteps`` count evaluations, not steps. From pure noise, which they do
    not know, a diffusion steps as a flow does, in z/(α+σ) over σ/(α+σ): there σ/α is all but infinite, and 1/ρ blows up
    the least error of x'.
    """

    def __init__(self, grid: Grid, settings: SamplerConfig) -> None:
        self._grid = grid
        self.steps = []
        for at, after in zip(grid.intervals, [*grid.intervals[1:], None], strict=True):
            kept = at.sigma_prev / at.true_sigma
            ratio, scale = math.exp(-at.log_snr_gain), at.alpha_prev
            if at.flow or at.true_alpha <= PURE:
                scale = at.alpha_prev + at.sigma_prev
                ratio = kept * (at.true_alpha + at.true_sigma) / scale
            self.steps.append(
                _Step(
                    t=at.t, t_prev=at.t_prev, told=at.told, std=0.0, wide=0.0, interval=at, after=after, kept=kept,
                    weight=1.0 if after is None else 0.5 / ratio, pull=scale * (1 - ratio),
                )
            )  # fmt: skip

    def mean(self, at: _Step, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:  # type: ignore[override]
        """Give z_prev [n, …]."""
        picture, kept = self._grid.picture(at.interval, z, output), z * at.kept
        there = torch.add(kept, picture, alpha=at.pull)
        if at.after is None:
            return there
        seen = self._grid.picture(at.after, there, evaluate(there, at.after.t, at.after.told))
        return torch.add(kept, torch.lerp(picture, seen, at.weight), alpha=at.pull)

    def select(self, rows: Tensor) -> None:
        """Remember nothing."""
