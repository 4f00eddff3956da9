"""The one sampling loop: a population of candidates walks from noise to latents, observed by observers.

    evaluate the network at z_t → weigh and resample (a guide may) → mean by the solver → add noise → observe → drop

The loop knows nothing of the model beyond ``Denoiser``, of the sampler beyond ``Solver``, of what is measured beyond
``Observer`` and of who goes on beyond ``Guide``. It never waits for the device by itself: all it asks of the host are
numbers known before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.maps import Sums, Together
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.seeds import NoiseStreams
from mitune.sampling.solver import Solver, StepCoefficients, in_interval, solver_of


@dataclass(frozen=True, eq=False)
class Step:
    """One step of all n rows: z_prev = a·z + b·eps + std·noise, eps = eps_null + guidance·delta.

    Where it is not ``linear``, of a model with further branches, eps has their pull too. Where it is not ``guided``,
    its time lies outside of the guidance interval: the prompt alone was told, and eps_null and eps are eps_cond.

    ``t_prev`` is −1 (VP) or 0.0 (flow) where the step lands on clean data; ``noise`` is None where ``std`` is 0;
    ``wide``, ``a``, ``b``, ``c`` (NaN where they do not exist) and ``told`` as in ``StepCoefficients``; ``schedule``:
    the model's.
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
    c: float
    std: float
    wide: float
    told: float
    guidance: float
    noise: Tensor | None
    linear: bool
    guided: bool
    schedule: NoiseSchedule

    @cached_property
    def delta(self) -> Tensor:
        """ε̂_c − ε̂_∅ [n, D], flattened; computed once for all observers."""
        return (self.eps_cond - self.eps_null).flatten(1)

    @cached_property
    def squared_gap(self) -> Tensor:
        """‖ε̂_c − ε̂_∅‖² [n]; computed once for all observers."""
        return self.delta.square().sum(1)

    @cached_property
    def predicted(self) -> Tensor:
        """The picture this step aims at, ẑ_0 = (z_t − σ_t ε̂)/α_t [n, …], by the guided ε̂ (Song et al. 2021, eq. 9)."""
        alpha, sigma = float(self.schedule.alpha(self.t)), float(self.schedule.sigma(self.t))
        return (self.z - sigma * self.eps) / alpha


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
        """Give what was measured so far, [n] on the device; valid after any step."""


@runtime_checkable
class Looker(Protocol):
    """Looks at the attention of a step's forwards, too: what an observer may be beside. It costs no forward."""

    def tap(self, at: StepCoefficients, rows: slice) -> Sums | None:
        """Give what looks at the forward of ``rows`` of the population at this step, None for none. ``observe`` comes
        once all batches of the step were seen."""


class Noise(Protocol):
    """Standard normal noise of a population, map by map, as ``NoiseStreams`` gives it."""

    @property
    def seeds(self) -> Sequence[int]:
        """One a row."""

    def next(self) -> Tensor:
        """Draw the next map of every row [n, …]."""

    def select(self, rows: Sequence[int]) -> None:
        """Follow the population, which was resampled."""


@dataclass(frozen=True, eq=False)
class Population:
    """The living: ``rows`` [n] (CPU; index among the candidates asked for), noise ``seeds``, observers by name."""

    rows: Tensor
    seeds: Sequence[int]
    observers: Mapping[str, Observer]


