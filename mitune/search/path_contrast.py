"""``contrast`` along the sampler's own path: how much likelier its steps are under c than under other prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.information.contrast import soft_least
from mitune.noise import exact_type
from mitune.sampling.loop import Step


class PathContrast:
    """Observer of −log Σ_k exp(−Σ_t log p(z_{t−1}|z_t, c)/p(z_{t−1}|z_t, c_k)) in nats; result float64 [n].

    ``PathLLR`` with other prompts c_k in place of ∅, joined as in ``contrast``. ``negatives``: K conditions of n rows
    each. Costs K forwards a particle and step, at most ``batch_size`` rows at a time; densities are taken with the wide
    kernel. Outside of a guidance interval all are told c, and no forward is spent. ValueError without negatives.
    """

    name = "path_contrast"

    def __init__(self, denoiser: Denoiser, negatives: Sequence[Condition], batch_size: int = 64) -> None:
        if not negatives:
            raise ValueError("path_contrast needs at least one other prompt")
        self._denoiser = denoiser
        self._negatives = list(negatives)
        self._batch_size = batch_size

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        self._ratios = torch.zeros(n, len(self._negatives), device=device, dtype=exact_type(device))
        self._rows = torch.arange(n)
        self._before: list[Tensor] = []

    def observe(self, step: Step) -> None:
        """Add one step; those without noise carry no density."""
        if step.noise is None:
            self._before = []  # the last step has none, and no solver goes from steps without noise to some with it
            return
        # What each condition says: the sampler's own, c, and every c_k.
        told = [step.eps, step.eps_cond]
        told += [
            self._epsilon(step, negative) if step.guided else step.eps_cond for negative in self._negatives
        ]
        before, self._before = self._before or told, told
        # What the step did beyond a·z, and what it would have done on average under a condition: b ε̂_k + c ε̂_k,before.
        means = [(step.b * eps).flatten(1) for eps in told]
        if step.c:
            means = [mean + step.c * eps.flatten(1) for mean, eps in zip(means, before, strict=True)]
        moved = means[0] + (step.std * step.noise).flatten(1)
        own = (moved - means[1]).square().sum(1)
        for k, mean in enumerate(means[2:]):
            other = (moved - mean).square().sum(1)
            self._ratios[:, k].add_(other - own, alpha=0.5 / step.wide**2)

    def _epsilon(self, step: Step, negative: Condition) -> Tensor:
        parts = []
        for rows in torch.arange(len(step.z)).split(self._batch_size):
            output = self._denoiser.predict(step.z[rows], step.told, negative[self._rows[rows]])
            kind = self._denoiser.prediction_type
            parts.append(step.schedule.to_epsilon(output, step.z[rows], step.t, kind))
        return torch.cat(parts)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._ratios = self._ratios[rows]
        self._rows = self._rows[rows.cpu()]
        self._before = [eps[rows] for eps in self._before]

    def result(self) -> Tensor:
        """Contrast so far [n]."""
        return soft_least(self._ratios)
