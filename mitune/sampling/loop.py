"""The one sampling loop: a population of candidates walks from noise to latents, watched by observers.

The loop knows nothing of the model beyond ``Denoiser`` and nothing of what is measured beyond ``Observer``. It never
waits for the device: all it asks of the host are numbers known before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.sampling.seeds import NoiseStreams
from mitune.sampling.steps import Sampler, StepCoefficients, coefficients


@dataclass(frozen=True, eq=False)
class Step:
    """What happened in one step, for all n rows: z_prev = a·z + b·eps + std·noise, eps = eps_null + guidance·delta.

    ``t_prev`` is −1 (VP) or 0.0 (flow) where the step lands on clean data; ``noise`` is None where ``std`` is 0;
    ``wide`` as in ``StepCoefficients``.
    """

    index: int
    t: int | float
    t_prev: int | float
    z: Tensor
    eps_cond: Tensor
    eps_null: Tensor
    eps: Tensor
    z_prev: Tensor
    a: float
    b: float
    std: float
    wide: float
    guidance: float
    noise: Tensor | None = None

    @classmethod
    def of(
        cls,
        index: int,
        at: StepCoefficients,
        z: Tensor,
        eps: Sequence[Tensor],
        z_prev: Tensor,
        guidance: float,
        noise: Tensor | None,
    ) -> Step:
        """The step ``at``, from ``z`` to ``z_prev``; ``eps``: with c, with ∅, guided."""
        eps_cond, eps_null, guided = eps
        return cls(
            index, at.t, at.t_prev, z, eps_cond, eps_null, guided, z_prev,
            at.a, at.b, at.std, at.wide, guidance, noise,
        )  # fmt: skip

    @cached_property
    def delta(self) -> Tensor:
        """ε̂_c − ε̂_∅ [n, D], flattened; computed once for all observers."""
        return (self.eps_cond - self.eps_null).flatten(1)

    @cached_property
    def squared_gap(self) -> Tensor:
        """‖ε̂_c − ε̂_∅‖² [n]; computed once for all observers."""
        return self.delta.square().sum(1)


class Observer(Protocol):
    """Watches the loop and ends with one number per candidate. It must not wait for the device."""

    name: str

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow on ``device``."""

    def observe(self, step: Step) -> None:
        """Take in one step."""

    def select(self, rows: Tensor) -> None:
        """The population was resampled: go on with ``rows`` [m] of the present one."""

    def result(self) -> Tensor:
        """What was measured so far, [n] on the device; valid after any step."""


@dataclass(frozen=True, eq=False)
class Population:
    """Who is alive: ``rows`` [n] (CPU; index among the candidates asked for), noise ``seeds``, observers by name."""

    rows: Tensor
    seeds: Sequence[int]
    observers: Mapping[str, Observer]


Resample = Callable[[Step, Population], Tensor | None]
"""Called after every step but the last: row indices [m] that go on (fewer, reordered or repeated), or None for all."""


@dataclass(frozen=True, eq=False)
class Samples:
    """``latents`` [n, …] and, for each, the ``rows`` index [n] of the candidate it descends from."""

    latents: Tensor
    rows: Tensor


def sample(
    denoiser: Denoiser,
    condition: Condition,
    seeds: Sequence[int],
    sampler: Sampler,
    observers: Sequence[Observer] = (),
    resample: Resample | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Latents [n, …] (float32, or float64 if the model is) of one candidate per seed and row of ``condition``.

    With ``resample`` only the survivors come back; ``sample_population`` also tells which they are. Raises as it does.
    """
    return sample_population(denoiser, condition, seeds, sampler, observers, resample, batch_size).latents


def check_start(denoiser: Denoiser) -> None:
    """UserError for a noise-predicting model on a schedule that ends at SNR 0: its first output says nothing."""
    if denoiser.schedule.zero_terminal_snr and denoiser.prediction_type == "epsilon":
        raise UserError(
            "the model's scheduler has rescale_betas_zero_snr=true with prediction_type='epsilon': no picture can be"
            " recovered from noise alone; use a v_prediction model or switch the rescaling off"
        )


@torch.no_grad()
def sample_population(
    denoiser: Denoiser,
    condition: Condition,
    seeds: Sequence[int],
    sampler: Sampler,
    observers: Sequence[Observer] = (),
    resample: Resample | None = None,
    batch_size: int | None = None,
) -> Samples:
    """Run the loop. All branches are evaluated at every step, in one forward; the one with c alone where nothing
    takes the others: guidance 1, no observer, no ``resample``.

    ``batch_size``: candidates a forward at most (None: all). The population may be larger than what the network takes
    at once, as who is dropped is settled among all candidates of a prompt; batches are filled again after each drop.

    ValueError if seeds and conditions differ in number; UserError as ``check_start`` and ``coefficients``.
    """
    if len(seeds) != len(condition):
        raise ValueError(f"{len(seeds)} seeds for {len(condition)} conditions")
    check_start(denoiser)
    steps = coefficients(denoiser.schedule, sampler)
    device = denoiser.device
    # Latents stay in float32 whatever the network's type: fifty bf16 updates would cost visible precision.
    dtype = torch.promote_types(torch.float32, denoiser.dtype)
    streams = NoiseStreams(seeds, denoiser.latent_shape, device, dtype)
    by_name = {observer.name: observer for observer in observers}
    rows = torch.arange(len(seeds))
    watched = bool(observers) or resample is not None
    both = watched or denoiser.needs_branches(sampler.guidance)
    batches = _batches(denoiser, condition, batch_size, both)
    for observer in observers:
        observer.start(len(seeds), device)

    schedule, kind = denoiser.schedule, denoiser.prediction_type
    z = streams.next()
    for index, at in enumerate(steps):
        parts = [denoiser.outputs(z[part], at.t, given, sampler.guidance) for part, given in batches]
        outputs = parts[0] if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)]
        z_prev = at.mean(z, outputs[-1], schedule, kind)
        noise = streams.next() if at.std > 0 else None
        if noise is not None:
            z_prev.add_(noise, alpha=at.std)
        if watched:
            eps = [schedule.to_epsilon(output, z, at.t, kind) for output in outputs]
            step = Step.of(index, at, z, eps, z_prev, sampler.guidance, noise)
            for observer in observers:
                observer.observe(step)
        z = z_prev
        if resample is None or index + 1 == len(steps):
            continue
        chosen = resample(step, Population(rows, tuple(streams.seeds), by_name))
        if chosen is not None:
            chosen = chosen.to("cpu", torch.long)
            streams.select(chosen.tolist())
            rows = rows[chosen]
            z = z[chosen.to(device)]
            condition = condition[chosen]
            batches = _batches(denoiser, condition, batch_size, both)
            for observer in observers:
                observer.select(chosen.to(device))
    return Samples(z, rows)


def _batches(
    denoiser: Denoiser, condition: Condition, batch_size: int | None, both: bool
) -> list[tuple[slice, Condition]]:
    """The rows of each forward, and the condition it is given: of all branches, or c alone."""
    size = batch_size or max(1, len(condition))
    parts = [slice(start, start + size) for start in range(0, max(1, len(condition)), size)]
    rows = [condition[part] for part in parts]
    given = [denoiser.widened(own) for own in rows] if both else rows
    return list(zip(parts, given, strict=True))
