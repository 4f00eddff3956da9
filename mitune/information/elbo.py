"""``elbo``: how much better a prompt explains the noise put on a latent than the null prompt does.

The heart is ``denoising_errors``: one latent, many conditions, the same noisy latents for all of them. ``elbo``,
``mi_image`` and ``contrast`` read its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError, nearest
from mitune.noise import NoiseSchedule, expand
from mitune.sampling.seeds import candidate_noise, candidate_seed

NOISES = ("independent", "coupled")


class TimeGrid(NamedTuple):
    """Times ``t`` [m], rising (int64 for VP, float64 for flow), and the share ``weights`` [m] of ∫ −½λ' dτ of each."""

    t: Tensor
    weights: Tensor


class DenoisingErrors(NamedTuple):
    """float64 [n, conditions], in nats: ``error`` Σ_t w_t ‖ε̂_k − ε‖² (lower = likelier, up to a constant of the
    row) and ``mi`` Σ_t w_t ‖ε̂_k − ε̂_ref‖² (None where no reference was named).
    """

    error: Tensor
    mi: Tensor | None


def time_grid(schedule: NoiseSchedule, n: int, t_min: float, t_max: float) -> TimeGrid:
    """Midpoints of ``n`` equal stretches of [t_min, t_max], each weighted by its ½(λ(lower) − λ(upper)).

    Midpoints are rounded to whole steps for VP networks, which are trained on those. UserError unless
    0 ≤ t_min < t_max ≤ T and the stretches are at least one step wide.
    """
    total = schedule.num_train_timesteps
    if not 0 <= t_min < t_max <= total:
        raise UserError(f"times: t_min={t_min} and t_max={t_max} must satisfy 0 ≤ t_min < t_max ≤ {total}")
    if not 1 <= n <= t_max - t_min:
        raise UserError(f"times={n} must lie in 1…{int(t_max - t_min)}, the steps between t_min and t_max")
    edges = torch.linspace(t_min, t_max, n + 1, dtype=torch.float64)
    t = (edges[1:] + edges[:-1]) / 2
    weights = -0.5 * schedule.log_snr(edges).diff()
    return TimeGrid(t.floor().long() if schedule.kind == "vp" else t, weights)


@dataclass(frozen=True, eq=False)
class _ForwardNoise:
    """How raw noise maps n [maps] become, at each of m times, the noise ε of z_t and the ``target`` ε̂ is held to."""

    mix: Tensor  # [m, maps]: ε = mix @ n
    aim: Tensor  # [m, maps]: target = aim @ n
    weights: Tensor  # [m]


def _independent(weights: Tensor) -> _ForwardNoise:
    eye = torch.eye(len(weights), dtype=torch.float64)
    return _ForwardNoise(eye, eye, weights.to("cpu", torch.float64))


def _coupled(schedule: NoiseSchedule, t: Tensor) -> _ForwardNoise:
    """One forward path z_{t_0}, z_{t_1}, …, z_{t_m}, each noised from the last, and the likelihood of walking it back.

    With step variance v = σ_t² − (α_t/α_s)² σ_s² (VP: 1 − ᾱ_t/ᾱ_s) and z_t = (α_t/α_s) z_s + √v n, the reverse
    kernel N(z_s; a z_t + b ε̂, v) with a = α_s/α_t, b = −v α_s/(α_t σ_t) gives

        −log p = b²/(2v) ‖n σ_t/√v − ε̂‖² + const:

    a denoising error whose target is the *last* noise added, not the whole. (The narrow posterior variance explodes
    at few steps; the whole noise as target has the mean but not the small variance.) The path starts half a stretch
    below the first time, or at z_0 itself where that would be at or below 0.
    """
    t = t.to("cpu", torch.float64)
    m = len(t)
    mix, aim = torch.zeros(m, m + 1, dtype=torch.float64), torch.zeros(m, m + 1, dtype=torch.float64)
    weights = torch.zeros(m, dtype=torch.float64)
    start = float(t[0] - (t[1] - t[0]) / 2) if m > 1 else 0.0
    alpha_s, sigma_s = (
        (float(schedule.alpha(start)), float(schedule.sigma(start))) if start > 0 else (1.0, 0.0)
    )
    last = torch.zeros(m + 1, dtype=torch.float64)
    last[0] = 1.0
    for j in range(m):
        alpha, sigma = float(schedule.alpha(t[j])), float(schedule.sigma(t[j]))
        ratio = alpha / alpha_s
        variance = sigma**2 - (ratio * sigma_s) ** 2
        mix[j] = ratio * sigma_s / sigma * last
        mix[j, j + 1] = variance**0.5 / sigma
        aim[j, j + 1] = sigma / variance**0.5
        weights[j] = variance / (2 * (ratio * sigma) ** 2)
        last, alpha_s, sigma_s = mix[j], alpha, sigma
    return _ForwardNoise(mix, aim, weights)


