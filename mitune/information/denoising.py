"""The pass behind every estimator on a picture: one latent, many conditions, the same noisy latents for all of them.

``elbo``, ``mi_image``, ``llr_image`` and ``contrast`` read its table; whichever of them are wanted share its forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import check_known
from mitune.noise import NoiseSchedule, expand
from mitune.sampling.seeds import candidate_noise, candidate_seed

NOISES = ("independent", "antithetic", "coupled")
FORMS = ("square", "orthogonal")


class DenoisingTerms(NamedTuple):
    """What each time adds, weighted, float64 [n, times, conditions]: the summands of ``DenoisingErrors``."""

    error: Tensor
    mi: Tensor | None


class DenoisingErrors(NamedTuple):
    """float64 [n, conditions], in nats with the "continuous" weights over all times: ``error`` Σ_t w_t ‖ε̂_k − ε‖²
    (lower = likelier, up to a constant of the row) and ``mi`` Σ_t w_t ‖ε̂_k − ε̂_ref‖² (None where no reference was
    named).
    """

    error: Tensor
    mi: Tensor | None


@dataclass(frozen=True, eq=False)
class ForwardNoise:
    """How raw noise, ``maps`` [maps, …], becomes at each of m times the noise ε of z_t and the target ε̂ is held to."""

    maps: int
    weights: Tensor  # [m] of the squared errors, float64 on the CPU
    spread: Callable[[Tensor], tuple[Tensor, Tensor]]  # maps -> (ε [m, …], target [m, …])


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


@torch.no_grad()
def denoising_terms(
    denoiser: Denoiser,
    z0: Tensor,
    conditions: Sequence[Condition],
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    reference: int | None = None,
    form: str = "square",
    emphasis: Tensor | None = None,
    path: int = 0,
) -> DenoisingTerms:
    """Errors of every condition on the same noisy versions of ``z0`` [n, …], at most ``batch_size`` rows a forward.

    Args:
        conditions: K of them, n rows each.
        t, weights: [m], a ``TimeGrid``.
        seeds: n; row i's noise depends on seeds[i] alone, not on the batch, and is none of the noise its sampler used.
            One seed for all rows is one noise for all candidates.
        noise: "independent" draws anew at each time; "antithetic" gives neighbouring times n and −n; "coupled" walks
            one forward path, whose step variances set the weights of ``error`` (``weights`` then serves ``mi`` only),
            and t must rise.
        reference: the condition that ``mi`` compares the others with.
        form: of ``mi``: "square" w ‖ε̂_k − ε̂_ref‖², or "orthogonal" (arXiv 2503.14358)

                w α²/(α + σ)² v̂_k·(v̂_k − v̂_ref) = w (ε̂_k − z_t/(α + σ))·(ε̂_k − ε̂_ref),    v = ε − z_0,

            the same on average over pictures *and* prompts, but of either sign and with more scatter.
        emphasis: [m] factors on a coupled path's own weights, from ``Weighting.emphasis``.
        path: number of the draw; other numbers give other noise.

    Cost: n · m · K forwards, whichever of error and mi are read. ValueError for batches of different length and for an
    emphasis without a path; UserError for an unknown ``noise`` or ``form``.
    """
    n, m, k = len(z0), len(t), len(conditions)
    if len(seeds) != n or any(len(condition) != n for condition in conditions):
        raise ValueError(f"{n} latents need as many seeds and rows in every condition")
    if len(weights) != m:
        raise ValueError(f"{m} times need as many weights, got {len(weights)}")
    for name, value, known in (("noise", noise, NOISES), ("form", form, FORMS)):
        check_known(name, value, known)
    if noise == "coupled" and m > 1 and not bool((t.diff() > 0).all()):
        raise ValueError("a coupled path needs rising times")
    if emphasis is not None and noise != "coupled":
        raise ValueError("only a coupled path takes an emphasis; elsewhere the weights say it all")
    plan = _plan(denoiser.schedule, t, weights, noise)
    if emphasis is not None:
        plan = replace(plan, weights=plan.weights * emphasis.to("cpu", torch.float64))

    device = denoiser.device
    z0 = z0.to(device=device, dtype=torch.promote_types(torch.float32, z0.dtype))
    exact = torch.float32 if device.type == "mps" else torch.float64
    times = t.to(device)
    error_weights = plan.weights.to(device=device, dtype=exact)
    mi_weights = weights.to(device=device, dtype=exact)
    error = torch.empty(n * m, k, device=device, dtype=exact)
    mi = torch.empty_like(error) if reference is not None else None

    drawn: dict[int, tuple[Tensor, Tensor]] = {}
    pairs = max(1, batch_size // k)  # all conditions of a (candidate, time) pair share a chunk
    for begin in range(0, n * m, pairs):
        end = min(begin + pairs, n * m)
        first, last = begin // m, (end - 1) // m
        drawn = {i: drawn.get(i) or _draw(plan, seeds[i], z0, path) for i in range(first, last + 1)}
        part = slice(begin - first * m, end - first * m)
        eps = torch.cat([drawn[i][0] for i in range(first, last + 1)])[part]
        target = torch.cat([drawn[i][1] for i in range(first, last + 1)])[part]
        pair = torch.arange(begin, end, device=device)
        row, time = pair // m, pair % m

        z = denoiser.schedule.add_noise(z0[row], eps, times[time])
        table = Condition.cat([condition[first : last + 1] for condition in conditions])
        among = torch.arange(k, device=device) * (last + 1 - first) + (row - first).unsqueeze(1)
        eps_hat = _epsilon(
            denoiser,
            z.repeat_interleave(k, 0),
            times[time].repeat_interleave(k),
            table,
            among.flatten(),
            batch_size,
        ).reshape(end - begin, k, -1)
        squares = (eps_hat - target.flatten(1).unsqueeze(1)).square().sum(-1, dtype=exact)
        error[begin:end] = squares * expand(error_weights[time], squares)
        if mi is not None and reference is not None:
            delta = eps_hat - eps_hat[:, reference].unsqueeze(1)
            other = delta
            if form == "orthogonal":
                scale = denoiser.schedule.alpha(times[time]) + denoiser.schedule.sigma(times[time])
                other = eps_hat - (z.flatten(1) / expand(scale, z.flatten(1))).unsqueeze(1)
            product = (other * delta).sum(-1, dtype=exact)
            mi[begin:end] = product * expand(mi_weights[time], product)

    return DenoisingTerms(error.reshape(n, m, k), None if mi is None else mi.reshape(n, m, k))


def denoising_errors(
    denoiser: Denoiser,
    z0: Tensor,
    conditions: Sequence[Condition],
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    reference: int | None = None,
    form: str = "square",
    emphasis: Tensor | None = None,
    path: int = 0,
) -> DenoisingErrors:
    """The terms of :func:`denoising_terms`, which says what the arguments are, added up over the times."""
    error, mi = denoising_terms(
        denoiser, z0, conditions, t, weights, seeds, batch_size, noise, reference, form, emphasis, path
    )
    return DenoisingErrors(error.sum(1), None if mi is None else mi.sum(1))


def _plan(schedule: NoiseSchedule, t: Tensor, weights: Tensor, noise: str) -> ForwardNoise:
    if noise == "coupled":
        return coupled(schedule, t)
    return _antithetic(weights) if noise == "antithetic" else _independent(weights)


def _draw(plan: ForwardNoise, seed: int, z0: Tensor, path: int) -> tuple[Tensor, Tensor]:
    """One candidate's (ε, target), both [m, …], on the device of ``z0``."""
    # The candidate's own seed drew its initial latent: reusing that stream would put correlated noise on z_0.
    maps = candidate_noise(candidate_seed(seed, "forward", path), z0.shape[1:], plan.maps - 1).to(z0.dtype)
    eps, target = plan.spread(maps)
    moved = eps.to(z0.device)
    return moved, moved if target is eps else target.to(z0.device)


def _epsilon(
    denoiser: Denoiser, z: Tensor, t: Tensor, table: Condition, rows: Tensor, batch_size: int
) -> Tensor:
    """ε̂ of all rows of ``z``, each under its row of ``table``, in forwards of at most ``batch_size``."""
    parts = [slice(at, at + batch_size) for at in range(0, len(z), batch_size)]
    return torch.cat([denoiser.epsilon(z[part], t[part], table[rows[part]]) for part in parts])


def gaps(
    denoiser: Denoiser,
    z0: Tensor,
    conditions: Sequence[Condition],
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    emphasis: Tensor | None = None,
) -> Tensor:
    """``denoising_errors(…).error`` as float32 [n, conditions], each row less its mean over the conditions.

    Only differences between conditions mean anything; the common part, thousands of nats in a large latent, would
    cost float32 the decimals that rank.
    """
    error = denoising_errors(
        denoiser, z0, conditions, t, weights, seeds, batch_size, noise, emphasis=emphasis
    ).error
    return (error - error.mean(1, keepdim=True)).float()
