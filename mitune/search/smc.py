"""Sequential Monte Carlo on the denoising path: a population that ends up distributed as p(z_0) · exp(U(z_0)/α).

DAS (Kim et al., ICLR 2025, arXiv 2501.05803) and the twisted diffusion sampler (Wu et al., NeurIPS 2023) as one guide
of the sampling loop (:func:`mitune.sampling.loop.walk`):

    weigh the particles at z_t → resample where few carry the weight → move, uphill if the potential has a gradient
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.noise import exact_type, expand
from mitune.referees.reward import Reward
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.loop import Guide, Noise, Observer, noise_of, walk
from mitune.sampling.seeds import candidate_seed
from mitune.sampling.solver import StepCoefficients, solver_of
from mitune.search.catalogue import SearchConfig
from mitune.search.particle_weights import Weights
from mitune.search.potentials import PathPotential, Potential


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


@torch.no_grad()
def steer(
    denoiser: Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    potential: Potential,
    settings: SearchConfig | None = None,
    observers: Sequence[Observer] = (),
    noise: Noise | None = None,
    batch_size: int = 64,
) -> Steered:
    """Carry N = len(seeds) / P particles of each of the P ``prompts`` from noise to latents.

    The model's own distribution is the sampler's, guidance included. What becomes of a prompt depends on its own seeds
    alone.

    Args:
        denoiser: the model.
        prompts: P texts.
        seeds: [P·N], prompt by prompt.
        sampler: one that adds noise.
        potential: what draws the particles.
        settings: of the search.
        observers: measure the particles as they measure candidates; they, a path potential and a guidance other than 1
            need all branches of the network (``Denoiser.branches``), else a particle and step takes one row.
        noise: where it comes from, instead of one stream a particle.
        batch_size: particles of a forward (and backward).

    UserError for no particles, a setting out of bounds, a sampler without noise, gradient proposals with a potential
    that has no gradient, a prompt whose particles all died, and as ``walk`` and ``solver_of``. ValueError if the seeds
    do not divide among the prompts.
    """
    settings = settings or SearchConfig()
    settings.check("search.")
    if not prompts or not seeds:
        raise UserError(
            f"search: {len(prompts)} prompts, {len(seeds)} particles; search.particles must be at least 1"
        )
    if len(seeds) % len(prompts):
        raise ValueError(f"{len(seeds)} seeds do not divide among {len(prompts)} prompts")
    solver = solver_of(denoiser, sampler)
    if not any(at.std > 0 for at in solver.steps):
        share = f" with eta={sampler.eta:g}" if SAMPLERS[sampler.name].noise == "eta" else ""
        raise UserError(
            f"search: sampler {sampler.name}{share} has no noise to choose among; say sampler=ddpm or sampler=ddim"
            " sampler.eta=1"
        )
    before, particles = denoiser.forwards, len(seeds) // len(prompts)
    own_seeds = [candidate_seed(seed, "resampling", 0) for seed in seeds[::particles]]
    weights = Weights(prompts, particles, own_seeds, settings, len(solver.steps))
    guide = Particles(denoiser, prompts, potential, settings, weights)
    condition = denoiser.encode_prompts(list(prompts)).repeat_interleave(particles)
    own = [potential.observer] if isinstance(potential, PathPotential) else []
    watching = [*own, *(each for each in observers if each not in own)]
    streams = noise or noise_of(denoiser, seeds)
    found = walk(
        denoiser, condition, solver, streams, sampler.guidance, watching, guide, batch_size, sampler.guidance_interval
    )  # fmt: skip
    z = found.latents
    final = guide.finish(z, batch_size)
    return Steered(
        z.view(len(prompts), -1, *z.shape[1:]), weights.log.log_softmax(1), final, weights.evidence(), weights.roots,
        torch.stack(weights.ancestry) if weights.ancestry else torch.empty(0, *final.shape, dtype=torch.long),
        torch.stack(weights.tempers), torch.stack(weights.sizes), weights.resampled, weights.died,
        denoiser.forwards - before,
    )  # fmt: skip


class Particles(Guide):
    """Weighs P prompts × N particles at z_t, resamples them and moves them up the potential.

    Particles never change their prompt: whoever is resampled, row i belongs to prompt i // N.

    Args:
        denoiser: the model.
        prompts: P texts.
        potential: what draws the particles.
        settings: of the search.
        weights: of the particles; it settles who is resampled.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        potential: Potential,
        settings: SearchConfig,
        weights: Weights,
    ) -> None:
        self.gradient = wants_gradient(potential, settings.proposal)
        self._denoiser, self._potential = denoiser, potential
        self._settings, self._weights = settings, weights
        self._shape = weights.log.shape
        self._texts = [prompt for prompt in prompts for _ in range(self._shape[1])]
        self._correction = torch.zeros(self._shape, dtype=torch.float64)
        self._values: list[Tensor] = []
        self._slopes: list[Tensor] = []

    def look(self, at: StepCoefficients, z: Tensor, outputs: Sequence[Tensor], rows: slice) -> None:
        """Ask a reward what the batch is heading for, and which way is up."""
        if isinstance(self._potential, PathPotential):
            return
        p, q = self._denoiser.schedule.clean_weights(at.t, self._denoiser.prediction_type)
        value = self._potential.value(p * z + q * outputs[-1], self._texts[rows])
        self._values.append(value.detach())
        if self.gradient:
            self._slopes.append(_gradient(value, z, self._potential.name))

    def before(self, index: int, at: StepCoefficients) -> Tensor | None:
        """Weigh the particles at z_t; resample the prompts in which few carry the weight."""
        if isinstance(self._potential, PathPotential):
            value = self._potential.observer.result() if index else torch.zeros(len(self._texts))
        else:
            value = torch.cat(self._values)
        self._values = []
        self._weigh(value)
        rows = self._weights.resample() if at.std > 0 else None  # without noise copies would stay copies
        if self._slopes:
            slopes = torch.cat(self._slopes)
            self._slopes = [slopes if rows is None else slopes[rows.to(slopes.device)]]
        return rows

    def move(self, at: StepCoefficients, mean: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Draw z' from m = N(μ + std² λ ∇U/α, std²) instead of p = N(μ, std²), and note log p(z'|z) − log m(z'|z).

        With drift δ and noise n, z' − μ = δ + std n, so log p − log m = −(δ·n)/std − ‖δ‖²/(2 std²), and in units of p
        the noise was n + δ/std.
        """
        slopes, self._slopes = self._slopes, []
        self._correction = torch.zeros_like(self._correction)
        if noise is None:
            return mean, None
        if not slopes:
            return mean + at.std * noise, noise
        strength = (self._weights.next_temper / self._settings.alpha).repeat_interleave(self._shape[1])
        pull = at.std * expand(strength.to(noise.device, noise.dtype), noise) * slopes[0]  # δ/std
        size = pull.flatten(1).square().mean(1).sqrt()
        most = math.inf if self._settings.max_drift is None else self._settings.max_drift
        pull = pull * expand((most / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0), pull)
        flat, drawn = (each.flatten(1).to(exact_type(mean.device)) for each in (pull, noise))
        self._correction = (-(flat * drawn).sum(1) - 0.5 * flat.square().sum(1)).cpu().view(self._shape)
        return mean + at.std * (pull + noise), pull + noise

    @torch.no_grad()
    def finish(self, z: Tensor, batch_size: int) -> Tensor:
        """Weigh the finished latents [P·N, …]; gives U [P, N] float64 on the CPU."""
        potential = self._potential
        if isinstance(potential, PathPotential):
            return self._weigh(potential.observer.result())
        parts = [slice(start, start + batch_size) for start in range(0, len(z), batch_size)]
        return self._weigh(torch.cat([potential.value(z[part], self._texts[part]) for part in parts]))

    def _weigh(self, value: Tensor) -> Tensor:
        found = value.cpu().double().view(self._shape)
        self._weights.update(found, self._correction)
        return found


def wants_gradient(potential: Potential | Reward, proposal: str) -> bool:
    """Tell whether to move along its gradient. UserError where that is asked for and there is none."""
    if proposal == "gradient" and not potential.differentiable:
        raise UserError(
            f"search.proposal=gradient needs a differentiable reward, and '{potential.name}' is not; say"
            " search.proposal=bootstrap, or auto"
        )
    return potential.differentiable and proposal != "bootstrap"


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
