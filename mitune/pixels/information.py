"""Where in a latent a phrase makes a difference: maps of information, which need no attention.

With ε̂ at a noisy picture z_t, cell by cell (norms are over the channels):

* gap: ‖ε̂(c) − ε̂(c without the phrase)‖, how far the network moves;
* elbo: ‖ε̂(c without it) − ε‖² − ‖ε̂(c) − ε‖², how much worse it tells the noise;
* mi: ‖ε̂(phrase) − ε̂(∅)‖², whose sum over the cells is the integrand of ``mi`` (Kong et al., arXiv 2310.07972).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.information.noising import Noising


def squared(difference: Tensor) -> Tensor:
    """‖·‖² [n, H, W] over the channels of [n, C, H, W]; of latents without cells, each number squared."""
    squares = difference.square()
    return squares.sum(1) if squares.ndim > 2 else squares


def shared(maps: Tensor) -> Tensor:
    """Maps [n, H, W] over their sum, so that every time counts alike."""
    total = maps.flatten(1).sum(1).clamp_min(torch.finfo(maps.dtype).tiny)
    return maps / total.reshape(-1, *[1] * (maps.ndim - 1))


@torch.no_grad()
def information_map(
    denoiser: Denoiser, z0: Tensor, conditions: Sequence[Condition], noising: Noising
) -> Tensor:
    """Σ_t w_t ‖ε̂(c) − ε̂(c')‖² of each cell [n, H, W] of ``z0``, of two ``conditions`` c and c' of n rows each.

    Its sum over the cells is the ``mi`` of :func:`mitune.information.denoising.denoising_terms`, from the same noise.
    """
    z0 = z0.to(denoiser.device)
    plan, schedule, times = noising.plan(denoiser.schedule), denoiser.schedule, noising.t.to(denoiser.device)
    drawn = torch.stack([plan.draw(seed, z0, noising.path)[0] for seed in noising.seeds], 1)
    told = Condition.cat(conditions)
    total = 0.0
    for time, noise, weight in zip(times, drawn, noising.weights.tolist(), strict=True):
        z = schedule.add_noise(z0, noise, time.expand(len(z0)))
        twice, t = torch.cat([z, z]), time.expand(2 * len(z0))
        parts = [slice(at, at + noising.batch_size) for at in range(0, len(twice), noising.batch_size)]
        eps = torch.cat([denoiser.epsilon(twice[p], t[p], told[p]) for p in parts])
        first, other = eps.chunk(2)
        total = total + weight * squared(first - other)
    return torch.as_tensor(total)