class Guide:
    """Says who goes on, and where to: the hooks of a walk, of which a subclass overrides those it needs.

    >>> class Halve(Guide):
    ...     reads_steps = True
    ...     def after(self, step, population):
    ...         return torch.arange(len(step.z) // 2) if step.index == 9 else None
    >>> len(sample(denoiser, denoiser.encode_prompts(["a"] * 4), range(4), SamplerConfig(), guide=Halve()))
    2

    Attributes:
        reads_steps: it wants ``after``, and so both branches of the network at every step.
        gradient: ``look`` differentiates, so the network is evaluated with a graph, batch by batch.
    """

    reads_steps = False
    gradient = False

    def look(self, at: StepCoefficients, z: Tensor, outputs: Sequence[Tensor], rows: slice) -> None:
        """See one batch: ``z`` at t, and the network's raw outputs, the guided one last, of ``rows``."""

    def before(self, index: int, at: StepCoefficients) -> Tensor | None:
        """Choose who takes the step, once all batches were seen: rows [m] of the population at z_t, None for all."""

    def move(self, at: StepCoefficients, mean: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Give z_prev, which may overwrite ``mean``, and the noise in it as seen from the sampler's own mean."""
        return (mean if noise is None else mean.add_(noise, alpha=at.std)), noise

    def after(self, step: Step, population: Population) -> Tensor | None:
        """Choose who goes on after any step but the last: rows [m] (fewer, reordered or repeated), None for all."""


@dataclass(frozen=True, eq=False)
class Samples:
    """``latents`` [n, …] and, for each, the ``rows`` index [n] of the candidate it descends from."""

    latents: Tensor
    rows: Tensor


def sample(
    denoiser: Denoiser,
    condition: Condition,
    seeds: Sequence[int],
    sampler: SamplerConfig,
    observers: Sequence[Observer] = (),
    guide: Guide | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Draw latents [n, …] (float32, or float64 if the model is): one candidate per seed and row of ``condition``.

        latents = sample(denoiser, denoiser.encode_prompts(["a red circle"] * 4), range(4), SamplerConfig())

    Args:
        seeds: of each candidate's own noise.
        sampler: name and settings; what it leaves None is as the model's scheduler has it.
        denoiser, condition, observers, guide, batch_size: as of ``walk``. With a guide only the survivors come back;
            ``sample_population`` also tells which they are, and raises the same errors.
    """
    return sample_population(denoiser, condition, seeds, sampler, observers, guide, batch_size).latents


def sample_population(
    denoiser: Denoiser,
    condition: Condition,
    seeds: Sequence[int],
    sampler: SamplerConfig,
    observers: Sequence[Observer] = (),
    guide: Guide | None = None,
    batch_size: int | None = None,
) -> Samples:
    """Draw as ``sample`` does, and tell which candidates are left.

    Args:
        denoiser, condition, seeds, sampler, observers, guide, batch_size: as of ``sample``.

    ValueError if seeds and conditions differ in number; UserError as ``solver_of`` and ``walk``.
    """
    if len(seeds) != len(condition):
        raise ValueError(f"{len(seeds)} seeds for {len(condition)} conditions")
    return walk(
        denoiser, condition, solver_of(denoiser, sampler), noise_of(denoiser, seeds), sampler.guidance, observers,
        guide, batch_size, sampler.guidance_interval,
    )  # fmt: skip


def noise_of(denoiser: Denoiser, seeds: Sequence[int]) -> NoiseStreams:
    """Open the noise of candidates, in float32 whatever the network's type (float64 if it is in that)."""
    # Fifty bf16 updates would cost visible precision.
    dtype = torch.promote_types(torch.float32, denoiser.dtype)
    return NoiseStreams(seeds, denoiser.latent_shape, denoiser.device, dtype)


def check_start(denoiser: Denoiser) -> None:
    """UserError for a noise-predicting model on a schedule that ends at SNR 0: its first output says nothing."""
    if denoiser.schedule.zero_terminal_snr and denoiser.prediction_type == "epsilon":
        raise UserError(
            "the model's scheduler has rescale_betas_zero_snr=true with prediction_type='epsilon': no picture can be"
            " recovered from noise alone; use a v_prediction model or switch the rescaling off"
        )


@torch.no_grad()
def walk(
    denoiser: Denoiser,
    condition: Condition,
    solver: Solver,
    noise: Noise,
    guidance: float,
    observers: Sequence[Observer] = (),
    guide: Guide | None = None,
    batch_size: int | None = None,
    interval: Sequence[float] | None = None,
) -> Samples:
    """Carry a population from noise to latents. All branches of the network are evaluated at every step, in one
    forward; the one with c alone where nothing takes another: guidance 1, no observer, no guide that reads steps, or a
    time outside of the guidance interval.

    Args:
        denoiser: the model. UserError as ``check_start``.
        condition: n rows.
        solver: a fresh one; it is used up.
        noise: of n rows.
        guidance: classifier-free scale.
        observers: see every step.
        guide: drops, multiplies or moves candidates.
        batch_size: candidates a forward at most (None: all). The population may be larger than what the network takes
            at once, as who goes on is settled among all candidates of a prompt; batches are filled again after that.
        interval: the times [low, high], ends included, at which guidance works (None: all; Kynkäänniemi et al. 2024,
            arXiv 2404.07724).
    """
    check_start(denoiser)
    guide = guide or Guide()
    schedule, kind, device = denoiser.schedule, denoiser.prediction_type, denoiser.device
    observed = bool(observers) or guide.reads_steps
    widened = observed or denoiser.needs_branches(guidance)
    lookers = [observer for observer in observers if isinstance(observer, Looker)]
    network = _Network(denoiser, condition, guidance, widened, batch_size, interval, lookers)
    rows = torch.arange(len(condition))
    by_name = {observer.name: observer for observer in observers}
    for observer in observers:
        observer.start(len(rows), device)

    def select(chosen: Tensor) -> Tensor:
        """Follow the population in all that has rows but the latents: ``chosen`` [m] on the device."""
        nonlocal rows
        there = chosen.to("cpu", torch.long)
        noise.select(there.tolist())
        rows, chosen = rows[there], there.to(device)
        network.select(there)
        solver.select(chosen)
        for observer in observers:
            observer.select(chosen)
        return chosen

    z = noise.next()
    for index, at in enumerate(solver.steps):
        if denoiser.moves:
            z = network.placed(z, at)
        outputs = network.outputs(z, at, guide)
        mean = solver.mean(at, z, outputs[-1], network.guided)
        chosen = guide.before(index, at)
        if chosen is not None:
            chosen = select(chosen)
            z, mean, outputs = z[chosen], mean[chosen], [output[chosen] for output in outputs]
        z_prev, drawn = guide.move(at, mean, noise.next() if at.std > 0 else None)
        if observed:
            seen = [schedule.to_epsilon(output, z, at.t, kind) for output in outputs]
            cond, null, guided = seen if len(seen) > 1 else seen * 3
            step = Step(
                index, at.t, at.t_prev, z, cond, null, guided, z_prev, at.a, at.b, at.c, at.std, at.wide, at.time,
                guidance, drawn, denoiser.branches == 2, len(seen) > 1, schedule,
            )  # fmt: skip
            for observer in observers:
                observer.observe(step)
        z = z_prev
        if guide.reads_steps and index + 1 < len(solver.steps):
            chosen = guide.after(step, Population(rows, tuple(noise.seeds), by_name))
            if chosen is not None:
                z = z[select(chosen)]
    return Samples(z, rows)


class _Network:
    """The network on a population, in batches."""

    def __init__(
        self,
        denoiser: Denoiser,
        condition: Condition,
        guidance: float,
        widened: bool,
        batch_size: int | None,
        interval: Sequence[float] | None,
        lookers: Sequence[Looker] = (),
    ) -> None:
        self._denoiser, self._guidance, self._batch_size = denoiser, guidance, batch_size
        self._interval, self._lookers = interval, lookers
        # Widened once: where a text encoder is adapted, ∅ is encoded each time that it is asked for.
        self._given = denoiser.widened(condition) if widened else condition
        self._branches, self._n = denoiser.branches if widened else 1, len(condition)
        self._batches = self._split()

    def _split(self) -> list[tuple[slice, Condition]]:
        """The rows of each forward, and the condition it is given: that of all branches, or the prompts' alone."""
        n, size = self._n, self._batch_size or max(1, self._n)
        if size >= n:
            return [(slice(0, size), self._given)]
        parts = [slice(start, start + size) for start in range(0, n, size)]
        return [(part, self._given[self._of(torch.arange(n)[part])]) for part in parts]

    def _of(self, rows: Tensor) -> Tensor:
        """Where ``rows`` of the population lie in the condition of all branches."""
        return torch.cat([rows + branch * self._n for branch in range(self._branches)])

    def _given_at(self, t: float, part: slice, given: Condition) -> Condition:
        """What the network is told of ``part`` at a time: nothing but the prompts outside of the guidance interval."""
        if in_interval(self._interval, t):
            return given
        own = len(range(*part.indices(self._n)))
        return given[len(given) - own :]  # the one told most is the last

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._given, self._n = self._given[self._of(rows)], len(rows)
        self._batches = self._split()

    def placed(self, z: Tensor, at: StepCoefficients) -> Tensor:
        """Where the step begins [n, …], batch by batch, by a denoiser that moves z."""
        return torch.cat([self._denoiser.placed(z[part], at.time, given) for part, given in self._batches])

    def outputs(self, z: Tensor, at: StepCoefficients, guide: Guide) -> list[Tensor]:
        """Raw outputs [n, …], the guided one last, every batch shown to the guide before the next is evaluated."""
        parts = []
        for part, given in self._batches:
            own = z[part].detach().requires_grad_() if guide.gradient else z[part]
            with torch.set_grad_enabled(guide.gradient):
                given = self._given_at(at.t, part, given)
                taps = [tap for looker in self._lookers if (tap := looker.tap(at, part)) is not None]
                tap = Together(taps) if taps else None
                outputs = self._denoiser.outputs(own, at.time, given, self._guidance, tap)
                guide.look(at, own, outputs, part)
            parts.append([output.detach() for output in outputs] if guide.gradient else outputs)
        return (
            list(parts[0]) if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)]
        )

    def guided(self, z: Tensor, t: float, told: float | None = None) -> Tensor:
        """Guided raw output [n, …] at ``z`` and another time: a second evaluation within a step (``Evaluate``)."""
        parts = []
        for part, given in self._batches:
            given = self._given_at(t, part, given)
            time = t if told is None else told
            parts.append(self._denoiser.outputs(z[part], time, given, self._guidance)[-1])
        return torch.cat(parts)
