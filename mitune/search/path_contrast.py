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
    kernel. ValueError without negatives.
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

    def observe(self, step: Step) -> None:
        """Add one step; those without noise carry no density."""
        if step.noise is None:
            return
        # What the step did beyond a·z: under a condition with noise ε̂_k its mean is b ε̂_k.
        moved = (step.b * step.eps + step.std * step.noise).flatten(1)
        own = (moved - step.b * step.eps_cond.flatten(1)).square().sum(1)
        for k, negative in enumerate(self._negatives):
            eps = torch.cat(
                [
                    self._denoiser.epsilon(step.z[rows], step.t, negative[self._rows[rows]])
                    for rows in torch.arange(len(step.z)).split(self._batch_size)
                ]
            )
            other = (moved - step.b * eps.flatten(1)).square().sum(1)
            self._ratios[:, k].add_(other - own, alpha=0.5 / step.wide**2)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._ratios = self._ratios[rows]
        self._rows = self._rows[rows.cpu()]

    def result(self) -> Tensor:
        """Contrast so far [n]."""
        return soft_least(self._ratios)
