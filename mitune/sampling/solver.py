"""Solvers: the grid of a model's times, and the steps that a sampler takes on it.

A sampler is a function of a :class:`Grid` and its settings that gives a :class:`Solver`; it stands in a file of its own
and is named in :mod:`mitune.sampling.catalogue`. The loop (:func:`mitune.sampling.loop.walk`) adds the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.grids import places_of


class Evaluate(Protocol):
    """Evaluates the network once more within a step; n rows of a forward for every branch that guidance takes there."""

    def __call__(self, z: Tensor, t: float, told: float | None = None) -> Tensor:
        """Give its guided raw output [n, …] at ``z`` [n, …] and time ``t``, of which it is told ``told`` (None: t)."""


@dataclass(frozen=True)
class StepCoefficients:
    """The step from time ``t`` to ``t_prev`` (−1 or 0.0: clean data): z_prev = mean + std·noise.

    Attributes:
        std: deviation of the noise that is added; 0 for none.
        wide: deviation of the reverse step for data of unit variance, √(v (α_s² + σ_s²)/(α_t² + σ_t²)) (VP: √v), times
            eta: what the density of a coarse step is taken with, as ``std`` is that of data at one point. Of "lcm":
            likewise the deviation of its step for such data, √(σ_s² + α_s² σ_t²/(α_t² + σ_t²)).
        a, b: the mean is a·z + b·ε̂; a is NaN where it depends on more than z_t and the output there.
        c: b·ε̂ + c·ε̂_before is what of the mean depends on what the network was told, ε̂_before the one of the step
            before. b and c are NaN where it depends on more than these two.
        told: the time that the network is told, where that is not t: a grid may lie between whole times.
    """

    t: int | float
    t_prev: int | float
    std: float
    wide: float
    a: float = math.nan
    b: float = math.nan
    c: float = 0.0
    told: float | None = None

    @property
    def time(self) -> float:
        """Give the time to tell the network."""
        return self.t if self.told is None else self.told


class Solver(Protocol):
    """Walks from noise to latents. It may remember what it saw, and may evaluate the network twice in a step."""

    @property
    def steps(self) -> Sequence[StepCoefficients]:
        """Every step, noisiest first."""

    def mean(self, at: StepCoefficients, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:
        """Give the mean [n, …] of z_prev, a new tensor, from the network's guided raw ``output`` [n, …] at ``z``.

        Near SNR 0, ε̂ tells of the picture in its last digits only, so a step is best taken in the output itself.
        """

    def select(self, rows: Tensor) -> None:
        """Keep what it remembers of ``rows`` [m] only: the population was resampled after ``mean``."""


@dataclass(frozen=True)
class Interval:
    """One interval of the grid: from t with scales (α_t, σ_t) to t_prev with (α_s, σ_s).

    Attributes:
        alpha, sigma: as the schedule has them; a flow's α has a floor, so that ε̂ can be read off everywhere.
        true_alpha, true_sigma: without that floor.
        forward: variance v = σ_t² − (α_t/α_s)² σ_s² of the forward kernel from s to t.
        told: as of ``StepCoefficients``.
    """

    t: int | float
    t_prev: int | float
    alpha: float
    sigma: float
    true_alpha: float
    true_sigma: float
    alpha_prev: float
    sigma_prev: float
    forward: float
    flow: bool
    told: float | None = None

    @property
    def posterior_std(self) -> float:
        """Deviation of the ancestral step, √v σ_s/σ_t."""
        return (self.forward**0.5) * self.sigma_prev / self.true_sigma

    @property
    def spread(self) -> float:
        """Deviation of the reverse step for data of unit variance, √(v (α_s² + σ_s²)/(α_t² + σ_t²))."""
        before, after = self.alpha_prev**2 + self.sigma_prev**2, self.alpha**2 + self.sigma**2
        return (self.forward * before / after) ** 0.5

    @property
    def log_snr_gain(self) -> float:
        """Rise h = λ_s − λ_t of λ = log(α/σ); infinite from pure noise and onto clean data."""
        if self.true_alpha == 0 or self.sigma_prev == 0:
            return math.inf
        return math.log(self.alpha_prev / self.sigma_prev) - math.log(self.true_alpha / self.true_sigma)

    @property
    def picture_per_epsilon(self) -> float:
        """The slope dẑ_0/dε̂ = −σ_t/α_t of the picture in what the network says of the noise."""
        return -self.true_sigma / self.alpha

    def step(self, kept_for: float, std: float, wide: float) -> StepCoefficients:
        """Give DDIM's step (Song et al. 2021, eq. 12): z_s = α_s ẑ_0 + √(σ_s² − ``kept_for``²) ε̂ + ``std``·noise.

        With ẑ_0 = (z − σ_t ε̂)/α_t. At flow's t = T, where α = 0, ε̂ is read off the smallest α the schedule allows; a
        and b undo just that, so the step itself is exact.
        """
        kept = max(self.sigma_prev**2 - kept_for**2, 0.0) ** 0.5
        if self.flow:  # ẑ_0 = z − σ v̂, ε̂ = z + α v̂: (α_s + kept) z + (kept α − α_s σ) v̂, v̂ = (ε̂ − z)/alpha
            b = (kept * self.true_alpha - self.alpha_prev * self.true_sigma) / self.alpha
            a = self.alpha_prev + kept - b
        else:
            a, b = self.alpha_prev / self.alpha, kept - self.alpha_prev * self.sigma / self.alpha
        return StepCoefficients(self.t, self.t_prev, std, wide, a, b, told=self.told)


@dataclass(frozen=True, eq=False)
class Grid:
    """The intervals of a path, noisiest first, and how the model's raw output is read on them."""

    schedule: NoiseSchedule
    prediction_type: str
    intervals: Sequence[Interval]

    def picture(self, at: Interval, z: Tensor, output: Tensor) -> Tensor:
        """Give ẑ_0 [n, …], the picture that the network sees in ``z`` at the beginning of an interval."""
        p, q = self.schedule.clean_weights(at.t, self.prediction_type)
        if self.prediction_type == "flow":
            q = -at.true_sigma
        return torch.add(z * p, output, alpha=q)


