"""Where a flow's steps lie: as diffusers' schedulers lay them, each in its own way."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.grids import laid as laid_as
from tests.analytic import coefficients


def laid(name: str, shift: float, steps: int) -> list[float]:
    """Our times over T."""
    schedule = NoiseSchedule.rectified_flow(shift=shift)
    return [at.t / 1000 for at in coefficients(schedule, SamplerConfig(name, steps))]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("name", SAMPLERS.where(lambda part: part.grid == "multistep"))
def test_solvers_that_look_back_lie_as_unipc_does(name: str, steps: int, shift: float) -> None:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    assert laid(name, shift, steps) == pytest.approx(
        np.asarray(scheduler.sigmas[:-1]).tolist(), abs=2e-6
    )  # it keeps off 1 by 1e-6


def test_where_steps_lie_elsewhere_than_they_did_it_is_said() -> None:
    flow, diffusion = NoiseSchedule.rectified_flow(), NoiseSchedule.ddpm()
    for name, part in SAMPLERS.items():
        one_step = part.grid == "ddim"
        assert laid_as(flow, SamplerConfig(name, spacing="trailing")) == (None if one_step else part.grid)
        assert laid_as(diffusion, SamplerConfig(name, spacing="trailing")) is None
        assert laid_as(diffusion, SamplerConfig(name, spacing="leading")) == (None if one_step else part.grid)


@pytest.mark.parametrize("name", ["euler", "ddim", "ddpm"])
def test_solvers_of_one_step_lie_as_flow_match_euler_does(name: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    assert laid(name, 3.0, 10) == pytest.approx(np.asarray(scheduler.sigmas[:-1]).tolist(), abs=1e-6)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_no_step_but_the_first_and_last_leaps_over_more_than_its_neighbours(steps: int) -> None:
    """What a solver carries on from the step before misleads over a stretch of λ that is far longer."""
    schedule = NoiseSchedule.rectified_flow()
    at = coefficients(schedule, SamplerConfig("dpmpp_2m", steps))
    halves = np.array([float(schedule.log_snr(step.t)) for step in at[1:]])
    gains = np.diff(halves)
    assert (gains[1:] < 2 * gains[:-1]).all()
