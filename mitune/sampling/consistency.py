"""``lcm``: few steps of a latent consistency model (Luo et al. 2023, Algorithm 3)."""

from __future__ import annotations

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import Grid, LinearSolver


def lcm(grid: Grid, settings: SamplerConfig) -> LinearSolver:
    """z_s = α_s ẑ_0 + σ_s·noise: all noise is fresh.

    (diffusers' scheduler mixes in 3e-5 of z at t = 10 and less above: left out.)
    """
    steps = []
    for at in grid.intervals:
        std = at.sigma_prev
        unit = (std**2 + (at.alpha_prev * at.sigma) ** 2 / (at.alpha**2 + at.sigma**2)) ** 0.5
        steps.append(at.step(std, std=std, wide=unit if std > 0 else 0.0))
    return LinearSolver(grid, steps)
