"""An objective gives a loss per row, from one forward of the network and of the reference, where it has one.

Their names and traits are the rows of ``catalogue``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.families.adapted import Adapted
from mitune.noise import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch holds n rows of training data on the device."""

    z0: Tensor  # [n, …] float32
    noise: Tensor  # [n, …] float32
    t: Tensor  # [n]
    condition: Condition  # n rows
    rejected: Tensor | None = None  # [n, …] the losers' latents, for an objective of pairs
    reference: Condition | None = None  # as the reference's text encoder gives it; None: the same condition
    weight: Tensor | None = None  # [n] factor on each row's errors; None: 1
    label: Tensor | None = None  # [n] 1 for a winner, −1 for a loser, in ``nft`` between; None: all winners
    real: Tensor | None = None  # [n] bool, pictures that no model drew; None: none of them
    # The context in which the denoiser is the reference; None: its base model, the adapter switched off.
    anchor: Callable[[], contextlib.AbstractContextManager[object]] | None = None


def error(denoiser: Denoiser, z0: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Compute ‖network(z_t, t, c) − target‖² / D, [n], of each row: the error in the network's own prediction type.

    Args:
        denoiser: says what its network predicts.
        z0: [n, …], of D numbers each.
        noise: like ``z0``.
        t: [n].
        condition: n rows.
    """
    target = denoiser.schedule.target(denoiser.prediction_type, z0, noise, t)
    output = denoiser.predict(denoiser.schedule.add_noise(z0, noise, t), t, condition)
    return F.mse_loss(output, target, reduction="none").flatten(1).mean(1)


class LayoutWeight:
    """The weight is ``NoiseSchedule.layout_weight``, its mean over the times of training scaled to 1.

    >>> LayoutWeight(NoiseSchedule.ddpm(), 0.5, 0, 1000)(torch.arange(1000)).mean().round(decimals=4)
    tensor(1.)
    """

    def __init__(self, schedule: NoiseSchedule, power: float, low: int, high: int) -> None:
        """Training times are ``low`` … ``high`` (excluded), in the model's units."""
        self._raw = partial(schedule.layout_weight, power=power)
        self._mean = float(self._raw(torch.arange(low, high)).mean())

    def __call__(self, t: Tensor) -> Tensor:
        """Give the weights [n], float32, of times ``t`` [n]."""
        return (self._raw(t) / self._mean).float()


def mse(denoiser: Denoiser, batch: Batch, beta: float = 0.0) -> Tensor:
    """Minimise E_{t, ε} ‖ε̂_θ(z_t, t, c) − ε‖² on chosen pictures (Wang et al., 2405.20759, Algorithm 1; v or z_0 in
    the place of ε as the model predicts).
    """
    return _weighed(error(denoiser, batch.z0, batch.noise, batch.t, batch.condition), batch.weight)


def dpo(denoiser: Adapted, batch: Batch, beta: float) -> Tensor:
    """Prefer as Diffusion-DPO (Wallace et al., 2311.12908, eq. 14): winner w and loser l of one prompt, one t and one
    noise for both:

        L = −log σ( −β/2 · [ (e_θ(w) − e_ref(w)) − (e_θ(l) − e_ref(l)) ] ),   e(x) = ‖ε̂(x_t, t, c) − ε‖² / D

    β times the batch's weights holds the equation's β T ω(λ_t): constant over t, as the authors train, or more
    where the layout is settled (``LayoutWeight``). The reference is the base model:
    the adapter switched off, so no second network is in memory, and no graph is built for it.
    """
    if batch.rejected is None:
        raise ValueError("dpo needs the losers' latents")
    both = replace(
        batch,
        z0=torch.cat([batch.z0, batch.rejected]),
        noise=torch.cat([batch.noise] * 2),
        t=torch.cat([batch.t] * 2),
        condition=Condition.cat([batch.condition] * 2),
        reference=Condition.cat([_reference_condition(batch)] * 2),
    )
    winner, loser = _gain(denoiser, both).chunk(2)
    return -F.logsigmoid(0.5 * beta * _weighed(winner - loser, batch.weight))


def spin(denoiser: Adapted, batch: Batch, beta: float) -> Tensor:
    """Play ``dpo`` against oneself: SPIN-Diffusion (Yuan et al., 2402.10210).

    What is compared is a chosen picture and one that the model of the last round drew; the reference is that model, the
    adapter as it was when the round began (in round 1 the base model). With ``select.losers`` = M − k the other picture
    is any of the unchosen, so a draw of that model.
    """
    return dpo(denoiser, batch, beta)


def kto(denoiser: Adapted, batch: Batch, beta: float) -> Tensor:
    """Prefer as Diffusion-KTO (Li et al., 2404.04465): winners (y = 1) and losers (y = −1) each for itself:

        L = 1 − σ( y · β/2 · (e_ref(x) − e_θ(x)) ),   e as in ``dpo``

    with the Kahneman-Tversky utility, a sigmoid about the reference point. The equation's reference point Q, the mean
    divergence from the reference, is left at 0: near the reference it is small, and its estimate over a batch would
    make the result depend on how the batch is split.
    """
    gain = _gain(denoiser, batch)
    return 1 - torch.sigmoid(0.5 * beta * _label(batch, gain) * _weighed(gain, batch.weight))


def nft(denoiser: Adapted, batch: Batch, beta: float) -> Tensor:
    """Step as DiffusionNFT (Zheng et al., 2509.16117) on winners (y = 1) and losers (y = −1) each for itself, v the
    network's output, v* its target, v_old the model that drew the pictures (the adapter as it was when training began):

        L = r ‖v⁺ − v*‖² / D + (1 − r) ‖v⁻ − v*‖² / D,   v^± = v_old ± β (v_θ − v_old),   r = (1 + y) / 2

    over β, so that its gradient where the training begins is the same for every β. y may lie between, for a picture
    that is a little better or worse than its like (the paper's optimality r; ``soft_labels``). With
    p = P(winner | z_t) = E[r | z_t], and the expectations weighted by r and 1 − r, it leads to

        v_θ = v_old + ( p (E[v* | winner] − v_old) − (1 − p) (E[v* | loser] − v_old) ) / β:

    towards the winners and away from the losers, 1/β times as far, where ``mse`` stops at the winners. What both have
    in common, guidance's mark on all candidates for one, cancels.

    A real picture is none of the old model's, and the model shall not go beyond it: for it β = 1 and r = 1, which is
    ``mse``.
    """
    target = denoiser.schedule.target(denoiser.prediction_type, batch.z0, batch.noise, batch.t)
    z = denoiser.schedule.add_noise(batch.z0, batch.noise, batch.t)
    with _as_reference(denoiser, batch):
        old = denoiser.predict(z, batch.t, _reference_condition(batch))
    step = denoiser.predict(z, batch.t, batch.condition) - old
    label = _label(batch, step)
    reach = torch.full_like(label, beta)  # β of each row
    if batch.real is not None:
        label, reach = label.masked_fill(batch.real, 1.0), reach.masked_fill(batch.real, 1.0)
    rows = reach.view(-1, *[1] * (step.ndim - 1))
    positive, negative = ((old + side * step - target).pow(2).flatten(1).mean(1) for side in (rows, -rows))
    optimality = (1 + label) / 2
    return _weighed((optimality * positive + (1 - optimality) * negative) / reach, batch.weight)


@contextlib.contextmanager
def _as_reference(denoiser: Adapted, batch: Batch) -> Iterator[None]:
    """Make the denoiser the reference for the time of the block; no graph is built."""
    anchor = batch.anchor or denoiser.base
    with torch.no_grad(), anchor():
        yield


def _reference_condition(batch: Batch) -> Condition:
    return batch.condition if batch.reference is None else batch.reference


def _label(batch: Batch, values: Tensor) -> Tensor:
    """Say from −1 to 1 what each row is held for [n], in the type of ``values`` [n, …]."""
    return values.new_ones(len(values)) if batch.label is None else batch.label.to(values.dtype)


def _gain(denoiser: Adapted, batch: Batch) -> Tensor:
    """Compute e_ref − e_θ of each row: how much better than the reference the network denoises it."""
    with _as_reference(denoiser, batch):
        before = error(denoiser, batch.z0, batch.noise, batch.t, _reference_condition(batch))
    return before - error(denoiser, batch.z0, batch.noise, batch.t, batch.condition)


def _weighed(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight
