"""Where the steps of a sampler lie: each scheduler of diffusers lays the same spacing in its own way.

    spacing     "ddim"             "multistep"                            "heun"
    leading     ⌊T/n⌋ apart        laid for n + 1 steps, without t = 0     as "ddim"
    trailing    T/n apart, whole   as "ddim"                              as "ddim"
    linspace    whole times        laid for n + 1 steps, without t = 0     any times, σ/α even between the table's
    karras      the network is told the nearest whole time                the network is told the time itself

A flow has one grid for all of them, bent by its own shift: "ddim" and "heun" end it near 0, as diffusers' FlowMatch
schedulers; "multistep" leaves that last time out, as its UniPC.
"""

from __future__ import annotations

import torch

from mitune.errors import UserError
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig, SamplerPart

RHO = 7.0  # Karras et al. 2022, arXiv 2206.00364, eq. 5


def places_of(
    schedule: NoiseSchedule, settings: SamplerConfig, part: SamplerPart
) -> list[tuple[float, float | None]]:
    """Give (t, what the network is told where that is not t) of every step, noisiest first.

    UserError for a spacing that the schedule does not have, and for more steps than it has times.
    """
    spacing = settings.spacing or ""
    if spacing == "karras":
        if schedule.kind == "flow":
            raise UserError(
                "sampler.spacing=karras is for diffusions; a rectified flow lays its steps by its own shift: leave"
                " sampler.spacing out"
            )
        times = schedule.times_at(_karras(schedule, settings.steps))
        return [(t, None if part.grid == "heun" else round(t)) for t in times]
    if spacing == "linspace" and part.grid == "heun" and schedule.kind != "flow":
        return _between(schedule, settings.steps)
    times = schedule.timesteps(
        settings.steps, spacing, settings.steps_offset or 0, spare=part.grid == "multistep"
    ).tolist()
    return [(t, None) for t in times]


def laid(schedule: NoiseSchedule, settings: SamplerConfig) -> str | None:
    """Name whose steps a sampler takes, where earlier versions laid others: as "ddim" for all (None: the same).

    ``settings``: with the spacing that is gone by.
    """
    grid = SAMPLERS[settings.name].grid
    same = grid == "ddim" or (settings.spacing == "trailing" and schedule.kind != "flow")
    return None if same else grid


def _ratios(schedule: NoiseSchedule) -> torch.Tensor:
    """The table's σ/α [T], rising."""
    return ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()


def _karras(schedule: NoiseSchedule, steps: int) -> list[float]:
    """The ratios σ/α from the table's largest to its smallest, even in their ``RHO``-th root."""
    table = _ratios(schedule)
    low, high = (float(end) ** (1 / RHO) for end in (table[0], table[-1]))
    return [
        (high + share * (low - high)) ** RHO
        for share in torch.linspace(0, 1, steps, dtype=torch.float64).tolist()
    ]


def _between(schedule: NoiseSchedule, steps: int) -> list[tuple[float, float | None]]:
    """Even times with both ends; σ/α is that of a line between the table's entries, which is not quite ours."""
    told = torch.linspace(schedule.num_train_timesteps - 1, 0, steps, dtype=torch.float64)
    table, low = _ratios(schedule), told.long().clamp(max=schedule.num_train_timesteps - 2)
    ratios = torch.lerp(table[low], table[low + 1], told - low)
    return list(zip(schedule.times_at(ratios.tolist()), told.tolist(), strict=True))
