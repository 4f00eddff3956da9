"""``dpmpp_2m`` and ``dpmpp_2m_sde``: DPM-Solver++ of second order, which remembers the picture it saw a step ago."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Evaluate, Grid, Interval, StepCoefficients

FEW = 15  # steps below which the last is of first order wherever it ends, as diffusers' lower_order_final has it


@dataclass(frozen=True, kw_only=True)
class _Step(StepCoefficients):
    """An interval, and what is done on it: z_i = kept z_{i−1} + pull D_i.

    D_i = weight x_{i−1} + (1 − weight) x_{i−2}, of the pictures x seen on it and on the interval before.
    """

    interval: Interval
    weight: float
    kept: float
    pull: float


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
        own = grid.intervals
        weights = second_order([at.log_snr_gain for at in own], first_order_end=len(own) < FEW)
        self.steps = [
            self._step(at, weight, before)
            for at, weight, before in zip(own, weights, [None, *own[:-1]], strict=True)
        ]

    def _step(self, at: Interval, weight: float, before: Interval | None) -> _Step:
        """The step of an interval: it adds no noise, and nobody asks what its mean is in ε̂."""
        return _Step(
            t=at.t, t_prev=at.t_prev, told=at.told, std=0.0, wide=0.0, interval=at, weight=weight,
            kept=at.sigma_prev / at.true_sigma, pull=-at.alpha_prev * math.expm1(-at.log_snr_gain),
        )  # fmt: skip

    def mean(self, at: _Step, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:  # type: ignore[override]
        """Give the mean of z_i [n, …]."""
        picture = self._grid.picture(at.interval, z, output)
        aimed = picture if self._before is None else torch.lerp(self._before, picture, at.weight)
        self._before = picture
        return torch.add(z * at.kept, aimed, alpha=at.pull)

    def select(self, rows: Tensor) -> None:
        """Keep the last picture of ``rows``."""
        if self._before is not None:
            self._before = self._before[rows]


class SDEDPMSolverPP2M(DPMSolverPP2M):
    """SDE-DPM-Solver++(2M): the same pictures, with the noise of the reverse SDE (the paper's section 4.3 and App. D).

        z_i = σ_i/σ_{i−1} e^{−h_i} z_{i−1} + α_i (1 − e^{−2h_i}) D_i + σ_i √(1 − e^{−2h_i})·noise

    As diffusers' scheduler of algorithm_type sde-dpmsolver++. A step of first order is ``ddpm``'s: the noise is that of
    the posterior.
    """

    def _step(self, at: Interval, weight: float, before: Interval | None) -> _Step:
        gain = at.log_snr_gain
        pull = -at.alpha_prev * math.expm1(-2 * gain)
        return _Step(
            t=at.t, t_prev=at.t_prev, told=at.told, std=at.posterior_std, wide=at.spread,
            b=pull * weight * at.picture_per_epsilon,
            c=0.0 if before is None else pull * (1 - weight) * before.picture_per_epsilon,
            interval=at, weight=weight, kept=at.sigma_prev / at.true_sigma * math.exp(-gain), pull=pull,
        )  # fmt: skip


def second_order(gains: Sequence[float], first_order_end: bool) -> list[float]:
    """Give 1 + 1/(2 r) for every interval: what the picture seen on it weighs against the one before.

    It is 1, of first order, on the first, where h or the one before is infinite, and on the last where that is asked.
    """
    found = []
    for index, (before, gain) in enumerate(zip([math.inf, *gains[:-1]], gains, strict=True)):
        last = first_order_end and index + 1 == len(gains)
        found.append(1.0 if last or math.inf in (gain, before) else 1 + gain / (2 * before))
    return found
