"""What training minimises: a loss per row from one forward of the network (and of the reference, for
preferences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import check_known
from mitune.noise import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Batch:
    """n rows of training data on the device.

    ``z0``, ``noise`` [n, …] float32; ``t`` [n]; ``condition`` n rows; for preferences ``rejected`` [n, …],
    the losers' latents, and ``reference``, the condition as the base model's text encoder gives it (None: the
    same condition). ``weight`` [n]: factor on each row's errors (None: 1).
    """

    z0: Tensor
    noise: Tensor
    t: Tensor
    condition: Condition
    rejected: Tensor | None = None
    reference: Condition | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """``loss(denoiser, batch, beta)`` -> [n]; ``pairs``: whether it compares winners with losers."""

    name: str
    loss: Callable[[Denoiser, Batch, float], Tensor]
    pairs: bool = False

    @property
    def rows(self) -> int:
        """Rows of a forward that one item of data takes."""
        return 2 if self.pairs else 1


def error(denoiser: Denoiser, z0: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """‖network(z_t, t, c) − target‖² / D, [n]: the denoising error in the network's own prediction type."""
    target = denoiser.schedule.target(denoiser.prediction_type, z0, noise, t)
    output = denoiser.predict(denoiser.schedule.add_noise(z0, noise, t), t, condition)
    return F.mse_loss(output, target, reduction="none").flatten(1).mean(1)


class LayoutWeight:
    """``NoiseSchedule.layout_weight``, its mean over the times of training scaled to 1."""

    def __init__(self, schedule: NoiseSchedule, power: float, low: int, high: int) -> None:
        """Training times are ``low`` … ``high`` (excluded), in the model's units."""
        self._schedule, self._power = schedule, power
        self._mean = float(self._raw(torch.arange(low, high)).mean())

    def __call__(self, t: Tensor) -> Tensor:
        """Weights [n], float32, of times ``t`` [n]."""
        return (self._raw(t) / self._mean).float()

    def _raw(self, t: Tensor) -> Tensor:
        return self._schedule.layout_weight(t, self._power)


def mse(denoiser: Denoiser, batch: Batch, beta: float = 0.0) -> Tensor:
    """E_{t, ε} ‖ε̂_θ(z_t, t, c) − ε‖² on chosen pictures (Wang et al., 2405.20759, Algorithm 1; v or z_0 in
    the place of ε as the model predicts).
    """
    plain = error(denoiser, batch.z0, batch.noise, batch.t, batch.condition)
    return plain if batch.weight is None else plain * batch.weight


def dpo(denoiser: Denoiser, batch: Batch, beta: float) -> Tensor:
    """Diffusion-DPO (Wallace et al., 2311.12908, eq. 14): winner w and loser l of one prompt, one t and one
    noise for both:

        L = −log σ( −β/2 · [ (e_θ(w) − e_ref(w)) − (e_θ(l) − e_ref(l)) ] ),   e(x) = ‖ε̂(x_t, t, c) − ε‖² / D

    β times the batch's weights holds the equation's β T ω(λ_t): constant over t, as the authors train, or more
    where the layout is settled (``LayoutWeight``). The reference is the base model:
    the adapter switched off, so no second network is in memory, and no graph is built for it.
    """
    if batch.rejected is None:
        raise ValueError("dpo needs the losers' latents")
    z0 = torch.cat([batch.z0, batch.rejected])
    noise, t = torch.cat([batch.noise, batch.noise]), torch.cat([batch.t, batch.t])
    condition = Condition.cat([batch.condition, batch.condition])
    reference = condition if batch.reference is None else Condition.cat([batch.reference, batch.reference])
    with torch.no_grad(), denoiser.base():  # type: ignore[attr-defined]
        winner_ref, loser_ref = error(denoiser, z0, noise, t, reference).chunk(2)
    winner, loser = error(denoiser, z0, noise, t, condition).chunk(2)
    margin = (winner - winner_ref) - (loser - loser_ref)
    return -F.logsigmoid(-0.5 * beta * (margin if batch.weight is None else margin * batch.weight))


OBJECTIVES = {
    objective.name: objective for objective in (Objective("mse", mse), Objective("dpo", dpo, pairs=True))
}
"""All objectives by name; a new one is a function and a line here."""


def find_objective(name: str) -> Objective:
    """The objective called ``name``. Raises UserError with the nearest name."""
    check_known("train.objective", name, OBJECTIVES)
    return OBJECTIVES[name]