class LinearSolver:
    """Solver without memory whose mean is a·z + b·ε̂, taken in the network's raw output."""

    def __init__(self, grid: Grid, steps: Sequence[StepCoefficients]) -> None:
        self.steps = steps
        self._grid = grid

    def mean(self, at: StepCoefficients, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:
        """Give a·z + b·ε̂ [n, …]."""
        p, q = self._grid.schedule.epsilon_weights(at.t, self._grid.prediction_type)
        return torch.add(z * (at.a + at.b * p), output, alpha=at.b * q)

    def select(self, rows: Tensor) -> None:
        """Remember nothing."""


def in_interval(interval: Sequence[float] | None, t: float) -> bool:
    """Tell whether guidance works at a step's time ``t``: in [low, high], ends included, or everywhere (None)."""
    return interval is None or interval[0] <= t <= interval[1]


def solver_of(denoiser: Denoiser, settings: SamplerConfig) -> Solver:
    """Make the solver of ``settings``; its steps are laid out as the model's scheduler has them, where these are None.

    UserError for a setting out of bounds, a grid that the schedule does not have, a flow's sampler on a diffusion, and
    a guidance interval between the steps.
    """
    schedule, settings = denoiser.schedule, settings.resolved(denoiser.sampler_defaults)
    settings.check("sampler.")
    part = SAMPLERS[settings.name]
    if part.flow_only and schedule.kind != "flow":
        raise UserError(
            f"sampler.name={part.name} is for rectified flow; this model is a diffusion: use ddim or ddpm"
        )
    early = part.grid == "multistep" and denoiser.sampler_defaults.get("ends_at_first")
    to_clean = (part.clean_end or bool(settings.set_alpha_to_one)) and not early
    places = places_of(schedule, settings, part)
    if not any(in_interval(settings.guidance_interval, t) for t, _ in places):
        raise UserError(
            f"sampler.guidance_interval={list(settings.guidance_interval or ())}: none of the steps' times,"
            f" {places[0][0]:g} to {places[-1][0]:g}, lies within, so nothing would be guided; give a wider interval,"
            " or null for all times"
        )
    grid = Grid(schedule, denoiser.prediction_type, _intervals(schedule, places, to_clean))
    solver: Solver = part.load()(grid, settings)
    return solver


def _intervals(
    schedule: NoiseSchedule, places: Sequence[tuple[float, float | None]], to_clean: bool
) -> list[Interval]:
    """The intervals of a grid in float64; the last one ends at clean data (always so for a flow) or the first entry.

    Every step lands on the next time of the grid. (diffusers' DDIM subtracts ⌊T/steps⌋ instead: the same wherever that
    spacing is whole, and off by the rounding for "linspace" or when steps do not divide T.)
    """
    flow = schedule.kind == "flow"
    found = []
    ends = [*(t for t, _ in places[1:]), 0.0 if flow else -1]
    for (t, told), t_prev in zip(places, ends, strict=True):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        share = t / schedule.num_train_timesteps
        true_alpha, true_sigma = (1 - share, share) if flow else (alpha, sigma)
        if not flow and t_prev < 0:
            final = schedule.final_alpha_bar(to_clean)
            alpha_prev, sigma_prev = final**0.5, (1 - final) ** 0.5
        else:
            alpha_prev, sigma_prev = float(schedule.alpha(t_prev)), float(schedule.sigma(t_prev))
        # At the last step of an offset-0 grid that ends on the table's first entry t = t_prev: round-off below zero.
        forward = max(true_sigma**2 - (true_alpha / alpha_prev * sigma_prev) ** 2, 0.0)
        scales = (alpha, sigma, true_alpha, true_sigma, alpha_prev, sigma_prev)
        found.append(Interval(t, t_prev, *scales, forward, flow, told))
    return found
