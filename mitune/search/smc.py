"""Sequential Monte Carlo on the denoising path: a population that ends up distributed as p(z_0) · exp(U(z_0)/α).

DAS (Kim et al., ICLR 2025, arXiv 2501.05803) and the twisted diffusion sampler (Wu et al., NeurIPS 2023) in one loop:

    weigh the particles at z_t → resample where few carry the weight → move, uphill if the potential has a gradient

The loop shares steps, noise and observers with :mod:`mitune.sampling` and knows nothing of the model beyond
``Denoiser``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.noise import expand
from mitune.sampling.loop import Observer, Step, check_start
from mitune.sampling.seeds import NoiseStreams, candidate_seed
from mitune.sampling.steps import Sampler, StepCoefficients, coefficients
from mitune.search.potentials import PathPotential, Potential, RewardPotential
from mitune.search.weights import Steering, Weights


@dataclass(frozen=True, eq=False)
class Steered:
    """P prompts × N particles at the end of their path; everything but ``latents`` is on the CPU.

    Attributes:
        latents: [P, N, …].
        log_weights: [P, N] float64, normalised to Σ w = 1; −∞ for the dead.
        potential: [P, N] float64: U of the finished latents; NaN or infinite for those it killed.
        log_evidence: [P]: log Ẑ, of Z = E_p exp(U/α).
        roots: [P, N]: which of a prompt's first particles each descends from.
        ancestry: [S, P, N]: ancestor of every particle at the resampling before each move.
        tempers: [S + 1, P]: λ at the noise, …, at the picture.
        sizes: [S + 1, P]: effective sample sizes, before resampling.
        resampled: [P]: number of resamplings.
        died: [P]: particles lost to a NaN or infinite potential.
        forwards: network rows spent.
    """

    latents: Tensor
    log_weights: Tensor
    potential: Tensor
    log_evidence: Tensor
    roots: Tensor
    ancestry: Tensor
    tempers: Tensor
    sizes: Tensor
    resampled: Tensor
    died: Tensor
    forwards: int

    def mean(self, values: Tensor) -> Tensor:
        """Σ_i w_i values_i [P, …] of ``values`` [P, N, …]."""
        weights = expand(self.log_weights.exp(), values)
        return (weights * torch.where(weights > 0, values, torch.zeros_like(values))).sum(1)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a forward at z_t says of n rows; None where nobody asks.

    ``value`` and ``gradient`` [n, …] are a reward's, ``eps`` (with c, with ∅, guided) is for observers.
    """

    mean: Tensor
    value: Tensor | None
    gradient: Tensor | None
    eps: tuple[Tensor, ...] | None

    def select(self, rows: Tensor) -> _Seen:
        """Go on with these rows."""
        return _Seen(
            self.mean[rows],
            None if self.value is None else self.value[rows],
            None if self.gradient is None else self.gradient[rows],
            None if self.eps is None else tuple(each[rows] for each in self.eps),
        )


class Noise(Protocol):
    """Standard normal noise of a population, map by map, as ``NoiseStreams`` gives it."""

    def next(self) -> Tensor:
        """The next map of every row [n, …]."""

    def select(self, rows: Sequence[int]) -> None:
        """The population was resampled."""


