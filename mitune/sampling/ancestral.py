"""``ddpm``: ancestral sampling (Ho et al. 2020, Algorithm 2; Wang et al. Algorithm 2)."""

from __future__ import annotations

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Grid, LinearSolver


def ddpm(grid: Grid, settings: SamplerConfig) -> LinearSolver:
    """z_s = μ̃(z_t, ẑ_0) + std·noise: the posterior mean, with std² = v σ_s²/σ_t² (``variance`` small) or v (large).

    The large variance changes the noise only, never the mean; the last step, onto clean data, adds none.
    """
    steps = []
    for at in grid.intervals:
        small = at.posterior_std
        large = settings.variance == "large" and at.sigma_prev > 0
        steps.append(at.step(small, std=at.forward**0.5 if large else small, wide=at.spread))
    return LinearSolver(grid, steps)
