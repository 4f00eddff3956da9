"""``mi``: mutual information of prompt and picture along the sampler's own path, free of charge."""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.errors import UserError, nearest
from mitune.noise import NoiseSchedule
from mitune.sampling.loop import Step

WEIGHTINGS = ("paper", "continuous")


class PathMI:
    """Observer of Σ_t w_t ‖ε̂_c − ε̂_∅‖² in nats over the visited steps with t > ``t_min``; result float64 [n] ≥ 0.

    "paper": w_t = κ_t / (number of those steps), κ_t = β_t T/(2 α_t (1 − ᾱ_t)) (Wang et al., ICLR 2025, eq. 2
    and Algorithm 2; the variance is unbounded as t → 0, hence ``t_min``). "continuous": ½ ∫ −λ' ‖·‖² dτ from
    ``t_min`` to T, each visited time standing for the stretch of λ nearer to it than to its neighbours.
    UserError for an unknown weighting; ``result`` raises one where no visited time lay above ``t_min``.
    """

    def __init__(self, schedule: NoiseSchedule, weighting: str = "paper", t_min: float = 50) -> None:
        if weighting not in WEIGHTINGS:
            raise UserError(
                f"mi weighting={weighting!r} is not known{nearest(weighting, WEIGHTINGS)}"
                f" (known: {', '.join(WEIGHTINGS)})"
            )
        self.name = "mi" if weighting == "paper" else "mi_continuous"
        self.schedule = schedule
        self.weighting = weighting
        self.t_min = t_min

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        # The sum over steps is float64; MPS has none.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._total = torch.zeros(n, device=device, dtype=dtype)
        self._visited = 0
        self._edge = float(self.schedule.log_snr(self.schedule.num_train_timesteps))

    def observe(self, step: Step) -> None:
        """Add one step."""
        if step.t <= self.t_min:
            return
        self._visited += 1
        if self.weighting == "paper":
            weight = float(self.schedule.kappa(step.t))
        else:
            if step.t_prev > self.t_min:
                edge = float(self.schedule.log_snr(step.t) + self.schedule.log_snr(step.t_prev)) / 2
            else:
                edge = float(self.schedule.log_snr(max(self.t_min, 0)))
            weight, self._edge = 0.5 * (edge - self._edge), edge
        self._total.add_(step.squared_gap, alpha=weight)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._total = self._total[rows]

    def result(self) -> Tensor:
        """MI over the steps taken so far [n]."""
        if not self._visited:
            raise UserError(f"mi: no visited time lies above t_min={self.t_min}; lower it")
        return self._total / self._visited if self.weighting == "paper" else self._total.clone()
