"""The pass behind every estimator on a picture: one latent, many conditions, the same noisy latents for all of them.

``elbo``, ``mi_image``, ``llr_image`` and ``contrast`` read its table; whichever of them are wanted share its forwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import check_known
from mitune.information.catalogue import FORMS
from mitune.information.noising import Noising
from mitune.noise import exact_type, expand


class DenoisingErrors(NamedTuple):
    """Weighted errors, float64: each time's [n, times, conditions] (those of ``noising.at``) or, in nats with the
    "continuous" weights over all times, their sums [n, conditions].

    ``error``: w_t ‖ε̂_k − ε‖² (lower = likelier, up to a constant of the row). ``mi``: w_t ‖ε̂_k − ε̂_ref‖² (None where no
    reference was named).
    """

    error: Tensor
    mi: Tensor | None


@torch.no_grad()
def denoising_terms(
    denoiser: Denoiser,
    z0: Tensor,
    conditions: Sequence[Condition],
    noising: Noising,
    reference: int | None = None,
    form: str = "square",
) -> DenoisingErrors:
    """Measure the errors of every condition on the same noisy versions of ``z0`` [n, …].

    Args:
        conditions: K of them, n rows each.
        noising: with n seeds.
        reference: the condition that ``mi`` compares the others with.
        form: of ``mi``: "square" w ‖ε̂_k − ε̂_ref‖², or "orthogonal" (arXiv 2503.14358)

                w α²/(α + σ)² v̂_k·(v̂_k − v̂_ref) = w (ε̂_k − z_t/(α + σ))·(ε̂_k − ε̂_ref),    v = ε − z_0,

            the same on average over pictures *and* prompts, but of either sign and with more scatter.

    Cost: n · m · K forwards, whichever of error and mi are read. ValueError for batches of different length; UserError
    for an unknown ``form``.
    """
    at = list(range(len(noising.t))) if noising.at is None else list(noising.at)
    n, m, k = len(z0), len(at), len(conditions)
    if len(noising.seeds) != n or any(len(condition) != n for condition in conditions):
        raise ValueError(f"{n} latents need as many seeds and rows in every condition")
    check_known("form", form, FORMS)
    schedule, plan, batch_size = denoiser.schedule, noising.plan(denoiser.schedule), noising.batch_size

    device = denoiser.device
    z0 = z0.to(device=device, dtype=torch.promote_types(torch.float32, z0.dtype))
    exact = exact_type(device)
    times = noising.t[at].to(device)
    error_weights = plan.weights[at].to(device=device, dtype=exact)
    mi_weights = noising.weights[at].to(device=device, dtype=exact)
    error = torch.empty(n * m, k, device=device, dtype=exact)
    mi = torch.empty_like(error) if reference is not None else None

    drawn: dict[int, tuple[Tensor, Tensor]] = {}
    pairs = max(1, batch_size // k)  # all conditions of a (candidate, time) pair share a chunk
    for begin in range(0, n * m, pairs):
        end = min(begin + pairs, n * m)
        first, last = begin // m, (end - 1) // m
        for i in {*drawn} - {*range(first, last + 1)}:
            del drawn[i]
        for i in range(first, last + 1):
            if i not in drawn:
                eps, target = plan.draw(noising.seeds[i], z0, noising.path)
                drawn[i] = (eps, target) if noising.at is None else (eps[at], target[at])
        part = slice(begin - first * m, end - first * m)
        eps, target = (torch.cat([drawn[i][j] for i in range(first, last + 1)])[part] for j in (0, 1))
        pair = torch.arange(begin, end, device=device)
        row, time = pair // m, pair % m

        z = schedule.add_noise(z0[row], eps, times[time])
        table = Condition.cat([condition[first : last + 1] for condition in conditions])
        among = torch.arange(k, device=device) * (last + 1 - first) + (row - first).unsqueeze(1)
        t, rows = times[time].repeat_interleave(k), among.flatten()
        eps_hat = _epsilon(denoiser, z.repeat_interleave(k, 0), t, table, rows, batch_size)
        eps_hat = eps_hat.reshape(end - begin, k, -1)
        squares = (eps_hat - target.flatten(1).unsqueeze(1)).square().sum(-1, dtype=exact)
        error[begin:end] = squares * expand(error_weights[time], squares)
        if mi is not None and reference is not None:
            delta = other = eps_hat - eps_hat[:, reference].unsqueeze(1)
            if form == "orthogonal":
                scale = schedule.alpha(times[time]) + schedule.sigma(times[time])
                other = eps_hat - (z.flatten(1) / expand(scale, z.flatten(1))).unsqueeze(1)
            product = (other * delta).sum(-1, dtype=exact)
            mi[begin:end] = product * expand(mi_weights[time], product)

    return DenoisingErrors(error.reshape(n, m, k), None if mi is None else mi.reshape(n, m, k))


def denoising_errors(
    denoiser: Denoiser,
    z0: Tensor,
    conditions: Sequence[Condition],
    noising: Noising,
    reference: int | None = None,
) -> DenoisingErrors:
    """Add up the terms of all times.

    Args:
        denoiser, z0, conditions, noising, reference: as of ``denoising_terms``.
    """
    error, mi = denoising_terms(denoiser, z0, conditions, noising, reference)
    return DenoisingErrors(error.sum(1), None if mi is None else mi.sum(1))


def _epsilon(
    denoiser: Denoiser, z: Tensor, t: Tensor, table: Condition, rows: Tensor, batch_size: int
) -> Tensor:
    """ε̂ of all rows of ``z``, each under its row of ``table``, in forwards of at most ``batch_size``."""
    parts = [slice(at, at + batch_size) for at in range(0, len(z), batch_size)]
    return torch.cat([denoiser.epsilon(z[part], t[part], table[rows[part]]) for part in parts])


def gaps(denoiser: Denoiser, z0: Tensor, conditions: Sequence[Condition], noising: Noising) -> Tensor:
    """Give ``denoising_errors(…).error`` as float32 [n, conditions], each row less its mean over the conditions."""
    return relative(denoising_errors(denoiser, z0, conditions, noising).error)


def relative(error: Tensor) -> Tensor:
    """Errors [n, conditions] as float32, each row less its mean over the conditions.

    Only differences between conditions mean anything; the common part, thousands of nats in a large latent, would
    cost float32 the decimals that rank.
    """
    return (error - error.mean(1, keepdim=True)).float()
