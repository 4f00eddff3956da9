"""DPM-Solver++ 2M with noise against diffusers' in float64, its mean under another history, and who may follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.closed_form import LatentPotential, LatentReward
from mitune.analytic import AnalyticDenoiser
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig, is_deterministic
from mitune.sampling.loop import sample, sample_population
from mitune.sampling.racing import Cut, Racing
from mitune.sampling.seeds import candidate_noise
from mitune.sampling.solver import solver_of
from mitune.search.catalogue import SearchConfig
from mitune.search.smc import steer
from tests.analytic import After, coefficients, three_clouds
from tests.sampling.test_multistep import GUIDANCE, LABELS, SEEDS, VP, close, exact_scheduler

FLOW = NoiseSchedule.rectified_flow(shift=3.0)
SDE = SamplerConfig("dpmpp_2m_sde", 9, guidance=GUIDANCE, spacing="trailing")


def theirs(denoiser: AnalyticDenoiser, scheduler, times: list[float]) -> Tensor:
    """Guided latents by diffusers' scheduler with the noise of our candidates."""
    maps = torch.stack([candidate_noise(seed, (2,), len(times)).double() for seed in SEEDS], 1)
    condition, z = denoiser.encode_prompts(LABELS), maps[0]
    for t, own, noise in zip(times, scheduler.timesteps, maps[1:], strict=True):
        null, cond = denoiser.predict(z, t, denoiser.null(len(z))), denoiser.predict(z, t, condition)
        scheduler.drawn = noise
        z = scheduler.step(null + GUIDANCE * (cond - null), own, z, variance_noise=noise).prev_sample
    return z


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_diffusion_latents_are_those_of_diffusers_given_the_noise(prediction_type: str, steps: int) -> None:
    denoiser, settings = three_clouds(VP, prediction_type), replace(SDE, steps=steps)
    scheduler = exact_scheduler()(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type,
        timestep_spacing="trailing", algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    bar = VP.alpha_bar[times]
    scheduler.sigmas = torch.cat([((1 - bar) / bar).sqrt(), torch.zeros(1)])
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    close(ours, theirs(denoiser, scheduler, times), 1e-9)


@pytest.mark.parametrize("steps", [5, 20])
def test_flow_latents_are_those_of_diffusers_given_the_noise(steps: int) -> None:
    denoiser, settings = three_clouds(FLOW, "flow"), replace(SDE, steps=steps)
    times = [at.t for at in solver_of(denoiser, settings).steps]
    scheduler = exact_scheduler()(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0,
        algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.tensor([t / 1000 for t in times] + [0.0], dtype=torch.float64)
    ours = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, settings)
    close(ours, theirs(denoiser, scheduler, times), 1e-9)


MODELS = [
    three_clouds(VP),
    three_clouds(VP, "v_prediction"),
    three_clouds(NoiseSchedule.ddpm(rescale_zero_terminal_snr=True), "v_prediction"),
    three_clouds(VP, "sample"),
    three_clouds(FLOW, "flow"),
]


@pytest.mark.parametrize("model", MODELS)
def test_the_mean_under_another_history_differs_by_b_now_and_c_before(model: AnalyticDenoiser) -> None:
    """The latents are what they are; told other noise, now and a step before, the mean moves by b Δ + c Δ_before."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(4, 2, generator=generator).double()

    one, other = solver_of(model, SDE), solver_of(model, SDE)
    noises = [torch.zeros(4, 2).double()] * 2
    seconds = 0
    for at in one.steps:
        z, outputs = draw(), (draw(), draw())
        means = [
            solver.mean(at, z, output, draw) for solver, output in zip((one, other), outputs, strict=True)
        ]
        eps = [model.schedule.to_epsilon(output, z, at.t, model.prediction_type) for output in outputs]
        expected = at.b * (eps[0] - eps[1]) + at.c * (noises[0] - noises[1])
        torch.testing.assert_close(means[0] - means[1], expected, rtol=1e-6, atol=1e-9)
        noises, seconds = eps, seconds + (at.c != 0)
    assert one.steps[0].c == one.steps[-1].c == 0  # no step before; and onto clean data
    assert seconds == len(one.steps) - (
        3 if model.prediction_type == "flow" else 2
    )  # pure noise has no slope


def test_a_first_order_step_is_ancestral() -> None:
    ours = coefficients(VP, SDE)
    ddpm = coefficients(VP, replace(SDE, name="ddpm"))
    for name in ("std", "wide"):
        assert [getattr(at, name) for at in ours] == pytest.approx([getattr(at, name) for at in ddpm])
    assert (ours[0].b, ours[-1].b) == pytest.approx((ddpm[0].b, ddpm[-1].b))
    assert not is_deterministic("dpmpp_2m_sde", 0.0)


def test_memory_follows_the_population_and_its_noise() -> None:
    model = MODELS[0]
    condition = model.encode_prompts(LABELS)
    chosen = {2: torch.tensor([3, 0, 4]), 5: torch.tensor([2, 0])}
    left = sample_population(
        model, condition, SEEDS, SDE, guide=After(lambda step, _: chosen.get(step.index))
    )
    assert left.rows.tolist() == [4, 3]
    assert torch.equal(left.latents, sample(model, condition[[4, 3]], [25, 24], SDE))
    race = Racing([Cut(3, 3), Cut(6, 1)], torch.zeros(5), "mi")
    raced = sample_population(model, condition, SEEDS, SDE, [PathMI(model.schedule)], race, batch_size=2)
    assert torch.equal(raced.latents, sample(model, condition, SEEDS, SDE)[raced.rows])


CLOUD = AnalyticDenoiser([[0.5, -0.3]], [[0.7, 1.4]], {"a": [1.0]}, {"a": 1.0}, VP)


def as_sampled(settings: SamplerConfig) -> tuple[Tensor, Tensor]:
    """Mean and variance [2] of what the sampler makes of the cloud: linear in (z, the picture before), so exact."""
    m, s = CLOUD.means[0], CLOUD.variances[0]
    mean, cov = torch.zeros(2, 2).double(), torch.zeros(2, 2, 2).double()  # of (z, x) in each dimension
    cov[:, 0, 0] = 1.0
    for at in coefficients(VP, settings):
        alpha, sigma = at.interval.alpha, at.interval.sigma
        slope = alpha * s / (alpha**2 * s + sigma**2)  # x = m + slope (z - alpha m)
        move = torch.stack([torch.stack([at.kept + at.pull * at.weight * slope,
                                         torch.full_like(s, at.pull * (1 - at.weight))], -1),
                            torch.stack([slope, torch.zeros_like(s)], -1)], -2)  # fmt: skip
        shift = m - slope * alpha * m
        mean = (move @ mean[..., None])[..., 0] + torch.stack([at.pull * at.weight * shift, shift], -1)
        cov = move @ cov @ move.mT
        cov[:, 0, 0] += at.std**2
    return mean[:, 0], cov[:, 0, 0]


def test_it_draws_what_its_steps_make_of_a_cloud_and_in_the_end_the_cloud() -> None:
    n, few = 3000, replace(SDE, steps=8, guidance=1.0)
    mean, variance = as_sampled(few)
    drawn = sample(CLOUD, CLOUD.encode_prompts(["a"] * n), range(n), few)
    assert ((drawn.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    assert ((drawn.var(0) / variance).log().abs() < 4 * (2 / n) ** 0.5).all()
    errors = []
    for steps in (10, 20, 40):
        mean, variance = as_sampled(replace(few, steps=steps))
        errors.append(float((variance / CLOUD.variances[0]).log().abs().max()))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]
    assert errors[2] < 0.05


def test_particles_are_steered_to_the_tilt_of_what_it_draws() -> None:
    """Under the reward z·g the cloud moves by g times its variance."""
    few, gradient = replace(SDE, steps=8, guidance=1.0), torch.tensor([0.5, -0.7]).double()
    mean, variance = as_sampled(few)
    reward = LatentReward("linear", lambda z, _: z @ gradient, True)
    found = steer(
        CLOUD, ["a"] * 60, range(60 * 32), few, LatentPotential(reward, CLOUD), SearchConfig(alpha=1.0),
        batch_size=4000,
    )  # fmt: skip
    means = found.mean(found.latents)
    error = means.std(0) / len(means) ** 0.5
    assert ((means.mean(0) - (mean + variance * gradient)).abs() < 4 * error).all()
    assert (error < 0.05).all()