class CommonNoise:
    """All rows' noise [n, …] from one generator: quick for very large populations of a very small model.

    A particle then cannot be drawn again alone, as it can with a stream of its own.
    """

    def __init__(self, n: int, shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape, self._dtype = (n, *shape), dtype

    def next(self) -> Tensor:
        """The next map of every row."""
        return torch.randn(self._shape, generator=self._generator, dtype=self._dtype)

    def select(self, rows: Sequence[int]) -> None:
        """Nothing to do: rows are fresh at every step."""


def particle_seeds(run_seed: int, prompts: Sequence[str], particles: int, first: int = 0) -> list[int]:
    """Seeds [P·N], prompt by prompt: those of candidates number first, first + 1, … of each prompt."""
    return [
        candidate_seed(run_seed, prompt, first + number) for prompt in prompts for number in range(particles)
    ]


@torch.no_grad()
def steer(
    denoiser: Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
    potential: Potential,
    settings: Steering | None = None,
    observers: Sequence[Observer] = (),
    noise: Noise | None = None,
) -> Steered:
    """Carry N = len(seeds) / P particles of each of the P ``prompts`` from noise to latents.

    The model's own distribution is the sampler's, guidance included. What becomes of a prompt depends on its own seeds
    alone. ``observers`` watch the particles as they watch candidates; they, a path potential and a guidance other than
    1 need both branches: two network rows a particle and step, otherwise one. ``noise``: where it comes from, instead
    of one stream a particle.

    UserError for no particles, a sampler without noise, gradient proposals with a potential that has no gradient, a
    prompt whose particles all died, and as ``check_start`` and ``coefficients``. ValueError if the seeds do not divide
    among the prompts.
    """
    settings = settings or Steering()
    if not prompts or not seeds:
        raise UserError(
            f"search: {len(prompts)} prompts, {len(seeds)} particles; search.particles must be at least 1"
        )
    if len(seeds) % len(prompts):
        raise ValueError(f"{len(seeds)} seeds do not divide among {len(prompts)} prompts")
    check_start(denoiser)
    steps = coefficients(denoiser.schedule, sampler)
    if not any(at.std > 0 for at in steps):
        raise UserError(
            f"search: sampler {sampler.name} with eta={sampler.eta:g} has no noise to choose among; say sampler=ddpm or"
            " sampler=ddim sampler.eta=1"
        )
    uphill = wants_gradient(potential, settings.proposal)

    p, total = len(prompts), len(seeds)
    device, before = denoiser.device, denoiser.forwards
    own = potential.observer if isinstance(potential, PathPotential) else None
    watching = [*observers] if own is None else [own, *(each for each in observers if each is not own)]
    texts = [prompt for prompt in prompts for _ in range(total // p)]
    condition = denoiser.encode_prompts(list(prompts)).repeat_interleave(total // p)
    # Particles never change their prompt, so the conditions stay in place whoever is resampled.
    if watching or denoiser.needs_branches(sampler.guidance):
        condition = denoiser.widened(condition)
    streams = noise or NoiseStreams(
        seeds, denoiser.latent_shape, device, torch.promote_types(torch.float32, denoiser.dtype)
    )
    own_seeds = [candidate_seed(seed, "resampling", 0) for seed in seeds[:: total // p]]
    weights = Weights(prompts, total // p, own_seeds, settings, len(steps))
    for observer in watching:
        observer.start(total, device)

    z = streams.next()
    correction = torch.zeros(p, total // p, dtype=torch.float64)
    for index, at in enumerate(steps):
        seen = _look(
            denoiser, z, at, condition, texts, sampler.guidance, potential, uphill, settings.batch_size
        )
        if own is None:
            assert seen.value is not None
            value = seen.value
        else:
            value = own.result() if index else torch.zeros(total)
        weights.update(value.double().cpu().view(p, -1), correction)
        rows = weights.resample() if at.std > 0 else None  # without noise copies would stay copies
        if rows is not None:
            streams.select(rows.tolist())
            rows = rows.to(device)
            z, seen = z[rows], seen.select(rows)
            for observer in watching:
                observer.select(rows)
        drawn = streams.next() if at.std > 0 else None
        z_prev, drawn, log_ratio = _move(
            seen, at, drawn, weights.next_temper / settings.alpha, settings.max_drift
        )
        correction = log_ratio.cpu().view(p, -1)
        if watching:
            assert seen.eps is not None
            step = Step.of(index, at, z, seen.eps, z_prev, sampler.guidance, drawn)
            for observer in watching:
                observer.observe(step)
        z = z_prev

    if own is None:
        assert isinstance(potential, RewardPotential)
        parts = torch.arange(total).split(settings.batch_size)
        value = torch.cat([potential.value(z[part], [texts[row] for row in part]) for part in parts])
    else:
        value = own.result()
    final = value.double().cpu().view(p, -1)
    weights.update(final, correction)
    return Steered(
        z.view(p, -1, *z.shape[1:]), weights.log.log_softmax(1), final, weights.evidence(), weights.roots,
        torch.stack(weights.ancestry) if weights.ancestry else torch.empty(0, *final.shape, dtype=torch.long),
        torch.stack(weights.tempers), torch.stack(weights.sizes), weights.resampled, weights.died,
        denoiser.forwards - before,
    )  # fmt: skip


def wants_gradient(potential: Potential, proposal: str) -> bool:
    """Whether to move along the potential's gradient. UserError where it is asked for and there is none."""
    if proposal == "gradient" and not potential.differentiable:
        raise UserError(
            f"search.proposal=gradient needs a differentiable reward, and '{potential.name}' is not; say"
            " search.proposal=bootstrap, or auto"
        )
    return potential.differentiable and proposal != "bootstrap"


def draw(steered: Steered, count: int, seed: int = 0) -> Tensor:
    """Indices [P, count] of particles drawn by their weights, with replacement."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(steered.log_weights.exp(), count, replacement=True, generator=generator)


def _look(
    denoiser: Denoiser,
    z: Tensor,
    at: StepCoefficients,
    condition: Condition,
    texts: Sequence[str],
    guidance: float,
    potential: Potential,
    uphill: bool,
    batch_size: int,
) -> _Seen:
    """One forward of every row at z_t, at most ``batch_size`` at a time, with the potential and its gradient in z_t."""
    schedule, kind, n = denoiser.schedule, denoiser.prediction_type, len(z)
    both = len(condition) > n
    p, q = schedule.clean_weights(at.t, kind)
    means, values, gradients, eps = [], [], [], []
    for rows in torch.arange(n).split(batch_size):
        x = z[rows[0] : rows[-1] + 1].detach()
        given = condition[torch.cat([rows + n * branch for branch in range(len(condition) // n)])]
        with torch.set_grad_enabled(uphill):
            x.requires_grad_(uphill)
            outputs = denoiser.outputs(x, at.t, given, guidance)
            if isinstance(potential, RewardPotential):
                value = potential.value(p * x + q * outputs[-1], [texts[row] for row in rows.tolist()])
                values.append(value.detach())
                if uphill:
                    gradients.append(_gradient(value, x, potential.name))
        x, outputs = x.detach(), tuple(output.detach() for output in outputs)
        means.append(at.mean(x, outputs[-1], schedule, kind))
        if both:
            eps.append(tuple(schedule.to_epsilon(output, x, at.t, kind) for output in outputs))
    return _Seen(
        torch.cat(means),
        torch.cat(values) if values else None,
        torch.cat(gradients) if gradients else None,
        tuple(torch.cat(part) for part in zip(*eps, strict=True)) if eps else None,
    )


def _gradient(value: Tensor, z: Tensor, name: str) -> Tensor:
    """∇_z of each row's own value [n, …]; zero where it is not finite: those particles move as the sampler would."""
    if not value.requires_grad:
        raise UserError(
            f"the reward '{name}' says it is differentiable, but no gradient reaches its score; say"
            " search.proposal=bootstrap"
        )
    alive = value.isfinite()
    (gradient,) = torch.autograd.grad(torch.where(alive, value, torch.zeros_like(value)).sum(), z)
    whole = gradient.flatten(1).isfinite().all(1) & alive
    return torch.where(expand(whole.to(z.dtype), gradient) > 0, gradient, torch.zeros_like(gradient))


def _move(
    seen: _Seen, at: StepCoefficients, noise: Tensor | None, strength: Tensor, max_drift: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(z', noise as seen from p, log p(z'|z) − log m(z'|z) [n]) of one move, m = N(μ + std² λ ∇U/α, std²).

    With drift δ and noise n, z' − μ = δ + std n, so log p − log m = −(δ·n)/std − ‖δ‖²/(2 std²), and in units of p the
    noise was n + δ/std. ``strength``: λ/α [P].
    """
    exact = torch.float32 if seen.mean.device.type == "mps" else torch.float64
    if noise is None:
        return seen.mean, None, torch.zeros(len(seen.mean), dtype=exact, device=seen.mean.device)
    if seen.gradient is None:
        return (
            seen.mean + at.std * noise,
            noise,
            torch.zeros(len(noise), dtype=exact, device=noise.device),
        )
    scale = strength.repeat_interleave(len(noise) // len(strength)).to(noise.device, noise.dtype)
    pull = at.std * expand(scale, noise) * seen.gradient  # δ/std
    size = pull.flatten(1).square().mean(1).sqrt()
    pull = pull * expand((max_drift / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0), pull)
    flat, drawn = pull.flatten(1).to(exact), noise.flatten(1).to(exact)
    log_ratio = -(flat * drawn).sum(1) - 0.5 * flat.square().sum(1)
    return seen.mean + at.std * (pull + noise), pull + noise, log_ratio
