"""How pictures are noised for an estimator: at which times, with what noise, and what each time counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.information.catalogue import NOISES, ElboConfig, TimesConfig
from mitune.information.times import Profile, Weighting, time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.seeds import candidate_noise, candidate_seed


@dataclass(frozen=True, eq=False)
class Noising:
    """Says all that an estimator on forward noise asks for.

    >>> from mitune.information.elbo import elbo
    >>> noising = Noising(*time_grid(denoiser.schedule, 8, 400, 1000), seeds=[1, 2])
    >>> elbo(denoiser, torch.zeros(2, 2), denoiser.encode_prompts(["a", "b"]), noising).shape
    torch.Size([2])

    Attributes:
        t, weights: [m], a ``TimeGrid``; empty for an estimator that looks at no times.
        seeds: n; the noise of picture i depends on seeds[i] alone, not on the batch, and is none of the noise its
            sampler used. One seed for all pictures is one noise for all.
        batch_size: rows of a forward at most.
        noise: "independent" draws anew at each time; "antithetic" gives neighbouring times n and −n; "coupled" walks
            one forward path, whose step variances set the weights of errors (``weights`` then serves ``mi`` only), and
            t must rise.
        emphasis: [m] factors on a coupled path's own weights, from ``Weighting.emphasis``.
        path: number of the draw; other numbers give other noise.
        at: the places in ``t`` that are measured, None for all; the noise of a time is the same in any case.

    Raises ValueError for other than m weights, times of a path that do not rise, and an emphasis without a path;
    UserError for an unknown ``noise``.
    """

    t: Tensor
    weights: Tensor
    seeds: Sequence[int]
    batch_size: int = 64
    noise: str = ElboConfig.noise
    emphasis: Tensor | None = None
    path: int = 0
    at: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_known("noise", self.noise, NOISES)
        if len(self.weights) != len(self.t):
            raise ValueError(f"{len(self.t)} times need as many weights, got {len(self.weights)}")
        if self.noise == "coupled" and not bool((self.t.diff() > 0).all()):
            raise ValueError("a coupled path needs rising times")
        if self.emphasis is not None and self.noise != "coupled":
            raise ValueError("only a coupled path takes an emphasis; elsewhere the weights say it all")

    def plan(self, schedule: NoiseSchedule) -> ForwardNoise:
        """Say how its raw noise becomes that of each time."""
        if self.noise != "coupled":
            return (_antithetic if self.noise == "antithetic" else _independent)(self.weights)
        plan = coupled(schedule, self.t)
        if self.emphasis is None:
            return plan
        return replace(plan, weights=plan.weights * self.emphasis.to("cpu", torch.float64))


def noising_of(
    name: str, settings: Any, schedule: NoiseSchedule, profile: Profile | None = None, seed: int = 0
) -> Noising:
    """Lay out the times of the score ``name``, without seeds; none where its ``settings`` are no ``TimesConfig``.

    Args:
        profile: for weighting=profile and strategy=importance.
        seed: of times drawn at random.

    Raises UserError as ``time_grid``, and for a time named twice along a path.
    """
    if not isinstance(settings, TimesConfig):
        return Noising(torch.empty(0), torch.empty(0), ())
    noise = getattr(settings, "noise", "coupled")
    ends = (settings.t_min, settings.t_max)
    weighting = Weighting(schedule, settings.weighting, *ends, profile)
    t, weights = time_grid(
        schedule, settings.times, *ends, settings.weighting, settings.strategy, profile, seed
    )
    if noise == "coupled" and not bool((t.diff() > 0).all()):
        raise UserError(
            f"scorer.{name}: strategy={settings.strategy} names a time twice, and a path passes it once;"
            f" lower scorer.{name}.times={settings.times} or choose strategy=even"
        )
    # A path brings the likelihood's own weights.
    emphasis = weighting.emphasis(t) if noise == "coupled" and weighting.name != "continuous" else None
    return Noising(t, weights, (), noise=noise, emphasis=emphasis)


@dataclass(frozen=True, eq=False)
class ForwardNoise:
    """Makes of raw noise, ``maps`` [maps, …], at each of m times the noise ε of z_t and the target ε̂ is held to."""

    maps: int
    weights: Tensor  # [m] of the squared errors, float64 on the CPU
    spread: Callable[[Tensor], tuple[Tensor, Tensor]]  # maps -> (ε [m, …], target [m, …])

    def draw(self, seed: int, z0: Tensor, path: int) -> tuple[Tensor, Tensor]:
        """Draw one picture's (ε, target), both [m, …], on the device of ``z0``."""
        # The candidate's own seed drew its initial latent: reusing that stream would put correlated noise on z_0.
        maps = candidate_noise(candidate_seed(seed, "forward", path), z0.shape[1:], self.maps - 1)
        eps, target = self.spread(maps.to(z0.dtype))
        moved = eps.to(z0.device)
        return moved, moved if target is eps else target.to(z0.device)


