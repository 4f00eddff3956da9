"""``mi`` against the paper's algorithm written out, and its continuous form against the exact divergence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.information.elbo import mi_and_elbo
from mitune.information.mi import PathMI, measure_profile
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise
from tests.analytic import exact_kl, three_clouds, within_three_errors
from tests.information.mixtures import mixture, pictures


def algorithm_2(denoiser, label: str, seed: int, steps: int, guidance: float, t_min: int) -> float:
    """Wang et al., Algorithm 2 with eq. 2, plainly: DDPM ancestral sampling, MI added up on the way."""
    T = 1000
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, 0)
    noise = candidate_noise(seed, denoiser.latent_shape, steps).double()
    z, terms = noise[0:1], []
    stride = T // steps
    for i, t in enumerate(reversed(range(0, T, stride))):
        eps_c = denoiser.epsilon(z, t, denoiser.encode_prompts([label]))
        eps_0 = denoiser.epsilon(z, t, denoiser.null(1))
        if t > t_min:
            kappa = beta[t] * T / (2 * (1 - beta[t]) * (1 - alpha_bar[t]))
            terms.append(kappa * ((eps_c - eps_0) ** 2).sum())
        eps = eps_0 + guidance * (eps_c - eps_0)
        before = alpha_bar[t - stride] if t >= stride else torch.tensor(1.0, dtype=torch.float64)
        step_alpha = alpha_bar[t] / before
        z = (z - (1 - step_alpha) / (1 - alpha_bar[t]).sqrt() * eps) / step_alpha.sqrt()
        variance = (1 - before) / (1 - alpha_bar[t]) * (1 - step_alpha)
        z = z + variance.sqrt() * noise[i + 1]
    return float(sum(terms) / len(terms))


@pytest.mark.parametrize(("guidance", "t_min"), [(7.5, 50), (1.0, 0), (2.0, 500)])
def test_mi_is_the_papers_algorithm(guidance, t_min):
    denoiser = three_clouds()
    labels, seeds = ["a", "b", "b"], [11, 12, 13]
    observer = PathMI(denoiser.schedule, t_min=t_min)
    sample(
        denoiser,
        denoiser.encode_prompts(labels),
        seeds,
        SamplerConfig("ddpm", 50, guidance=guidance, spacing="leading"),
        [observer],
    )
    for ours, label, seed in zip(observer.result().tolist(), labels, seeds, strict=True):
        assert ours == pytest.approx(algorithm_2(denoiser, label, seed, 50, guidance, t_min), rel=1e-6)


def test_continuous_mi_averages_to_the_divergence():
    denoiser = three_clouds()
    n = 300
    observer = PathMI(denoiser.schedule, "continuous", t_min=0)
    sample(
        denoiser,
        denoiser.encode_prompts(["a"] * n),
        range(n),
        SamplerConfig("ddpm", 250, guidance=1.0, spacing="leading"),
        [observer],
    )
    assert observer.name == "mi_continuous"
    assert within_three_errors(observer.result(), exact_kl(denoiser, "a"))


def test_continuous_weights_cover_the_range_and_near_the_papers_on_a_dense_grid():
    class Constant:
        squared_gap = torch.ones(1, dtype=torch.float64)
        guided = True

    schedule = NoiseSchedule.ddpm()
    for steps in (1, 10, 1000):
        grid = schedule.timesteps(steps, "trailing").tolist()
        totals = {}
        for weighting in ("continuous", "paper"):
            observer = PathMI(schedule, weighting, t_min=50)
            observer.start(1, torch.device("cpu"))
            for t, t_prev in zip(grid, [*grid[1:], -1], strict=True):
                step = Constant()
                step.t, step.t_prev = t, t_prev
                observer.observe(step)
            totals[weighting] = float(observer.result())
        whole = 0.5 * float(schedule.log_snr(50) - schedule.log_snr(999))
        assert totals["continuous"] == pytest.approx(whole, rel=1e-12)
    assert totals["paper"] * (1 - 51 / 1000) == pytest.approx(whole, rel=0.02)


@given(
    seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True),
    guidance=st.floats(0, 10),
    weighting=st.sampled_from(["paper", "continuous"]),
)
@settings(max_examples=15, deadline=None)
def test_mi_is_never_negative_and_does_not_depend_on_the_order(seeds, guidance, weighting):
    denoiser = three_clouds()
    observer = PathMI(denoiser.schedule, weighting)
    sampler = SamplerConfig("ddpm", 6, guidance=guidance, spacing="leading")
    c = denoiser.encode_prompts(["a"] * len(seeds))
    sample(denoiser, c, seeds, sampler, [observer])
    scores = observer.result()
    assert (scores >= 0).all()
    sample(denoiser, c, seeds[::-1], sampler, [observer])
    assert torch.equal(observer.result(), scores.flip(0))


def test_mi_of_the_null_prompt_is_zero():
    denoiser = three_clouds()
    observer = PathMI(denoiser.schedule)
    sample(
        denoiser,
        denoiser.null(3),
        range(3),
        SamplerConfig("ddim", 5, eta=0.0, guidance=7.5, spacing="leading"),
        [observer],
    )
    assert observer.result().tolist() == [0, 0, 0]


@pytest.mark.parametrize("weighting", ["uniform", "continuous"])
def test_the_visited_times_share_out_the_range(weighting):
    class Constant:
        squared_gap = torch.ones(1, dtype=torch.float64)
        guided = True

    schedule = NoiseSchedule.ddpm()
    observer = PathMI(schedule, weighting, t_min=100)
    assert observer.name == f"mi_{weighting}"
    observer.start(1, torch.device("cpu"))
    grid = schedule.timesteps(40, "trailing").tolist()
    for t, t_prev in zip(grid, [*grid[1:], -1], strict=True):
        step = Constant()
        step.t, step.t_prev = t, t_prev
        observer.observe(step)
    whole = 0.5 * float(schedule.log_snr(100) - schedule.log_snr(1000))
    assert float(observer.result()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()], ids=["vp", "flow"]
)
def test_mi_of_pictures_averages_to_the_divergence_by_every_strategy(schedule):
    denoiser = three_clouds(schedule)
    n = 200
    z0 = denoiser.sample(["a"] * n, torch.Generator().manual_seed(0))
    c = denoiser.encode_prompts(["a"] * n)
    truth = exact_kl(denoiser, "a")
    profile = measure_profile(denoiser, z0[:30], c[:30], range(30), 20, 5, 1000, 2000)
    for strategy, seed in (("even", None), ("stratified", 1), ("importance", None), ("importance", 2)):
        t, weights = time_grid(schedule, 50, 5, 1000, "continuous", strategy, profile, seed)
        score = mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(n), 5000))[0]
        assert (score >= 0).all()
        assert within_three_errors(score.double(), truth)


def test_the_profile_is_where_the_information_is():
    schedule = NoiseSchedule.rectified_flow()
    denoiser = mixture(8, schedule=schedule)
    z0, labels = pictures(denoiser, 60, seed=0)
    c = denoiser.encode_prompts(labels)
    denoiser.forwards = 0
    profile = measure_profile(denoiser, z0, c, range(60), 25, 10, 1000, 2000)
    assert denoiser.forwards == 60 * 25 * 2
    t, weights = time_grid(schedule, 25, 10, 1000)
    assert profile.t == tuple(t.tolist())
    # Its area is the information itself, as the same noise measures it with the same weights but for their rounding.
    area = sum(profile.value) * (1000 - 10) / 25 / 1000
    mean = float(mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(60), 2000))[0].mean())
    assert area == pytest.approx(mean, rel=0.1)


def test_the_orthogonal_form_agrees_on_average_over_pictures_and_prompts():
    schedule = NoiseSchedule.rectified_flow()
    denoiser = mixture(2, 0.9, schedule)
    n = 800
    z0, labels = pictures(denoiser, n, seed=1)
    t, weights = time_grid(schedule, 30, 20, 1000)
    c = denoiser.encode_prompts(labels)
    square, product = (
        mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(n), 8000), form=form)[0].double()
        for form in ("square", "orthogonal")
    )
    assert within_three_errors(product - square, 0.0)
    assert (product < 0).any()
    assert product.std() > 1.2 * square.std()


def test_bad_settings_are_refused():
    denoiser = three_clouds()
    with pytest.raises(UserError, match="did you mean 'continuous'"):
        PathMI(denoiser.schedule, "continous")
    observer = PathMI(denoiser.schedule, t_min=990)
    sample(
        denoiser,
        denoiser.encode_prompts(["a"]),
        [0],
        SamplerConfig("ddim", 5, eta=0.0, guidance=7.5, spacing="leading"),
        [observer],
    )
    with pytest.raises(UserError, match="t_min=990"):
        observer.result()
    with pytest.raises(UserError, match="needs a measured profile"):
        PathMI(denoiser.schedule, "profile")
