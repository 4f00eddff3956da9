"""The same ELBO from whatever a network predicts: its weight for score, ε, z_0, v and flow.

A squared error in one prediction is the squared error in ε times a number that depends on t alone, so

    log p(z_0|c) ≥ −½ ∫ ω(t) E‖target − output‖² dτ + const,    τ = t/T

holds for all of them with their own ω: the table I of ELBO-T2IAlign (Zhou et al., arXiv 2506.09740; there ω is the
inverse, what a training loss weighs the ELBO with), after Kingma & Gao (arXiv 2303.00848).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.errors import check_known
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
