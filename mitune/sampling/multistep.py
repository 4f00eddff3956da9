"""``dpmpp_2m``: DPM-Solver++ of second order, which remembers the picture it saw a step ago."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Evaluate, Grid, Interval, StepCoefficients


@dataclass(frozen=True, kw_only=True)
class _Step(StepCoefficients):
    """An interval with the weight 1 + 1/(2r) of the picture seen on it, against that of the step before."""

    interval: Interval
    weight: float


class DPMSolverPP2M:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2), for diffusions and rectified flows.

    With h_i = λ_i − λ_{i−1}, λ = log(α/σ) and r_i = h_{i−1}/h_i,

        D_i = (1 + 1/(2 r_i)) x_{i−1} − 1/(2 r_i) x_{i−2}
        z_i = σ_i/σ_{i−1} z_{i−1} − α_i (e^{−h_i} − 1) D_i

    where x is the picture ẑ_0 that the network sees. The first step has no x before it, and onto clean data (σ = 0) and
    around pure noise (α = 0) h is infinite: these steps are of first order, D_i = x_{i−1}. So are those of diffusers'
    ``DPMSolverMultistepScheduler`` with its defaults (algorithm_type dpmsolver++, solver_order 2, solver_type midpoint,
    final_sigmas_type zero).
    """

    def __init__(self, grid: Grid, settings: SamplerConfig) -> None:
        self._grid = grid
        self._before: Tensor | None = None
        self.steps = []
        gain_before = math.inf
        for at in grid.intervals:
            gain = at.log_snr_gain
            weight = 1.0 if math.inf in (gain, gain_before) else 1 + gain / (2 * gain_before)
            self.steps.append(_Step(t=at.t, t_prev=at.t_prev, std=0.0, wide=0.0, interval=at, weight=weight))
            gain_before = gain

    def mean(self, at: _Step, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:  # type: ignore[override]
        """Give z_i [n, …]."""
        own = at.interval
        picture = self._grid.picture(own, z, output)
        aimed = picture if self._before is None else torch.lerp(self._before, picture, at.weight)
        self._before = picture
        return torch.add(
            z * (own.sigma_prev / own.true_sigma),
            aimed,
            alpha=-own.alpha_prev * math.expm1(-own.log_snr_gain),
        )

    def select(self, rows: Tensor) -> None:
        """Keep the last picture of ``rows``."""
        if self._before is not None:
            self._before = self._before[rows]
