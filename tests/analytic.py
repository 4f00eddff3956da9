"""Small Gaussian mixtures with known everything, for tests of estimators and samplers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Guide, Population, Step
from mitune.sampling.solver import StepCoefficients, solver_of


def three_clouds(schedule: NoiseSchedule | None = None, prediction_type: str = "epsilon") -> AnalyticDenoiser:
    """Three clouds in the plane; "a" is two of them, "b" overlaps it. KL(p(z|a) ‖ p(z)) is about 0.30 nats."""
    return AnalyticDenoiser(
        means=[[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]],
        covariances=[0.3, 0.5, 0.2],
        weights={"a": [1, 1, 0], "b": [0, 0.5, 1]},
        prior={"a": 0.5, "b": 0.5},
        schedule=schedule or NoiseSchedule.ddpm(),
        prediction_type=prediction_type,
    )


def scene(n: int) -> tuple[AnalyticDenoiser, Tensor, list[str]]:
    """Three clouds and ``n`` (even) pictures of theirs [n, 2] with their labels, "a" and "b" in turn."""
    denoiser = three_clouds()
    labels = ["a", "b"] * (n // 2)
    z0 = denoiser.sample(labels, torch.Generator().manual_seed(3))
    return denoiser, z0, labels


def exact_kl(denoiser: AnalyticDenoiser, label: str) -> float:
    """KL(p(z|label) ‖ p(z)) by a fine grid over the plane: no randomness."""
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    labels = [label] * len(z)
    density = denoiser.log_prob(z, labels).exp()
    return float((density * denoiser.information(z, labels)).sum() * (axis[1] - axis[0]) ** 2)


def within_three_errors(values: Tensor, truth: float) -> bool:
    """Whether the mean of ``values`` lies within three standard errors of ``truth``."""
    return bool(abs(values.mean() - truth) <= 3 * values.std() / len(values) ** 0.5)


def coefficients(schedule: NoiseSchedule, settings: SamplerConfig) -> list[StepCoefficients]:
    """The steps of a sampler on a schedule alone; what is None is as Stable Diffusion's first scheduler has it."""
    plain = {"spacing": "leading", "steps_offset": 0, "set_alpha_to_one": False}
    model: Any = SimpleNamespace(schedule=schedule, prediction_type="epsilon", sampler_defaults=plain)
    return list(solver_of(model, settings).steps)


class After(Guide):
    """A guide that asks a function after every step."""

    reads_steps = True

    def __init__(self, function: Callable[[Step, Population], Tensor | None]) -> None:
        self.after = function  # type: ignore[method-assign]