def _independent(weights: Tensor) -> ForwardNoise:
    return ForwardNoise(len(weights), weights.to("cpu", torch.float64), lambda maps: (maps, maps))


def _antithetic(weights: Tensor) -> ForwardNoise:
    """Neighbouring times take n and −n: the part of a gap that is odd in the noise, most of its variance, cancels."""
    m = len(weights)

    def spread(maps: Tensor) -> tuple[Tensor, Tensor]:
        eps = torch.stack([maps, -maps], 1).flatten(0, 1)[:m]
        return eps, eps

    return ForwardNoise((m + 1) // 2, weights.to("cpu", torch.float64), spread)


def coupled(schedule: NoiseSchedule, t: Tensor) -> ForwardNoise:
    """One forward path z_{t_0}, z_{t_1}, …, z_{t_m}, each noised from the last, and the likelihood of walking it back.

    With step variance v = σ_t² − (α_t/α_s)² σ_s² (VP: 1 − ᾱ_t/ᾱ_s) and z_t = (α_t/α_s) z_s + √v n, the reverse
    kernel N(z_s; a z_t + b ε̂, ṽ) with a = α_s/α_t, b = −v α_s/(α_t σ_t), ṽ = v (α_s² + σ_s²)/(α_t² + σ_t²) gives

        −log p = b²/(2ṽ) ‖n σ_t/√v − ε̂‖² + const:

    a denoising error whose target is the *last* noise added, not the whole. For VP this is the chain of DDPM with the
    forward variance (ṽ = v); for rectified flow the chain of the SDE dz = −z/(1−t) dt + √(2t/(1−t)) dw, which has the
    flow's marginals. ṽ is the exact reverse variance of data of unit variance, as latents are scaled to have. (The
    narrow posterior variance, that of data at one point, explodes at few steps; the whole noise as target has the mean
    but not the small variance.) The path starts half a stretch below the first time, or at z_0 itself where that
    would be at or below 0.
    """
    t = t.to("cpu", torch.float64)
    start = float(t[0] - (t[1] - t[0]) / 2) if len(t) > 1 else 0.0
    alpha_s, sigma_s = (
        (float(schedule.alpha(start)), float(schedule.sigma(start))) if start > 0 else (1.0, 0.0)
    )
    steps: list[tuple[float, float, float]] = []  # ε = keep · ε_last + add · n, target = aim · n
    weights = []
    for time in t:
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        ratio = alpha / alpha_s
        variance = sigma**2 - (ratio * sigma_s) ** 2
        steps.append((ratio * sigma_s / sigma, variance**0.5 / sigma, sigma / variance**0.5))
        wide = (alpha_s**2 + sigma_s**2) / (alpha**2 + sigma**2)
        weights.append(variance / (2 * wide * (ratio * sigma) ** 2))
        alpha_s, sigma_s = alpha, sigma

    def spread(maps: Tensor) -> tuple[Tensor, Tensor]:
        eps, target = torch.empty_like(maps[1:]), torch.empty_like(maps[1:])
        last = maps[0]
        for j, (keep, add, aim) in enumerate(steps):
            eps[j] = last = keep * last + add * maps[j + 1]
            target[j] = aim * maps[j + 1]
        return eps, target

    return ForwardNoise(len(t) + 1, torch.tensor(weights, dtype=torch.float64), spread)
