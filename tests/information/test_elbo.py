"""``elbo`` and what comes with it, against exact log-likelihoods of Gaussian mixtures."""

from __future__ import annotations

import pytest
import torch
from bounds import log_prob_bound

from mitune.analytic import AnalyticDenoiser
from mitune.information.denoising import denoising_errors
from mitune.information.elbo import elbo, mi_and_elbo
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from tests.analytic import exact_kl, scene, three_clouds, within_three_errors
from tests.information.mixtures import LABELS, correlation, mixture, pictures, slope

SCHEDULE, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()


@pytest.mark.parametrize("noise", ["independent", "antithetic", "coupled"])
def test_elbo_averages_to_the_divergence(noise):
    denoiser = three_clouds()
    n = 200
    z0 = denoiser.sample(["a"] * n, torch.Generator().manual_seed(0))
    t, weights = time_grid(SCHEDULE, 50, 0, 1000)
    score = elbo(denoiser, z0, denoiser.encode_prompts(["a"] * n), Noising(t, weights, range(n), 1000, noise))
    assert score.dtype == torch.float32
    assert within_three_errors(score.double(), exact_kl(denoiser, "a"))


@pytest.mark.parametrize("schedule", [SCHEDULE, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize(("dimensions", "strength"), [(2, 0.2), (16, 0.9), (256, 0.7)])
def test_elbo_and_mi_average_to_the_divergence_in_many_dimensions(dimensions, strength, schedule):
    # The exact i of the very pictures takes their own scatter out of elbo; mi of a picture is not its i, so there the
    # divergence itself, known to a fraction of the error allowed, is held against.
    denoiser = mixture(dimensions, strength, schedule)
    n = 400 if dimensions < 100 else 150
    z0, labels = pictures(denoiser, n, seed=7)
    exact = denoiser.information(z0, labels)
    many, their = pictures(denoiser, 40_000 if dimensions < 100 else 10_000, seed=1)
    divergence = float(denoiser.information(many, their).mean())
    t, weights = time_grid(schedule, 50, 5, 1000, strategy="stratified", seed=7)
    mi, bound = mi_and_elbo(
        denoiser, z0, denoiser.encode_prompts(labels), Noising(t, weights, range(n), 4000, "antithetic")
    )
    assert within_three_errors(bound.double() - exact, 0.0)
    assert within_three_errors(mi.double(), divergence)
    assert (mi >= 0).all()


@pytest.mark.parametrize("dimensions", [2, 32])
def test_elbo_of_a_thousand_times_is_the_information_of_each_picture(dimensions):
    denoiser = mixture(dimensions)
    z0, labels = pictures(denoiser, 50, seed=3)
    exact = denoiser.information(z0, labels)
    t, weights = time_grid(SCHEDULE, 1000, 0, 1000)
    for noise in ("antithetic", "coupled"):
        score = elbo(
            denoiser, z0, denoiser.encode_prompts(labels), Noising(t, weights, range(50), 20_000, noise)
        )
        assert correlation(score, exact) >= 0.99
        assert slope(score, exact) == pytest.approx(1, abs=0.05)


def test_a_coupled_path_tells_single_pictures_apart_far_better():
    denoiser, z0, labels = scene(200)
    c = denoiser.encode_prompts(labels)
    exact = denoiser.information(z0, labels)
    t, weights = time_grid(SCHEDULE, 20, 20, 1000)
    rmse = {
        noise: float(
            (elbo(denoiser, z0, c, Noising(t, weights, range(200), 2000, noise)) - exact).square().mean()
            ** 0.5
        )
        for noise in ("independent", "coupled")
    }
    assert rmse["coupled"] < 0.3
    assert rmse["coupled"] < 0.5 * rmse["independent"]


def test_a_prompt_that_says_nothing_has_no_information():
    denoiser = mixture(8, strength=0.0)
    z0, labels = pictures(denoiser, 50, seed=0)
    t, weights = time_grid(SCHEDULE, 20, 20, 1000)
    mi, bound = mi_and_elbo(denoiser, z0, denoiser.encode_prompts(labels), Noising(t, weights, range(50)))
    assert float(mi.abs().max()) <= 1e-9
    assert float(bound.abs().max()) <= 1e-5


@pytest.mark.parametrize("form", ["square", "orthogonal"])
@pytest.mark.parametrize("noise", ["independent", "antithetic", "coupled"])
def test_one_pass_gives_both(noise, form):
    denoiser, z0, labels = scene(6)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 7, 20, 1000)
    alone = elbo(denoiser, z0, c, Noising(t, weights, range(6), 8, noise))
    apart = mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(6), 8, noise), form=form)[0]
    denoiser.forwards = 0
    mi, bound = mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(6), 8, noise), form=form)
    assert denoiser.forwards == 6 * 7 * 2  # those of one
    assert torch.equal(bound, alone)
    assert torch.equal(mi, apart)


@pytest.mark.parametrize("schedule", [SCHEDULE, FLOW], ids=["vp", "flow"])
def test_the_bound_with_its_constant_is_the_log_likelihood(schedule):
    denoiser = mixture(4, schedule=schedule)
    z0, labels = pictures(denoiser, 200, seed=2)
    low = 0 if schedule is SCHEDULE else 2
    t, weights = time_grid(schedule, 150, low, 1000)
    c = denoiser.encode_prompts(labels)
    bound = log_prob_bound(
        denoiser, z0, c, Noising(t, weights, range(200), 4000, "antithetic"), ends=(low, 1000)
    )
    exact = denoiser.log_prob(z0, labels)
    # What is left out beyond the ends is of order d / SNR: thousandths of a nat.
    difference = bound.double() - exact
    assert abs(float(difference.mean())) <= 3 * float(difference.std()) / 200**0.5 + 0.02
    # Against the null prompt on the same noise it is elbo.
    null = log_prob_bound(
        denoiser,
        z0,
        denoiser.null(200),
        Noising(t, weights, range(200), 4000, "antithetic"),
        ends=(low, 1000),
    )
    gap = elbo(denoiser, z0, c, Noising(t, weights, range(200), 4000, "antithetic"))
    torch.testing.assert_close(bound - null, gap, rtol=0, atol=1e-3)
    without = log_prob_bound(denoiser, z0, c, Noising(t, weights, range(200), 4000, "antithetic"))
    constant = (bound - without).double()
    torch.testing.assert_close(constant, constant[:1].expand(200), rtol=0, atol=1e-3)


def test_the_label_that_fits_is_found_and_its_posterior_is_right():
    denoiser: AnalyticDenoiser = mixture(16, strength=0.9)
    n = 120
    z0, labels = pictures(denoiser, n, seed=4)
    conditions = [denoiser.encode_prompts([label] * n) for label in LABELS]
    t, weights = time_grid(SCHEDULE, 100, 10, 1000)
    noising = Noising(t, weights, range(n), 4000, "coupled")
    score = denoising_errors(denoiser, z0, conditions, noising).error.neg().log_softmax(1).float()
    assert score.shape == (n, 4)
    torch.testing.assert_close(score.exp().sum(1), torch.ones(n))
    exact = torch.stack([denoiser.log_prob(z0, [label] * n) for label in LABELS], 1).log_softmax(1)
    truth = torch.tensor([LABELS.index(label) for label in labels])
    right = (score.argmax(1) == truth).double().mean()
    possible = (exact.argmax(1) == truth).double().mean()
    assert right >= possible - 3 * (possible * (1 - possible) / n) ** 0.5
    assert float((score.double().exp() - exact.exp()).abs().mean()) < 0.05
