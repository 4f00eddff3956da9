"""``ddim`` with any share of the ancestral noise (Song et al. 2021), and ``euler``, rectified flow's ODE."""

from __future__ import annotations

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Grid, LinearSolver


def ddim(grid: Grid, settings: SamplerConfig) -> LinearSolver:
    """z_s = α_s ẑ_0 + √(σ_s² − std²) ε̂ + std·noise, with std = eta · √v σ_s/σ_t (eq. 12 and 16)."""
    steps = []
    for at in grid.intervals:
        std = settings.eta * (at.forward**0.5) * at.sigma_prev / at.true_sigma
        steps.append(at.step(std, std=std, wide=settings.eta * at.spread))
    return LinearSolver(grid, steps)


def euler(grid: Grid, settings: SamplerConfig) -> LinearSolver:
    """z_s = z + (s − t)/T v̂: what ``ddim`` without noise is on a flow."""
    return LinearSolver(grid, [at.step(0.0, std=0.0, wide=0.0) for at in grid.intervals])
