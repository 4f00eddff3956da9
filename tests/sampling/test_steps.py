"""One step of ours against one step of diffusers' schedulers, float64."""

from __future__ import annotations

import pytest
import torch

from mitune.errors import UserError
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from tests.analytic import coefficients

SCHEDULE = NoiseSchedule.ddpm()
RAW = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
GRIDS = [
    {"spacing": "leading", "steps_offset": 0, "steps": 50},
    {"spacing": "leading", "steps_offset": 1, "steps": 30},
    {"spacing": "trailing", "steps_offset": 0, "steps": 20},
]


def tensors(*shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(3)]


def theirs(scheduler, grid: dict, **more):
    from diffusers import DDIMScheduler

    made = scheduler(
        **RAW, timestep_spacing=grid["spacing"], steps_offset=grid["steps_offset"], clip_sample=False, **more
    )
    made.alphas_cumprod = SCHEDULE.alpha_bar  # the same table in float64: only the arithmetic is compared
    if scheduler is DDIMScheduler:
        made.final_alpha_cumprod = (
            torch.tensor(1.0).double() if more["set_alpha_to_one"] else SCHEDULE.alpha_bar[0]
        )
    made.set_timesteps(grid["steps"])
    return made


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_ddim_step_is_that_of_diffusers(grid, eta, set_alpha_to_one):
    from diffusers import DDIMScheduler

    scheduler = theirs(DDIMScheduler, grid, set_alpha_to_one=set_alpha_to_one)
    steps = coefficients(SCHEDULE, SamplerConfig("ddim", eta=eta, set_alpha_to_one=set_alpha_to_one, **grid))
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    z, eps, noise = tensors(2, 4, 3, 3)
    for step in steps:
        ours = step.a * z + step.b * eps + step.std * noise
        expected = scheduler.step(eps, step.t, z, eta=eta, variance_noise=noise if eta else None).prev_sample
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("grid", [*GRIDS, {"spacing": "linspace", "steps_offset": 0, "steps": 17}])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_step_is_that_of_diffusers(grid, variance):
    from diffusers import DDPMScheduler

    scheduler = theirs(DDPMScheduler, grid, variance_type=f"fixed_{variance}")
    steps = coefficients(SCHEDULE, SamplerConfig("ddpm", variance=variance, **grid))
    z, eps, _ = tensors(2, 4, 3, 3)
    for step in steps[:-1]:
        noise = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step.t))
        generator = torch.Generator().manual_seed(step.t)
        expected = scheduler.step(eps, step.t, z, generator=generator).prev_sample
        torch.testing.assert_close(step.a * z + step.b * eps + step.std * noise, expected, rtol=0, atol=1e-10)
    # Onto clean data no noise is added (Ho et al., Algorithm 2). diffusers adds 1e-10 of it ("small") or a whole
    # forward step ("large") when the last time is not 0: there only the mean is compared.
    last = steps[-1]
    assert last.std == 0
    mean = scheduler.step(eps, last.t, z, generator=torch.Generator().manual_seed(0)).prev_sample
    if last.t > 0:
        noise = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        mean = mean - scheduler._get_variance(last.t) ** 0.5 * noise
    torch.testing.assert_close(last.a * z + last.b * eps, mean, rtol=0, atol=1e-10)


