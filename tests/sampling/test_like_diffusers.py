"""Every solver on every grid against diffusers' scheduler of the same settings, as it is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SPACINGS, SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise
from mitune.scheduler_config import sampler_defaults
from tests.analytic import coefficients, three_clouds

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
GUIDANCE, LABELS, SEEDS = 3.0, ["a", "b", "a"], [21, 22, 23]


def scheduler_of(name: str, spacing: str, **more: Any) -> Any:
    import diffusers

    kind, own = CLASSES[name]
    grid = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    return getattr(diffusers, kind)(**BETAS, **own, **grid, **more)


def theirs(denoiser: AnalyticDenoiser, scheduler: Any, name: str) -> Tensor:
    """Guided latents by diffusers' scheduler, which is set to its times."""
    times = scheduler.timesteps.tolist()
    maps = torch.stack(
        [candidate_noise(seed, denoiser.latent_shape, len(times)).double() for seed in SEEDS], 1
    )
    condition, z = denoiser.encode_prompts(LABELS), maps[0]
    if name == "heun":  # of variance σ² + 1, as ours is of 1 ("linspace" begins with σ times the noise)
        z = z * (scheduler.sigmas.max() ** 2 + 1) ** 0.5
    for t, noise in zip(times, maps[1:], strict=True):
        seen = scheduler.scale_model_input(z, t)
        null, cond = denoiser.predict(seen, t, denoiser.null(len(z))), denoiser.predict(seen, t, condition)
        drawn = {"variance_noise": noise} if name == "dpmpp_2m_sde" else {}
        z = scheduler.step(null + GUIDANCE * (cond - null), t, z, **drawn).prev_sample
    return z


def settings_of(name: str, spacing: str, steps: int) -> SamplerConfig:
    return SamplerConfig(
        name, steps, guidance=GUIDANCE, spacing=spacing, steps_offset=int(spacing == "leading")
    )


def close(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((ours - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", CLASSES)
def test_diffusion_latents_are_those_of_diffusers(name: str, spacing: str, prediction_type: str) -> None:
    denoiser = three_clouds(prediction_type=prediction_type)
    for steps in (5, 10, 20):
        settings = settings_of(name, spacing, steps)
        scheduler = scheduler_of(
            name, spacing, steps_offset=settings.steps_offset, prediction_type=prediction_type
        )
        scheduler.set_timesteps(steps)
        ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
        close(ours, theirs(denoiser, scheduler, name), 3e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_so_they_are_from_pure_noise(name: str, spacing: str, prediction_type: str) -> None:
    denoiser = three_clouds(NoiseSchedule.ddpm(rescale_zero_terminal_snr=True), prediction_type)
    scheduler = scheduler_of(name, spacing, rescale_betas_zero_snr=True, prediction_type=prediction_type)
    scheduler.set_timesteps(10)
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings_of(name, spacing, 10))
    close(ours, theirs(denoiser, scheduler, name), 1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", CLASSES)
def test_the_network_is_told_what_diffusers_tells_it_at_the_same_noise(name: str, spacing: str) -> None:
    schedule = NoiseSchedule.ddpm()
    for steps in (*range(2, 30), 150):
        scheduler = scheduler_of(name, spacing, steps_offset=1)
        scheduler.set_timesteps(steps)
        evaluated = slice(0, None, 2) if name == "heun" else slice(None)
        settings = replace(settings_of(name, spacing, steps), steps_offset=1)
        own = coefficients(schedule, settings)
        for at, time in zip(own, scheduler.timesteps[evaluated].tolist(), strict=True):
            # Theirs rounds what it has in float32: where ours lies between two times either is as near.
            tie = spacing == "karras" and abs(at.t % 1 - 0.5) < 1e-3
            assert at.time == pytest.approx(time, abs=1 if tie else 2e-3)
        ratios = torch.tensor([float(schedule.sigma(at.t) / schedule.alpha(at.t)) for at in own])
        torch.testing.assert_close(ratios, scheduler.sigmas[evaluated][:steps], rtol=1e-4, atol=1e-6)
        assert all(isinstance(at.time, int) for at in own) or name == "heun"


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_flow_latents_are_those_of_unipc_and_heun(shift: float, steps: int) -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler

    denoiser = three_clouds(NoiseSchedule.rectified_flow(shift=shift), "flow")
    condition = denoiser.encode_prompts(LABELS)
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    unipc.set_timesteps(steps)
    unipc.timesteps = 1000 * unipc.sigmas[:-1].double()  # theirs tells the network whole times
    ours = sample(denoiser, condition, SEEDS, SamplerConfig("unipc", steps, guidance=GUIDANCE))
    close(ours, theirs(denoiser, unipc, "unipc"), 3e-5)

    heun = FlowMatchHeunDiscreteScheduler(shift=shift)
    heun.set_timesteps(steps)
    heun.scale_model_input = lambda z, t: z
    ours = sample(denoiser, condition, SEEDS, SamplerConfig("heun", steps, guidance=GUIDANCE))
    close(ours, theirs(denoiser, heun, "flow heun"), 3e-5)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("steps", [10, 20])
def test_a_scheduler_that_ends_at_the_first_timestep_is_followed(
    name: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = three_clouds()
    settings = settings_of(name, spacing, steps)
    whole = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    scheduler = scheduler_of(name, spacing, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(steps)
    said = {"beta_schedule": "scaled_linear", "final_sigmas_type": "sigma_min"}
    monkeypatch.setattr(AnalyticDenoiser, "sampler_defaults", sampler_defaults(said))
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    close(ours, theirs(denoiser, scheduler, name), 3e-5)
    assert not torch.equal(ours, whole)
