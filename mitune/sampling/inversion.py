"""From a picture back to the noise that a sampler without noise draws it from (DDIM inversion, Song et al. 2021).

Every step of such a sampler is z_s = A z_t + B f(z_t), f the network; here the equation is solved for z_t, so what is
found is the step's own inverse and not that of a neighbouring one.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.sampling.catalogue import SamplerConfig, is_deterministic
from mitune.sampling.solver import LinearSolver, StepCoefficients, solver_of

RECURSION = 8
"""Times that an implicit step is put into itself."""
MEMORY = 3
"""Iterates that the next one is made of, beside the newest (Anderson 1965)."""
_LEAST = 1e-3  # A below it: the step forgets where it came from


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    sampler: SamplerConfig,
    guidance: float = 1.0,
    recursion: int = RECURSION,
) -> list[Tensor]:
    """Find the path of latents ``z0`` [n, …]: z at the time of every step, the noise first, and ``z0`` last.

    Args:
        denoiser: n steps · (``recursion`` + 1) rows are sent through it, twice as many with guidance.
        z0: in float32 or wider.
        condition: n rows.
        sampler: ``ddim`` with ``eta=0``, or ``euler``.
        guidance: of the path; at high scales the equation need not be solved so, and the paths of editing take 1.
        recursion: how often the equation is put into itself; 0 is DDIM inversion as it is mostly done, with the network
            at z_s.

    UserError for another sampler, and for a step that cannot be undone.
    """
    solver = solver_of(denoiser, sampler)
    if not is_deterministic(sampler.name, sampler.eta) or not isinstance(solver, LinearSolver):
        raise UserError(
            f"a picture cannot be followed back to its noise by sampler.name={sampler.name} (sampler.eta="
            f"{sampler.eta:g}); say sampler=ddim sampler.eta=0, or of a flow sampler=euler"
        )
    given = denoiser.widened(condition) if denoiser.needs_branches(guidance) else condition
    path = [z0]
    for at in reversed(solver.steps):
        p, q = denoiser.schedule.epsilon_weights(at.t, denoiser.prediction_type)
        own, network = at.a + at.b * p, at.b * q
        if abs(own) < _LEAST:
            raise UserError(
                f"the step from t={at.t:g} cannot be undone: this model says the picture alone; draw one instead"
            )
        path.append(_solved(denoiser, path[-1], at, given, guidance, (own, network), recursion))
    return path[::-1]


def _solved(
    denoiser: Denoiser,
    z: Tensor,
    at: StepCoefficients,
    given: Condition,
    guidance: float,
    slopes: tuple[float, float],
    recursion: int,
) -> Tensor:
    """z_t with A z_t + B f(z_t) = z_s, of each row by itself: what came nearest of all iterates.

    Near pure noise a step of a short path is no contraction, and putting it into itself alone would run away;
    Anderson's mixing takes of the last iterates the combination whose residual is least.

    Args:
        denoiser, given, guidance: what is asked, and how.
        z: z_s.
        at: the step.
        slopes: A and B.
        recursion: as of :func:`invert`.
    """
    own, network = slopes
    ahead, found, least = z, z, z.new_full((len(z),), math.inf)
    put: list[Tensor] = []
    left: list[Tensor] = []
    for _ in range(recursion + 1):
        output = denoiser.outputs(ahead, at.time, given, guidance)[-1]
        new = (z - network * output) / own
        miss = (new - ahead).flatten(1)
        nearer = miss.square().sum(1) < least
        least = torch.where(nearer, miss.square().sum(1), least)
        found = torch.where(nearer.view(-1, *[1] * (z.ndim - 1)), new, found)
        put, left = [*put, new.flatten(1)][-MEMORY - 1 :], [*left, miss][-MEMORY - 1 :]
        ahead = _mixed(put, left).view_as(z) if len(put) > 1 else new
    return found


def _mixed(put: list[Tensor], left: list[Tensor]) -> Tensor:
    """The combination of the iterates ``put`` [n, D] whose residual, of ``left`` [n, D], is least."""
    steps, falls = (torch.stack([b - a for a, b in itertools.pairwise(own)], 2) for own in (put, left))
    square = falls.transpose(1, 2) @ falls
    ridge = 1e-6 * square.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    square = square + ridge[:, None, None] * torch.eye(
        square.shape[1], device=square.device, dtype=square.dtype
    )
    weights = torch.linalg.solve(square, falls.transpose(1, 2) @ left[-1][:, :, None])
    return put[-1] - (steps @ weights)[:, :, 0]
