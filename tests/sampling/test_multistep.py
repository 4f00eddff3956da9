"""DPM-Solver++ 2M against diffusers' in float64, its memory through resampling, and a second evaluation in a step."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig, is_deterministic
from mitune.sampling.loop import Population, Samples, Step, noise_of, sample, sample_population, walk
from mitune.sampling.racing import Cut, Racing
from mitune.sampling.seeds import candidate_noise
from mitune.sampling.solver import Evaluate, StepCoefficients, solver_of
from tests.analytic import After, three_clouds

VP = NoiseSchedule.ddpm()
GUIDANCE = 3.0
LABELS, SEEDS = ["a", "b", "a", "b", "a"], [21, 22, 23, 24, 25]
SAMPLER = SamplerConfig("dpmpp_2m", 9, guidance=GUIDANCE)


@functools.cache
def exact_scheduler() -> Any:
    """Theirs without its casts to float32, as a class; diffusers is imported where it is asked for."""
    from diffusers import DPMSolverMultistepScheduler

    class Exact(DPMSolverMultistepScheduler):
        def step(self, model_output, timestep, sample, **more):
            self.exact = sample
            return super().step(model_output, timestep, sample, **more)

        def dpm_solver_first_order_update(self, model_output, sample, noise=None):
            return super().dpm_solver_first_order_update(
                model_output, sample=self.exact, noise=self.drawn if noise is not None else None
            )

        def multistep_dpm_solver_second_order_update(self, model_output_list, sample, noise=None):
            return super().multistep_dpm_solver_second_order_update(
                model_output_list, sample=self.exact, noise=self.drawn if noise is not None else None
            )

    return Exact


def theirs(denoiser: AnalyticDenoiser, scheduler: Any, times: list[float]) -> Tensor:
    """Guided latents by diffusers' scheduler, the network evaluated at ``times``."""
    z = torch.cat([candidate_noise(seed, (2,), 0).double() for seed in SEEDS])
    condition = denoiser.encode_prompts(LABELS)
    for t, own in zip(times, scheduler.timesteps, strict=True):
        null = denoiser.predict(z, t, denoiser.null(len(z)))
        cond = denoiser.predict(z, t, condition)
        z = scheduler.step(null + GUIDANCE * (cond - null), own, z).prev_sample
    return z


