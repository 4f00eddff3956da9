"""Gaussian mixtures of any dimension for the estimators: strong or weak conditions, everything known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.noise import NoiseSchedule

LABELS = ("a", "b", "c", "d")


def mixture(
    dimensions: int,
    strength: float = 0.7,
    schedule: NoiseSchedule | None = None,
    seed: int = 0,
    prediction_type: str = "epsilon",
) -> AnalyticDenoiser:
    """Eight clouds of unequal diagonal covariance, about as far apart in every dimension; four labels.

    ``strength`` 1: each label has two clouds of its own; 0: all labels are the same random mixture of all eight.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(8, dimensions, generator=generator, dtype=torch.float64)
    means *= 1.4 / dimensions**0.5
    variances = 0.2 + 0.2 * torch.rand(8, 1, generator=generator, dtype=torch.float64)
    variances = variances * (1 + 0.1 * torch.rand(8, dimensions, generator=generator, dtype=torch.float64))
    common = torch.rand(8, generator=generator, dtype=torch.float64)
    common /= common.sum()
    own = torch.eye(4, dtype=torch.float64).repeat_interleave(2, 1) / 2
    weights = {label: strength * own[k] + (1 - strength) * common for k, label in enumerate(LABELS)}
    return AnalyticDenoiser(
        means,
        variances,
        weights,
        dict.fromkeys(LABELS, 0.25),
        schedule or NoiseSchedule.ddpm(),
        prediction_type,
    )


def pictures(denoiser: AnalyticDenoiser, n: int, seed: int) -> tuple[Tensor, list[str]]:
    """n exact draws z_0 [n, d] with their labels, the four in turn."""
    labels = [LABELS[row % len(denoiser.labels)] for row in range(n)]
    return denoiser.sample(labels, torch.Generator().manual_seed(seed)), labels


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's r."""
    return float(torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1])


def slope(estimate: Tensor, exact: Tensor) -> float:
    """Of the least-squares line of the estimate on the exact value."""
    around = exact - exact.mean()
    return float((around * (estimate.double() - estimate.double().mean())).sum() / around.square().sum())


def rmse(estimate: Tensor, exact: Tensor) -> float:
    """Root mean squared error."""
    return float((estimate.double() - exact).square().mean().sqrt())
