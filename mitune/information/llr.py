"""``llr``: log-likelihood ratio of the sampler's own path under the prompt and under none, free of charge."""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.sampling.loop import Step


class PathLLR:
    """Observer of Σ_t (‖z_{t−1} − μ_∅‖² − ‖z_{t−1} − μ_c‖²) / 2 std_t² in nats; result float64 [n].

    Both reverse processes share one forward kernel, so this ratio of path densities estimates i(z_0; c) on any
    stochastic path, guided or not; the guided path is taken as it was walked. Steps without noise carry no density and
    are skipped, so a deterministic sampler (ddim, eta 0) scores 0 throughout.

    With Δ = ε̂_c − ε̂_∅, guidance s, step noise n: z_{t−1} − μ_∅ = b s Δ + std n and z_{t−1} − μ_c = b (s − 1) Δ + std n,
    so a step adds b² (2s − 1) ‖Δ‖² / 2 std² + (b / std) Δ·n: two reductions, one shared with ``mi``.
    """

    name = "llr"

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        self._total = torch.zeros(
            n, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64
        )

    def observe(self, step: Step) -> None:
        """Add one step."""
        if step.noise is None:
            return
        ratio = step.b / step.std
        self._total.add_(step.squared_gap, alpha=0.5 * ratio**2 * (2 * step.guidance - 1))
        self._total.add_((step.delta * step.noise.flatten(1)).sum(1), alpha=ratio)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._total = self._total[rows]

    def result(self) -> Tensor:
        """Log-likelihood ratio so far [n]."""
        return self._total.clone()
