"""Schedules against diffusers' tables and grids, and against their own identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.noise import MIN_ALPHA_BAR, PREDICTION_TYPES, NoiseSchedule, expand

TABLES = ("scaled_linear", "linear", "squaredcos_cap_v2")
SCHEDULES = {
    **{name: NoiseSchedule.ddpm(beta_schedule=name) for name in TABLES},
    "zero_snr": NoiseSchedule.ddpm(rescale_zero_terminal_snr=True),
    "flow": NoiseSchedule.rectified_flow(),
}
VP = [name for name in SCHEDULES if name != "flow"]
times = st.floats(0, 999, allow_nan=False)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_diffusers(name):
    from diffusers import DDPMScheduler

    ours = NoiseSchedule.ddpm(500, 0.001, 0.02, name).alpha_bar
    theirs = DDPMScheduler(500, 0.001, 0.02, name).alphas_cumprod.double()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_zero_terminal_snr_is_that_of_diffusers_but_for_its_last_entry():
    from diffusers import DDIMScheduler

    ours = SCHEDULES["zero_snr"].alpha_bar
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    ).alphas_cumprod.double()
    torch.testing.assert_close(ours[:-1], theirs[:-1], rtol=1e-3, atol=1e-7)
    assert theirs[-1] == 0
    assert ours[-1] == MIN_ALPHA_BAR


def test_trained_betas():
    betas = [0.1, 0.2, 0.3]
    schedule = NoiseSchedule.ddpm(trained_betas=betas)
    assert schedule.num_train_timesteps == 3
    torch.testing.assert_close(schedule.alpha_bar, torch.tensor([0.9, 0.72, 0.504], dtype=torch.float64))


@pytest.mark.parametrize("name", TABLES)
def test_from_config_reads_a_diffusers_configuration(name):
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    config = DDIMScheduler(800, 0.0005, 0.01, name).config
    schedule = NoiseSchedule.from_config(config)
    assert torch.equal(schedule.alpha_bar, NoiseSchedule.ddpm(800, 0.0005, 0.01, name).alpha_bar)
    flow = NoiseSchedule.from_config(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert (flow.kind, flow.shift) == ("flow", 3.0)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'scaled_linear'"):
        NoiseSchedule.ddpm(beta_schedule="scaled_liner")
    with pytest.raises(UserError, match="did you mean 'trailing'"):
        SCHEDULES["linear"].timesteps(10, "trailin")
    with pytest.raises(UserError, match="did you mean 'v_prediction'"):
        SCHEDULES["linear"].target("v_predict", torch.zeros(1, 2), torch.zeros(1, 2), 0)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_grids_are_those_of_diffusers(scheduler, spacing):
    import diffusers

    schedule = NoiseSchedule.ddpm()
    for steps in (1, 2, 3, 7, 10, 20, 28, 30, 50, 64, 100, 250, 333, 999, 1000):
        for offset in (0, 1) if spacing == "leading" and steps < 999 else (0,):
            theirs = getattr(diffusers, scheduler)(timestep_spacing=spacing, steps_offset=offset)
            theirs.set_timesteps(steps)
            assert torch.equal(schedule.timesteps(steps, spacing, offset), theirs.timesteps), (steps, offset)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grid_is_that_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(28)
    ours = NoiseSchedule.rectified_flow(shift=shift).timesteps(28)
    torch.testing.assert_close(ours.float(), theirs.timesteps, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("even", [False, True])
def test_a_shift_that_follows_the_size_is_that_of_diffusers(kind, even):
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind, shift=3.0)
    for tokens in (64, 1024, 4096):
        mu = calculate_shift(tokens)
        sigmas = np.linspace(1.0, 1 / 20, 20) if even else None
        theirs.set_timesteps(20, sigmas=sigmas, mu=mu)
        ours = NoiseSchedule.from_config(theirs.config, tokens, even)
        torch.testing.assert_close(ours.timesteps(20).float(), theirs.timesteps, rtol=1e-5, atol=1e-3)


def test_a_schedule_that_is_neither_is_refused():
    from diffusers import EDMEulerScheduler

    with pytest.raises(UserError, match="EDM kind"):
        NoiseSchedule.from_config(EDMEulerScheduler().config)


def test_grids_beyond_the_table_are_refused():
    with pytest.raises(UserError, match="steps=1001"):
        SCHEDULES["linear"].timesteps(1001)
    with pytest.raises(UserError, match="steps_offset=1"):
        SCHEDULES["linear"].timesteps(1000, "leading", 1)


@given(name=st.sampled_from(VP), t=times)
@settings(max_examples=60, deadline=None)
def test_variance_is_preserved(name, t):
    schedule = SCHEDULES[name]
    assert float(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2) == pytest.approx(1, abs=1e-12)


@given(name=st.sampled_from(list(SCHEDULES)), t=times, gap=st.floats(0.01, 500))
@settings(max_examples=100, deadline=None)
def test_log_snr_falls_and_weights_are_positive(name, t, gap):
    schedule = SCHEDULES[name]
    later = min(t + gap, 999.0)
    if later > t:
        assert schedule.log_snr(later) < schedule.log_snr(t)
    assert schedule.dlog_snr(t) < 0
    assert schedule.kappa(t) > 0
    ratio = 2 * (schedule.alpha(t).log() - schedule.sigma(t).clamp(min=1e-6).log())
    assert float(schedule.log_snr(t)) == pytest.approx(float(ratio), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_slope_integrates_to_the_curve(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(100, 900, 8001, dtype=torch.float64)
    area = torch.trapezoid(schedule.dlog_snr(t), t / schedule.num_train_timesteps)
    assert float(area) == pytest.approx(float(schedule.log_snr(900) - schedule.log_snr(100)), rel=1e-4)


def test_table_values_at_whole_times_and_log_snr_between():
    schedule = SCHEDULES["scaled_linear"]
    index = torch.tensor([0, 17, 500, 999])
    torch.testing.assert_close(schedule.alpha(index) ** 2, schedule.alpha_bar[index], rtol=1e-12, atol=0)
    middle = (schedule.log_snr(17) + schedule.log_snr(18)) / 2
    torch.testing.assert_close(schedule.log_snr(17.5), middle, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.log_snr(torch.tensor([17.5, 18.0]))[0], middle, rtol=1e-12, atol=0)


def test_kappa_is_the_papers_and_close_to_its_continuous_form():
    schedule = SCHEDULES["scaled_linear"]
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = 1 - beta
    paper = beta * 1000 / (2 * alpha * (1 - alpha.cumprod(0)))
    t = torch.arange(1000)
    torch.testing.assert_close(schedule.kappa(t), paper, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.kappa_continuous(t[50:]), paper[50:], rtol=0.02, atol=0)


def test_kappa_of_flow_gives_the_velocity_weight():
    # κ ‖ε̂_c − ε̂_∅‖² = (1 − σ)/σ ‖v̂_c − v̂_∅‖² because ε̂ = z + (1 − σ) v̂ (arXiv 2503.14358).
    schedule = SCHEDULES["flow"]
    t = torch.tensor([100.0, 500.0, 900.0], dtype=torch.float64)
    sigma = t / 1000
    torch.testing.assert_close(schedule.kappa(t) * (1 - sigma) ** 2, (1 - sigma) / sigma, rtol=1e-9, atol=0)


# Velocity belongs to flow, v to variance-preserving schedules; ε and ẑ_0 to both.
PAIRS = [(name, kind) for name in VP for kind in PREDICTION_TYPES if kind != "flow"]
PAIRS += [("flow", kind) for kind in PREDICTION_TYPES if kind != "v_prediction"]


@pytest.mark.parametrize(("name", "prediction_type"), PAIRS)
@pytest.mark.parametrize("t", [3, 500, torch.tensor([1, 500, 998])])
def test_targets_turn_back_into_the_noise(name, prediction_type, t):
    schedule = SCHEDULES[name]
    z0, noise = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = schedule.add_noise(z0, noise, t)
    target = schedule.target(prediction_type, z0, noise, t)
    torch.testing.assert_close(
        schedule.to_epsilon(target, z, t, prediction_type), noise, rtol=1e-8, atol=1e-8
    )


def test_v_prediction_carries_the_picture_at_snr_zero():
    schedule = SCHEDULES["zero_snr"]
    z0, noise = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    z = schedule.add_noise(z0, noise, 999)
    v = schedule.target("v_prediction", z0, noise, 999)
    eps = schedule.to_epsilon(v, z, 999, "v_prediction")
    torch.testing.assert_close(eps, z, rtol=0, atol=2e-3)  # at SNR 0 the noise is all there is
    rebuilt = (z - float(schedule.sigma(999)) * eps) / float(schedule.alpha(999))
    torch.testing.assert_close(rebuilt, z0, rtol=0, atol=5e-3)


def test_low_precision_output_is_lifted_to_the_latent():
    schedule = SCHEDULES["linear"]
    z = torch.randn(2, 4)
    output = torch.randn(2, 4, dtype=torch.bfloat16)
    for prediction_type in PREDICTION_TYPES:
        assert schedule.to_epsilon(output, z, 10, prediction_type).dtype == torch.float32


def test_final_alpha_bar():
    schedule = SCHEDULES["linear"]
    assert schedule.final_alpha_bar(True) == 1.0
    assert schedule.final_alpha_bar(False) == float(schedule.alpha_bar[0])


def test_expand():
    like = torch.zeros(3, 4, 2, 2, dtype=torch.float32)
    assert expand(torch.arange(3), like).shape == (3, 1, 1, 1)
    assert expand(torch.arange(3), like).dtype == torch.float32
    assert expand(torch.tensor(2.0), like).shape == ()
