"""From a picture back to the noise that a sampler without noise draws it from (DDIM inversion, Song et al. 2021).

Every step of such a sampler is z_s = A z_t + B f(z_t), f the network; here z_t is found of z_s by putting the implicit
equation into itself, so what is found is the step's own inverse and not that of a neighbouring one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import solver_of

RECURSION = 8
"""Times that an implicit step is put into itself."""
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
        guidance: of the path; at scales above some 3 the equation need not converge, so the paths of editing take 1.
        recursion: 0 is DDIM inversion as it is mostly done, with the network at z_s.

    UserError for another sampler, and for a step that cannot be undone.
    """
    if sampler.name not in ("ddim", "euler") or (sampler.name == "ddim" and sampler.eta > 0):
        raise UserError(
            f"a picture cannot be followed back to its noise by sampler.name={sampler.name}"
            f"{f' with sampler.eta={sampler.eta:g}' if sampler.name == 'ddim' else ''}; say sampler=ddim"
            " sampler.eta=0 (of a flow: sampler=euler)"
        )
    given = denoiser.widened(condition) if denoiser.needs_branches(guidance) else condition
    path = [z0]
    for at in reversed(solver_of(denoiser, sampler).steps):
        p, q = denoiser.schedule.epsilon_weights(at.t, denoiser.prediction_type)
        own, network = at.a + at.b * p, at.b * q
        if abs(own) < _LEAST:
            raise UserError(
                f"the step from t={at.t:g} cannot be undone: this model says the picture alone; draw one instead"
            )
        ahead = z = path[-1]
        for _ in range(recursion + 1):
            output = denoiser.outputs(ahead, at.time, given, guidance)[-1]
            ahead = (z - network * output) / own
        path.append(ahead)
    return path[::-1]