@torch.no_grad()
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
) -> DenoisingErrors:
    """Errors of every condition on the same noisy versions of ``z0`` [n, …], at most ``batch_size`` rows a forward.

    ``conditions``: K of them, n rows each; ``t``, ``weights``: a ``TimeGrid``; ``seeds`` [n]: row i's noise depends on
    seeds[i] alone, not on the batch, and is none of the noise its sampler used. ``noise``: "independent" draws anew at
    each time; "coupled" walks one forward path, whose step variances set the weights of ``error`` (``weights`` then
    serves ``mi`` only) and t must rise. Cost: n · len(t) · K forwards.
    ValueError for batches of different length; UserError for an unknown ``noise``.
    """
    n, m, k = len(z0), len(t), len(conditions)
    if len(seeds) != n or any(len(condition) != n for condition in conditions):
        raise ValueError(f"{n} latents need as many seeds and rows in every condition")
    if len(weights) != m:
        raise ValueError(f"{m} times need as many weights, got {len(weights)}")
    if noise not in NOISES:
        raise UserError(f"noise={noise!r} is not known{nearest(noise, NOISES)} (known: {', '.join(NOISES)})")
    if noise == "coupled" and m > 1 and not bool((t.diff() > 0).all()):
        raise ValueError("a coupled path needs rising times")
    plan = _independent(weights) if noise == "independent" else _coupled(denoiser.schedule, t)

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
        drawn = {i: drawn.get(i) or _draw(plan, seeds[i], z0) for i in range(first, last + 1)}
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
            squares = (eps_hat - eps_hat[:, reference].unsqueeze(1)).square().sum(-1, dtype=exact)
            mi[begin:end] = squares * expand(mi_weights[time], squares)

    return DenoisingErrors(error.reshape(n, m, k).sum(1), None if mi is None else mi.reshape(n, m, k).sum(1))


def _draw(plan: _ForwardNoise, seed: int, z0: Tensor) -> tuple[Tensor, Tensor]:
    """One candidate's (ε, target), both [m, …], on the device of ``z0``."""
    # The candidate's own seed drew its initial latent: reusing that stream would put correlated noise on z_0.
    maps = candidate_noise(candidate_seed(seed, "forward", 0), z0.shape[1:], plan.mix.shape[1] - 1)
    if plan.mix is plan.aim:
        eps = maps.to(device=z0.device, dtype=z0.dtype)
        return eps, eps
    flat = maps.flatten(1).to(z0.dtype)
    shape = (len(plan.mix), *z0.shape[1:])
    eps, target = (
        (matrix.to(z0.dtype) @ flat).reshape(shape).to(z0.device) for matrix in (plan.mix, plan.aim)
    )
    return eps, target


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
) -> Tensor:
    """``denoising_errors(…).error`` as float32 [n, conditions], each row less its mean over the conditions.

    Only differences between conditions mean anything; the common part, thousands of nats in a large latent, would
    cost float32 the decimals that rank.
    """
    error = denoising_errors(denoiser, z0, conditions, t, weights, seeds, batch_size, noise).error
    return (error - error.mean(1, keepdim=True)).float()


def elbo(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
) -> Tensor:
    """Estimate of i(z_0; c) [n] float32 in nats: error(∅) − error(c); arguments as ``denoising_errors``.

    Under "coupled" noise it is the log-likelihood ratio of one forward path, which tends to i(z_0; c) for each picture,
    not only on average, as the times grow dense.
    """
    conditions = [denoiser.null(len(z0)), condition]
    error = denoising_errors(denoiser, z0, conditions, t, weights, seeds, batch_size, noise).error
    return (error[:, 0] - error[:, 1]).float()


def mi_image(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
) -> Tensor:
    """``mi`` of a picture [n] float32: Σ_t w_t ‖ε̂_c − ε̂_∅‖² on forward noise. The forwards are those of ``elbo``."""
    conditions = [denoiser.null(len(z0)), condition]
    both = denoising_errors(denoiser, z0, conditions, t, weights, seeds, batch_size, noise, reference=0)
    assert both.mi is not None
    return both.mi[:, 1].float()
