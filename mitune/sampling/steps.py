"""One sampling step as three numbers: mean(ε̂) = a·z + b·ε̂ and z_prev = mean + std·noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.noise import NoiseSchedule

SAMPLERS = ("ddpm", "ddim", "euler", "lcm")
VARIANCES = ("small", "large")


@dataclass(frozen=True)
class Sampler:
    """How to walk from noise to a latent. UserError where a value is not one of those below.

    ``name``: "ddpm" (ancestral, Ho et al. 2020; Wang et al. Algorithm 2), "ddim" (Song et al. 2021, with ``eta`` times
    the ancestral noise, 0…1; ddpm ignores it: 1), "euler" (rectified flow's ODE: ddim without noise) or "lcm" (few
    steps of a consistency model, Luo et al. 2023: z_s = α_s ẑ_0 + σ_s·noise, all noise fresh). ``variance``: of the
    ddpm step, "small" (posterior) or "large" (forward kernel). ``spacing``, ``steps_offset``: see
    ``NoiseSchedule.timesteps``. ``set_alpha_to_one``: ddim ends at clean data rather than at the table's first entry;
    ddpm and flows always do. ``guidance``: classifier-free scale.
    """

    name: str = "ddpm"
    steps: int = 50
    eta: float = 0.0
    variance: str = "small"
    spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = False
    guidance: float = 7.5

    def __post_init__(self) -> None:
        check_known("sampler.name", self.name, SAMPLERS)
        check_known("sampler.variance", self.variance, VARIANCES)
        if self.name != "ddim":
            object.__setattr__(self, "eta", 1.0 if self.name == "ddpm" else 0.0)
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler.eta={self.eta} must lie in 0…1")
        if self.steps < 1:
            raise UserError(f"sampler.steps={self.steps} must be at least 1")


@dataclass(frozen=True)
class StepCoefficients:
    """The step from time ``t`` to ``t_prev`` (−1 or 0.0: clean data): z_prev = a·z + b·ε̂ + std·noise.

    ``wide``: deviation of the reverse step for data of unit variance, √(v (α_s² + σ_s²)/(α_t² + σ_t²)) (VP: √v), times
    eta: what the density of a coarse step is taken with, as ``std`` is that of data at one point. Of "lcm": likewise
    the deviation of its step for such data, √(σ_s² + α_s² σ_t²/(α_t² + σ_t²)).
    """

    t: int | float
    t_prev: int | float
    a: float
    b: float
    std: float
    wide: float

    def mean(self, z: Tensor, output: Tensor, schedule: NoiseSchedule, prediction_type: str) -> Tensor:
        """a z + b ε̂ [n, …], but in the network's raw ``output``: near SNR 0, ε̂ tells of the picture in its last digits
        only. Differentiable.
        """
        p, q = schedule.epsilon_weights(self.t, prediction_type)
        return torch.add(z * (self.a + self.b * p), output, alpha=self.b * q)


def coefficients(schedule: NoiseSchedule, sampler: Sampler) -> list[StepCoefficients]:
    """The steps of ``sampler``, noisiest first, in float64.

    With forward kernel variance v = σ_t² − (α_t/α_s)² σ_s² from time s to t, the ancestral step adds v σ_s²/σ_t², and

        z_s = α_s ẑ_0 + √(σ_s² − std²) ε̂ + std·noise,   ẑ_0 = (z − σ_t ε̂)/α_t       (DDIM, eq. 12)

    which for std² = v σ_s²/σ_t² is the DDPM posterior mean, and for rectified flow with std = 0 the Euler step
    z_s = z + (s − t)/T v̂. At flow's t = T, where α = 0, ε̂ is read off the smallest α the schedule allows; a and b undo
    just that, so the step itself is exact.
    "lcm" takes std = σ_s. (diffusers' scheduler mixes in 3e-5 of z at t = 10 and less above: left out.)
    Every step lands on the next time of the grid. (diffusers' DDIM subtracts ⌊T/steps⌋ instead: the same wherever
    that spacing is whole, and off by the rounding for "linspace" or when steps do not divide T.)
    UserError as ``NoiseSchedule.timesteps``, and for "euler" without a flow.
    """
    if sampler.name == "euler" and schedule.kind != "flow":
        raise UserError(
            "sampler.name=euler is for rectified flow; this model is a diffusion: use ddim or ddpm"
        )
    grid = schedule.timesteps(sampler.steps, sampler.spacing, sampler.steps_offset).tolist()
    to_clean = sampler.name in ("ddpm", "lcm") or sampler.set_alpha_to_one
    end: int | float = -1 if schedule.kind == "vp" else 0.0
    steps = []
    for t, t_prev in zip(grid, [*grid[1:], end], strict=True):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        true_alpha, true_sigma = (alpha, sigma) if schedule.kind == "vp" else _flow_scales(schedule, t)
        if schedule.kind == "vp" and t_prev < 0:
            final = schedule.final_alpha_bar(to_clean)
            alpha_prev, sigma_prev = final**0.5, (1 - final) ** 0.5
        else:
            alpha_prev, sigma_prev = float(schedule.alpha(t_prev)), float(schedule.sigma(t_prev))
        # At the last step of an offset-0 grid that ends on the table's first entry t = t_prev: round-off below zero.
        forward = max(true_sigma**2 - (true_alpha / alpha_prev * sigma_prev) ** 2, 0.0)
        consistent = sampler.name == "lcm" and sigma_prev > 0
        posterior_std = sigma_prev if consistent else sampler.eta * (forward**0.5) * sigma_prev / true_sigma
        kept = max(sigma_prev**2 - posterior_std**2, 0.0) ** 0.5
        if schedule.kind == "vp":
            a, b = alpha_prev / alpha, kept - alpha_prev * sigma / alpha
        else:  # ẑ_0 = z − σ v̂, ε̂ = z + α v̂: (α_s + kept) z + (kept α − α_s σ) v̂, with v̂ = (ε̂ − z)/alpha
            b = (kept * true_alpha - alpha_prev * true_sigma) / alpha
            a = alpha_prev + kept - b
        # The large variance changes the noise only, never the mean; the last step, onto clean data, adds none.
        large = sampler.name == "ddpm" and sampler.variance == "large" and sigma_prev > 0
        std = forward**0.5 if large else posterior_std
        wide = sampler.eta * (forward * (alpha_prev**2 + sigma_prev**2) / (alpha**2 + sigma**2)) ** 0.5
        if consistent:
            wide = (sigma_prev**2 + (alpha_prev * sigma) ** 2 / (alpha**2 + sigma**2)) ** 0.5
        steps.append(StepCoefficients(t, t_prev, a, b, std, wide))
    return steps


def _flow_scales(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    """(α, σ) of rectified flow at ``t``, without the schedule's floor under α."""
    sigma = t / schedule.num_train_timesteps
    return 1 - sigma, sigma
