"""``elbo``: how much better a prompt explains the noise put on a latent than the null prompt does.

    log p(z_0|c) ≥ −½ ∫ −λ'(t) E‖ε̂(z_t, t, c) − ε‖² dt + const        (VDM, arXiv 2107.00630)

The constant is the same for all conditions, so differences of two of these estimate the log-ratio of their likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.information.denoising import denoising_errors, denoising_terms
from mitune.information.estimate import Estimate
from mitune.noise import NoiseSchedule


def elbo(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    emphasis: Tensor | None = None,
) -> Tensor:
    """error(∅) − error(c) [n] float32; arguments as ``denoising_terms``.

    An estimate of i(z_0; c) in nats where the times span the whole range with the continuous weights; over a part of
    it, of what that part adds.

    Under "coupled" noise it is the log-likelihood ratio of one forward path, which tends to i(z_0; c) for each picture,
    not only on average, as the times grow dense.
    """
    conditions = [denoiser.reference(condition), condition]
    error = denoising_errors(
        denoiser, z0, conditions, t, weights, seeds, batch_size, noise, emphasis=emphasis
    ).error
    return (error[:, 0] - error[:, 1]).float()


def mi_and_elbo(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    form: str = "square",
    random_times: bool = False,
    emphasis: Tensor | None = None,
) -> tuple[Estimate, Estimate]:
    """``mi_image`` and ``elbo`` of the same pictures from the forwards of one, each with its standard error.

    Arguments as ``denoising_terms``; ``random_times`` where ``t`` was drawn all over its range (strategy "random").
    """
    conditions = [denoiser.reference(condition), condition]
    error, mi = denoising_terms(
        denoiser, z0, conditions, t, weights, seeds, batch_size, noise, 0, form, emphasis
    )
    assert mi is not None
    return (
        Estimate.of_terms(mi[:, :, 1], noise, random_times),
        Estimate.of_terms(error[:, :, 0] - error[:, :, 1], noise, random_times),
    )


def score_conditions(
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
    """log p(c_k|z_0) [n, N] float32 of N conditions of equal prior: which prompt fits a picture (diffusion classifier).

    ``conditions``: N of them, of n rows each, or of one row for all pictures; the others as ``denoising_terms``. Rows
    are log-softmax of minus the denoising errors, on noise that all conditions of a picture share (Li et al. 2023,
    arXiv 2303.16203). Cost: n · len(t) · N forwards. ValueError as ``denoising_terms``, and for no condition.
    """
    if not conditions:
        raise ValueError("there must be a condition to score")
    every = torch.zeros(len(z0), dtype=torch.long)
    rows = [condition[every] if len(condition) == 1 else condition for condition in conditions]
    error = denoising_errors(
        denoiser, z0, rows, t, weights, seeds, batch_size, noise, emphasis=emphasis
    ).error
    return torch.log_softmax(-error, dim=1).float()


def log_prob_bound(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    ends: tuple[float, float] | None = None,
) -> Estimate:
    """ELBO of log p(z_0|c) [n] in nats, up to its constant; with the constant where ``ends`` = (t_min, t_max) are told.

    ``t``, ``weights``: a "continuous" ``TimeGrid`` between those ends; the others as ``denoising_terms``. The bound is
    tight where the denoiser is exact and the ends are far apart. A single value scatters with ‖ε‖² of the few times
    that weigh most; in differences between conditions (``elbo``, ``score_conditions``) that cancels.
    ValueError for coupled noise, whose error is one of differences between conditions.
    """
    if noise == "coupled":
        raise ValueError("a coupled path tells conditions apart; it does not bound log p")
    error = denoising_terms(denoiser, z0, [condition], t, weights, seeds, batch_size, noise).error
    bound = Estimate.of_terms(-error[:, :, 0], noise)
    if ends is None:
        return bound
    constant = log_prob_constant(denoiser.schedule, z0[0].numel(), *ends)
    return Estimate(bound.value + constant, bound.standard_error)


def log_prob_constant(schedule: NoiseSchedule, dimensions: int, t_min: float, t_max: float) -> float:
    """What the ELBO between two times lacks of log p: −(d/2) log 2πe + (d/2) ∫ sigmoid(λ) dλ.

    (d/2) sigmoid(λ) is the denoising error of standard normal data, for which the bound is exact (Kong et al. 2023,
    arXiv 2302.03792); outside the two times all data are taken to be like that.
    """
    ends = schedule.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64))
    area = float(torch.nn.functional.softplus(ends[0]) - torch.nn.functional.softplus(ends[1]))
    return 0.5 * dimensions * (area - math.log(2 * math.pi * math.e))
