"""``llr``: log-likelihood ratio of a path under the prompt and under none, the sampler's own or one on a picture.

The conditional and the unconditional reverse process share one forward kernel, so the ratio of their path densities

    Σ_t log p(z_{t−1}|z_t, c) − log p(z_{t−1}|z_t, ∅)  →  i(z_0; c) = log p(z_0|c) − log p(z_0)

on any stochastic path that ends in z_0, whoever drew it, as the steps grow small.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import check_known
from mitune.information.catalogue import LLRImageConfig
from mitune.information.denoising import denoising_errors
from mitune.information.given import Given
from mitune.information.noising import Noising
from mitune.noise import NoiseSchedule, exact_type
from mitune.sampling.loop import Step

KERNELS = ("wide", "path")


class PathLLR:
    """Observer of Σ_t (‖z_{t−1} − μ_∅‖² − ‖z_{t−1} − μ_c‖²) / 2 s_t² in nats, free of charge; result float64 [n].

    It holds on any ancestral path, guided or not; the guided path is taken as it was walked. Steps without noise carry
    no density and are skipped, so a deterministic sampler (ddim, eta 0) scores 0 throughout; with eta below 1 the ratio
    of densities is what it says, but no longer tends to i(z_0; c).

    ``kernel`` names the variance s_t² that densities are taken with. "path": the sampler's own, the narrow posterior
    variance, that of data at one point. "wide": the exact reverse variance of data of unit variance (VP: 1 − ᾱ_t/ᾱ_s).
    Both tend to the same, but at few steps the narrow one overrates steps that end near clean data, and for rectified
    flow the first ones (benchmarks/results/estimators.md: at 50 steps and fewer the wide one is nearer everywhere).

    ``tail``: a VP table ends before all signal is gone, and a path that starts there lacks what z_T itself tells:
    log p_T(z_T|c) − log p_T(z_T) = ½ (‖ε̂_∅‖² − ‖ε̂_c‖²) + O(α_T²) of the first step, as ε̂ is standard normal noise run
    back to where it came from. With exact denoisers and many steps it takes away most of the error under guidance. It
    leans on what the network says at T alone, of which trained ones know least: off unless asked for.

    With Δ = ε̂_c − ε̂_∅, guidance s, step noise n: z_{t−1} − μ_∅ = b s Δ + std n and z_{t−1} − μ_c = b (s − 1) Δ + std n,
    so a step adds b² (2s − 1) ‖Δ‖² / 2 s_t² + (b std / s_t²) Δ·n: two reductions, one shared with ``mi``. Where
    guidance pulls by r beside s Δ (three branches), b² r·Δ / s_t² comes on top.

    A solver that remembers the step before (``dpmpp_2m_sde``) has two means with a history each: they differ by
    b Δ + c Δ_before, which stands for b Δ in all of the above. Outside of a guidance interval both processes are told
    the prompt, Δ is 0 there, and the ratio is that of the two processes that differ inside of it.
    UserError for an unknown kernel.
    """

    name = "llr"

    def __init__(self, kernel: str = "wide", tail: bool = False) -> None:
        check_known("llr kernel", kernel, KERNELS)
        self.kernel, self.tail = kernel, tail

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        self._total = torch.zeros(n, device=device, dtype=exact_type(device))
        self._before: tuple[Tensor, Tensor | None] | None = None

    def observe(self, step: Step) -> None:
        """Add one step."""
        pull = None if step.linear else (step.eps - step.eps_null).flatten(1) - step.guidance * step.delta
        before, self._before = self._before, (step.delta, pull)
        if self.tail and step.index == 0:
            norms = [eps.flatten(1).square().sum(1) for eps in (step.eps_null, step.eps_cond)]
            self._total.add_(norms[0] - norms[1], alpha=0.5)
        if step.noise is None:
            return
        width = step.wide if self.kernel == "wide" else step.std
        ratio = step.b / width
        delta, squared = step.delta, step.squared_gap
        if step.c and before is not None:
            delta = torch.add(delta, before[0], alpha=step.c / step.b)
            squared = delta.square().sum(1)
            pull = None if pull is None or before[1] is None else pull + step.c / step.b * before[1]
        self._total.add_(squared, alpha=0.5 * ratio**2 * (2 * step.guidance - 1))
        if pull is not None:
            self._total.add_((pull * delta).sum(1), alpha=ratio**2)
        self._total.add_((delta * step.noise.flatten(1)).sum(1), alpha=ratio * step.std / width)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._total = self._total[rows]
        if self._before is not None:
            delta, pull = self._before
            self._before = (delta[rows], None if pull is None else pull[rows])

    def result(self) -> Tensor:
        """Log-likelihood ratio so far [n]."""
        return self._total.clone()


def llr_image(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    noising: Noising,
    settings: LLRImageConfig | None = None,
) -> Tensor:
    """Measure ``llr`` of a picture [n] float32: on forward paths z_{t_1}, z_{t_2}, … drawn from q(·|z_0), averaged; in
    nats where they span all times.

    Args:
        z0: latents [n, …].
        condition: n rows.
        noising: its times must rise; it is walked as "coupled" whatever its ``noise`` and ``weights`` say.
        settings: ``paths``, how many (for the same forwards one path of m times is about as good as two of m/2), and
            ``guidance``: 1 asks for the conditional process, and estimates i(z_0; c) for pictures however they were
            made. Another s asks how much likelier a path is under the *guided* process, ε̂_∅ + s (ε̂_c − ε̂_∅), than
            under ∅: with A = Σ w (‖ε̂_∅ − n'‖² − ‖ε̂_c − n'‖²) and M = Σ w ‖ε̂_c − ε̂_∅‖² of a path, s A − s (s − 1) M.

    VP schedules walk the DDPM chain, rectified flows their SDE (:func:`mitune.information.noising.coupled`).
    Cost: 2 · m · paths forwards a picture. One path is ``elbo`` with coupled noise.
    Raises as ``denoising_terms``; ValueError for fewer than one path.
    """
    paths, guidance = (1, 1.0) if settings is None else (settings.paths, settings.guidance)
    if paths < 1:
        raise ValueError(f"paths={paths} must be at least 1")
    conditions = [denoiser.reference(condition), condition]
    noising = replace(noising, noise="coupled")
    noising = replace(noising, weights=noising.plan(denoiser.schedule).weights)
    each = []
    for path in range(paths):
        error, mi = denoising_errors(
            denoiser, z0, conditions, replace(noising, path=path), reference=0 if guidance != 1 else None
        )
        ratio = error[:, 0] - error[:, 1]
        if mi is not None:
            ratio = guidance * ratio - guidance * (guidance - 1) * mi[:, 1]
        each.append(ratio)
    return torch.stack(each).mean(0).float()


def path_llr(schedule: NoiseSchedule, settings: None) -> PathLLR:
    """Make the observer of the score ``llr``."""
    return PathLLR()


def measure(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: LLRImageConfig
) -> Tensor:
    """Measure the score ``llr_image``."""
    return llr_image(denoiser, z0, given.condition, noising, settings)