def close(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((ours - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_diffusion_latents_are_those_of_diffusers(prediction_type: str, spacing: str, steps: int) -> None:
    denoiser = three_clouds(VP, prediction_type)
    settings = replace(SAMPLER, steps=steps, spacing=spacing, steps_offset=int(spacing == "leading"))
    times = [int(at.t) for at in solver_of(denoiser, settings).steps]
    scheduler = exact_scheduler()(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type,
        timestep_spacing=spacing, steps_offset=settings.steps_offset,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times
    bar = VP.alpha_bar[times]
    single = scheduler.sigmas
    scheduler.sigmas = torch.cat([((1 - bar) / bar).sqrt(), torch.zeros(1)])
    torch.testing.assert_close(scheduler.sigmas.float(), single)
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    close(ours, theirs(denoiser, scheduler, times), 1e-9)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_latents_are_those_of_diffusers_as_it_is_installed(steps: int) -> None:
    denoiser = three_clouds(VP, "v_prediction")
    settings = replace(SAMPLER, steps=steps, spacing="trailing")
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    close(ours, theirs(denoiser, scheduler, scheduler.timesteps.tolist()), 1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_flow_latents_are_those_of_diffusers(shift: float, steps: int) -> None:
    schedule = NoiseSchedule.rectified_flow(shift=shift)
    denoiser = three_clouds(schedule, "flow")
    times = [at.t for at in solver_of(denoiser, replace(SAMPLER, steps=steps)).steps]
    scheduler = exact_scheduler()(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    # Their grid begins at 1 - 1/T; ours, as FlowMatchEuler's, at pure noise: the arithmetic is compared on ours.
    scheduler.sigmas = torch.tensor([t / 1000 for t in times] + [0.0], dtype=torch.float64)
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, replace(SAMPLER, steps=steps))
    close(ours, theirs(denoiser, scheduler, times), 1e-9)


@pytest.mark.parametrize("model", [three_clouds(VP), three_clouds(NoiseSchedule.rectified_flow(), "flow")])
def test_memory_follows_the_population(model: AnalyticDenoiser) -> None:
    condition = model.encode_prompts(LABELS)
    chosen = {2: torch.tensor([3, 0, 4]), 5: torch.tensor([2, 0])}

    def choose(step: Step, population: Population) -> Tensor | None:
        return chosen.get(step.index)

    watching, alone = [PathMI(model.schedule)], [PathMI(model.schedule)]
    left = sample_population(model, condition, SEEDS, SAMPLER, watching, After(choose))
    assert left.rows.tolist() == [4, 3]
    expected = sample(model, condition[[4, 3]], [25, 24], SAMPLER, alone)
    assert torch.equal(left.latents, expected)
    assert torch.equal(watching[0].result(), alone[0].result())
    assert (watching[0].result() != 0).all()


def test_copies_of_a_row_stay_copies() -> None:
    model = three_clouds()
    copied = sample_population(
        model, model.encode_prompts(LABELS), SEEDS, SAMPLER,
        guide=After(lambda step, _: torch.tensor([1, 1, 2]) if step.index == 3 else None),
    )  # fmt: skip
    whole = sample(model, model.encode_prompts(LABELS), SEEDS, SAMPLER)
    assert torch.equal(copied.latents, whole[[1, 1, 2]])


def test_racing_by_mi_keeps_what_would_have_been_drawn() -> None:
    model = three_clouds()
    condition = model.encode_prompts(LABELS)
    whole = sample(model, condition, SEEDS, SAMPLER)
    race = Racing([Cut(3, 3), Cut(6, 1)], torch.zeros(5), "mi")
    left = sample_population(model, condition, SEEDS, SAMPLER, [PathMI(model.schedule)], race, batch_size=2)
    assert len(left.rows) == 1
    assert torch.equal(left.latents, whole[left.rows])


def test_its_path_has_no_density() -> None:
    model, llr = three_clouds(), PathLLR()
    sample(model, model.encode_prompts(LABELS), SEEDS, SAMPLER, [llr])
    assert llr.result().tolist() == [0] * 5
    assert [is_deterministic(name, eta) for name in ("ddim", "euler", "dpmpp_2m") for eta in (0.0, 0.5)] == [
        True, False, True, True, True, True,
    ]  # fmt: skip
    assert not is_deterministic("ddpm", 0.0)
    assert not is_deterministic("lcm", 0.0)


# -- two evaluations in a step -----------------------------------------------------------------------------------------


class Heun:
    """Heun's method on a flow: v at both ends of a step."""

    def __init__(self, times: list[float]) -> None:
        self.steps = [
            StepCoefficients(t, t_prev, 0.0, 0.0) for t, t_prev in zip(times, [*times[1:], 0.0], strict=True)
        ]

    def mean(self, at: StepCoefficients, z: Tensor, output: Tensor, evaluate: Evaluate) -> Tensor:
        length = (at.t_prev - at.t) / 1000
        other = evaluate(z + length * output, at.t_prev)
        return z + length * (output + other) / 2

    def select(self, rows: Tensor) -> None:
        pass


def heun(model: AnalyticDenoiser, steps: int, guidance: float = 1.0, **more) -> Samples:
    times = model.schedule.timesteps(steps).tolist()
    condition = model.encode_prompts(["a"] * len(SEEDS))
    return walk(model, condition, Heun(times), noise_of(model, SEEDS), guidance, **more)


def test_a_solver_that_looks_twice_is_of_second_order() -> None:
    """One cloud N(m, s) is carried along known curves: from noise u to m + √s u."""
    means, variances = torch.tensor([0.5, -0.3]).double(), torch.tensor([0.7, 1.4]).double()
    model = AnalyticDenoiser(
        means[None], variances[None], {"a": [1.0]}, {"a": 1.0}, NoiseSchedule.rectified_flow(), "flow"
    )
    noise = torch.cat([candidate_noise(seed, (2,), 0).double() for seed in SEEDS])
    exact = means + variances.sqrt() * noise

    def error(z: Tensor) -> float:
        return float((z - exact).abs().max())

    coarse, fine = error(heun(model, 5).latents), error(heun(model, 20).latents)
    assert coarse / fine > 4**1.7  # of first order: 4
    condition = model.encode_prompts(["a"] * len(SEEDS))
    assert fine < 0.1 * error(sample(model, condition, SEEDS, SamplerConfig("euler", 20, guidance=1.0)))
    model.forwards = 0
    heun(model, 5)
    assert model.forwards == 2 * 5 * len(SEEDS)


def test_a_second_look_is_guided_and_follows_the_batches() -> None:
    model = three_clouds(NoiseSchedule.rectified_flow(), "flow")
    together, apart = (heun(model, 6, 2.5, batch_size=size).latents for size in (None, 2))
    assert torch.equal(together, apart)
    left = heun(model, 6, 2.5, guide=After(lambda step, _: torch.tensor([4, 2]) if step.index == 2 else None))
    assert torch.equal(left.latents, together[[4, 2]])
    assert float((together - heun(model, 6, 1.0).latents).abs().max()) > 0.05