def test_v_prediction_at_zero_terminal_snr_is_that_of_diffusers():
    from diffusers import DDIMScheduler

    schedule = NoiseSchedule.ddpm(rescale_zero_terminal_snr=True)
    scheduler = DDIMScheduler(
        **RAW,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(20)
    step = coefficients(schedule, SamplerConfig("ddim", 20, spacing="trailing", eta=0.0))[0]
    assert step.t == 999
    z, v, _ = (value.float() for value in tensors(2, 4, 3, 3))
    ours = step.a * z + step.b * schedule.to_epsilon(v, z, step.t, "v_prediction")
    torch.testing.assert_close(ours, scheduler.step(v, 999, z).prev_sample, rtol=0, atol=2e-3)


def test_ddpm_is_ddim_with_all_its_noise():
    ancestral = coefficients(SCHEDULE, SamplerConfig("ddpm", 25, spacing="leading"))
    for one, other in zip(
        ancestral,
        coefficients(SCHEDULE, SamplerConfig("ddim", 25, eta=1.0, set_alpha_to_one=True, spacing="leading")),
        strict=True,
    ):
        assert (one.a, one.b, one.std) == pytest.approx((other.a, other.b, other.std), rel=1e-12, abs=1e-12)


def test_ddpm_mean_is_the_posterior_mean():
    # Ho et al. 2020, eq. 7, one whole step of the chain.
    step = coefficients(SCHEDULE, SamplerConfig("ddpm", 1000, spacing="leading"))[400]
    bar = SCHEDULE.alpha_bar
    t = int(step.t)
    beta = 1 - bar[t] / bar[t - 1]
    z, eps, _ = tensors(2, 5)
    z0 = (z - (1 - bar[t]).sqrt() * eps) / bar[t].sqrt()
    mean = (bar[t - 1].sqrt() * beta * z0 + (1 - beta).sqrt() * (1 - bar[t - 1]) * z) / (1 - bar[t])
    torch.testing.assert_close(step.a * z + step.b * eps, mean)
    assert step.std**2 == pytest.approx(float(beta * (1 - bar[t - 1]) / (1 - bar[t])), rel=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_step_is_the_euler_step_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = NoiseSchedule.rectified_flow(shift=shift)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    z, v, _ = (value.float() for value in tensors(2, 4, 3, 3))
    assert coefficients(schedule, SamplerConfig("ddim", 10, eta=0.0, spacing="leading")) == coefficients(
        schedule, SamplerConfig("euler", 10, guidance=7.5)
    )
    for step, t in zip(coefficients(schedule, SamplerConfig("euler", 10)), scheduler.timesteps, strict=True):
        p, q = schedule.epsilon_weights(step.t, "flow")  # as the loop steps: in the network's output
        ours = (step.a + step.b * p) * z + step.b * q * v
        torch.testing.assert_close(ours, scheduler.step(v, t, z).prev_sample, rtol=0, atol=1e-6)
        same = step.a * z.double() + step.b * schedule.to_epsilon(v.double(), z.double(), step.t, "flow")
        torch.testing.assert_close(ours, same.float(), rtol=0, atol=1e-5)


def test_lcm_step_is_that_of_diffusers():
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(**RAW, clip_sample=False)
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar
    steps = coefficients(SCHEDULE, SamplerConfig("lcm", 5, spacing="trailing"))
    scheduler.set_timesteps(timesteps=[int(step.t) for step in steps])
    z, eps, _ = tensors(2, 4, 3, 3)
    for step in steps:
        generator = torch.Generator().manual_seed(int(step.t))
        noise = torch.randn(
            2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(int(step.t))
        )
        expected = scheduler.step(eps, step.t, z, generator=generator)
        ours = step.a * z + step.b * eps + step.std * noise
        # Their boundary term is (0.5/(10 t))² of z: 6e-8 at the lowest of these times, t = 199.
        torch.testing.assert_close(ours, expected.prev_sample, rtol=0, atol=1e-5)
        assert step.std == pytest.approx(0 if step is steps[-1] else float(SCHEDULE.sigma(step.t_prev)))


@pytest.mark.parametrize("schedule", [SCHEDULE, NoiseSchedule.rectified_flow()])
def test_wide_is_the_deviation_of_an_lcm_step_on_unit_data(schedule):
    step = coefficients(schedule, SamplerConfig("lcm", 4, spacing="trailing"))[1]
    alpha, sigma = float(schedule.alpha(step.t)), float(schedule.sigma(step.t))
    # z_s = α_s ẑ_0 + σ_s n without the network's averaging: z_0 given z_t has variance σ²/(α² + σ²).
    generator = torch.Generator().manual_seed(1)
    z0, eps, noise = (torch.randn(200_000, dtype=torch.float64, generator=generator) for _ in range(3))
    z = alpha * z0 + sigma * eps
    alpha_prev, sigma_prev = float(schedule.alpha(step.t_prev)), float(schedule.sigma(step.t_prev))
    spread = alpha_prev * (z0 - alpha * z / (alpha**2 + sigma**2)) + sigma_prev * noise
    assert float(spread.std()) == pytest.approx(step.wide, rel=0.01)


def test_euler_is_for_flows():
    with pytest.raises(UserError, match=r"sampler\.name=euler is for rectified flow"):
        coefficients(SCHEDULE, SamplerConfig("euler", steps=50))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"name": "dpmm"}, "did you mean 'ddpm'"),
        ({"variance": "tiny"}, "one of small, large"),
        ({"name": "ddim", "eta": 1.5}, "eta=1.5"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_wrong_values_are_refused(bad, message):
    with pytest.raises(UserError, match=message):
        SamplerConfig(**bad).check("sampler.")
