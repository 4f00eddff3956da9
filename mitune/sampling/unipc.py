"""``unipc``: a multistep predictor that corrects where it stands with each new picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.multistep import second_order
from mitune.sampling.solver import Evaluate, Grid, Interval, StepCoefficients

LEAST_ALPHA = 1e-6  # of a flow's pure noise in λ, as diffusers': the step after it is of second order


@dataclass(frozen=True, kw_only=True)
class _Step(StepCoefficients):
    """An interval and its two moves kept z + pull D, with D a mean of pictures.

    The predictor's: the one seen at its beginning with ``weight``, and the one before that. The corrector's: the one
    before with the weight ``before``, the one at its end with ``end``, and the one at its beginning with the rest.
    """

    interval: Interval
    weight: float
    kept: float
    pull: float
    before: float
    end: float


class UniPC:
    """UniPC of order 2 with B(h) = e^h − 1 (Zhao et al. 2023, arXiv 2302.04867), predicting the picture.

    The predictor is that of DPM-Solver++(2M). Once the network has seen the picture x_i at the z_i that it led to, the
    same step is taken once more with x_i in it (UniC, which costs nothing), and the next one begins there. With
    h = λ_i − λ_{i−1}, r = h_{i−1}/h and φ = e^{−h} − 1,

        z_i = σ_i/σ_{i−1} z_{i−1} − α_i φ [x_{i−1} + ρ_0 (x_{i−1} − x_{i−2})/r + ρ_1 (x_i − x_{i−1})]
        ρ_0 + ρ_1 = b_1,  −r ρ_0 + ρ_1 = b_2,  b_1 = (−φ/h − 1)/φ,  b_2 = 2 ((φ/h + 1)/h − ½)/φ

    The first and the last step are of first order (the first is corrected with ρ_0 = 0, ρ_1 = ½). So is diffusers'
    ``UniPCMultistepScheduler`` with its defaults (solver_order 2, bh2, predict_x0, lower_order_final).
    """

    def __init__(self, grid: Grid, settings: SamplerConfig) -> None:
        self._grid = grid
        self._seen: tuple[_Step, Tensor, Tensor, Tensor] | None = None
        gains = [_gain(at) for at in grid.intervals]
        weights = second_order(gains, first_order_end=True)
        self.steps = []
        for at, gain, before, weight in zip(grid.intervals, gains, [math.inf, *gains], weights, strict=False):
            old, end = (0.0, 0.5) if weight == 1 else _corrector(gain, before / gain)
            self.steps.append(
                _Step(
                    t=at.t, t_prev=at.t_prev, told=at.told, std=0.0, wide=0.0, interval=at, weight=weight,
                    kept=at.sigma_prev / at.true_sigma, pull=-at.alpha_prev * math.expm1(-gain), before=old, end=end,
                )
            )  # fmt: skip

    def mean(self, at: _Step, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:  # type: ignore[override]
        """Give z_i [n, …] by the predictor, from z_{i−1} corrected."""
        picture = self._grid.picture(at.interval, z, output)
        latest = picture
        if self._seen is not None:
            last, begun, latest, older = self._seen
            aimed = latest * (1 - last.before - last.end) + older * last.before + picture * last.end
            z = torch.add(begun * last.kept, aimed, alpha=last.pull)
        self._seen = (at, z, picture, latest)
        return torch.add(z * at.kept, torch.lerp(latest, picture, at.weight), alpha=at.pull)

    def select(self, rows: Tensor) -> None:
        """Keep where it stood, and the last two pictures, of ``rows``."""
        if self._seen is not None:
            last, begun, latest, older = self._seen
            self._seen = (last, begun[rows], latest[rows], older[rows])


def _gain(at: Interval) -> float:
    """The rise of λ, finite from pure noise."""
    if at.true_alpha >= LEAST_ALPHA or at.sigma_prev == 0:
        return at.log_snr_gain
    return math.log(at.alpha_prev / at.sigma_prev) - math.log(LEAST_ALPHA / at.true_sigma)


def _corrector(h: float, r: float) -> tuple[float, float]:
    """(weight of the picture before the interval, of the one at its end) in a corrected step of second order."""
    phi = math.expm1(-h)
    first, second = (-phi / h - 1) / phi, 2 * ((phi / h + 1) / h - 0.5) / phi
    old = (first - second) / (1 + r)
    return -old / r, first - old
