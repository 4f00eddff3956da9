"""Closed forms that the estimators are held against: the ELBO of log p, and its weight for every prediction.

A squared error in one prediction is the squared error in ε times a number that depends on t alone, so

    log p(z_0|c) ≥ −½ ∫ ω(t) E‖target − output‖² dτ + const,    τ = t/T

holds for all of them with their own ω: the table I of ELBO-T2IAlign (Zhou et al., arXiv 2506.09740; there ω is the
inverse, what a training loss weighs the ELBO with), after Kingma & Gao (arXiv 2303.00848).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import check_known
from mitune.information.denoising import denoising_terms
from mitune.information.noising import Noising
from mitune.noise import NoiseSchedule, Time, expand

PREDICTIONS = ("score", "epsilon", "sample", "v_prediction", "flow")


def elbo_weight(schedule: NoiseSchedule, t: Time, prediction: str) -> Tensor:
    """ω(t), float64, of the shape of ``t``; −λ' = −dλ/dτ.

    score −λ' σ²; epsilon −λ'; sample −λ' α²/σ²; v_prediction −λ' α² (α² + σ² = 1); flow −λ' α²/(α + σ)².
    UserError for an unknown prediction.
    """
    check_known("prediction", prediction, PREDICTIONS)
    alpha, sigma, slope = schedule.alpha(t), schedule.sigma(t), -schedule.dlog_snr(t)
    if prediction == "score":
        return slope * sigma**2
    if prediction == "sample":
        return slope * (alpha / sigma) ** 2
    if prediction == "v_prediction":
        return slope * alpha**2
    if prediction == "flow":
        return slope * (alpha / (alpha + sigma)) ** 2
    return slope


def prediction_target(schedule: NoiseSchedule, z0: Tensor, noise: Tensor, t: Time, prediction: str) -> Tensor:
    """What a network of this kind should output [n, …]; "score": ∇ log q(z_t|z_0) = −ε/σ_t. UserError as above."""
    check_known("prediction", prediction, PREDICTIONS)
    if prediction == "score":
        return -noise / expand(torch.as_tensor(schedule.sigma(t)), noise)
    return schedule.target(prediction, z0, noise, t)


def elbo_density(
    schedule: NoiseSchedule, output: Tensor, z0: Tensor, noise: Tensor, t: Time, prediction: str
) -> Tensor:
    """½ ω(t) ‖target − output‖² [n] float64, nats per unit of τ: minus its mean over τ in [0, 1] bounds log p(z_0|c).

    ``output``: raw network output at z_t = α z_0 + σ ε. The same number whatever the network predicts.
    """
    error = (prediction_target(schedule, z0, noise, t, prediction) - output).flatten(1)
    exact = torch.float32 if error.device.type == "mps" else torch.float64
    squares = error.square().sum(1, dtype=exact)
    return 0.5 * expand(torch.as_tensor(elbo_weight(schedule, t, prediction)), squares) * squares


def log_prob_bound(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    noising: Noising,
    ends: tuple[float, float] | None = None,
) -> Tensor:
    """ELBO of log p(z_0|c) [n] in nats, up to its constant; with the constant where ``ends`` = (t_min, t_max) are told.

    ``noising``: of a "continuous" ``TimeGrid`` between those ends. The bound is tight where the denoiser is exact and
    the ends are far apart.
    """
    error = denoising_terms(denoiser, z0, [condition], noising).error
    bound = -error[:, :, 0].sum(1).float()
    if ends is None:
        return bound
    return bound + log_prob_constant(denoiser.schedule, z0[0].numel(), *ends)


def log_prob_constant(schedule: NoiseSchedule, dimensions: int, t_min: float, t_max: float) -> float:
    """What the ELBO between two times lacks of log p: −(d/2) log 2πe + (d/2) ∫ sigmoid(λ) dλ.

    (d/2) sigmoid(λ) is the denoising error of standard normal data, for which the bound is exact (Kong et al. 2023,
    arXiv 2302.03792); outside the two times all data are taken to be like that.
    """
    ends = schedule.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64))
    area = float(torch.nn.functional.softplus(ends[0]) - torch.nn.functional.softplus(ends[1]))
    return 0.5 * dimensions * (area - math.log(2 * math.pi * math.e))
