"""Tilted Gaussian mixtures: what steering by a linear or quadratic reward must end up with, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.search.potentials import RewardPotential


@dataclass(frozen=True)
class LatentReward:
    """A reward that reads latents [n, …] instead of pictures: ``function(latents, prompts)`` gives scores [n]."""

    name: str
    function: Callable[[Tensor, list[str]], Tensor]
    differentiable: bool = True
    identity: str = "closed form"

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Score the latents ``pictures`` [n]."""
        return self.function(pictures, prompts)


class LatentPotential(RewardPotential):
    """The potential of a :class:`LatentReward`."""

    def _shown(self, z0: Tensor) -> Tensor:
        return z0


def quadratic(z: Tensor, slope: Any, curvature: Any) -> Tensor:
    """slope·z − ½ Σ_i curvature_i z_i² [n] of latents [n, d]."""
    g, a = (torch.as_tensor(each, dtype=z.dtype, device=z.device) for each in (slope, curvature))
    return (z * g - 0.5 * a * z.square()).sum(-1)


def tilted(
    denoiser: AnalyticDenoiser, label: str, slope: Any, curvature: Any
) -> tuple[float, AnalyticDenoiser]:
    """(log Z, the mixture p(z|label) exp(quadratic(z))/Z under the same label), for slope and curvature numbers or [d].

    A component N(m, s) becomes N(v (m/s + g), v), v = 1/(1/s + a), and its weight grows by the integral of the
    product. ValueError where the curvature leaves no finite integral.
    """
    means, variances = denoiser.means, denoiser.variances
    g, a = (torch.as_tensor(each, dtype=torch.float64) for each in (slope, curvature))
    precision = 1 / variances + a
    if not bool((precision > 0).all()):
        raise ValueError("the reward outgrows the mixture: exp(reward) has no finite mean")
    pulled = means / variances + g
    log_gain = 0.5 * (
        pulled.square() / precision - means.square() / variances - (variances * precision).log()
    )
    log_weights = denoiser.encode_prompts([label]).tensors["log_weights"][0] + log_gain.sum(-1)
    weights = log_weights.softmax(0)
    target = AnalyticDenoiser(
        pulled / precision, 1 / precision, {label: weights}, {label: 1.0}, denoiser.schedule,
        denoiser.prediction_type,
    )  # fmt: skip
    return float(log_weights.logsumexp(0)), target
