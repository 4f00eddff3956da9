"""Standard errors against the scatter of estimates drawn again and again."""

from __future__ import annotations

import pytest
import torch
from mixtures import mixture, pictures

from mitune.information.elbo import elbo, mi_and_elbo
from mitune.information.estimate import Estimate, standard_error
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule


def test_by_hand():
    terms = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    neighbours = (1 + 4 + 16) / 2 * 4 / 3
    assert float(standard_error(terms)) == pytest.approx(neighbours**0.5)
    mean = 15 / 4
    around = sum((x - mean) ** 2 for x in (1, 2, 4, 8)) * 4 / 3
    assert float(standard_error(terms, random_times=True)) == pytest.approx(around**0.5)
    assert float(standard_error(terms, "antithetic")) == pytest.approx((12 - 3) * 1.0)
    assert float(standard_error(torch.ones(1, 3), "antithetic")) == pytest.approx(
        1.0
    )  # 2 and a last one of 1


def test_one_draw_has_no_error():
    for terms, noise in (
        (torch.ones(2, 1), "independent"),
        (torch.ones(2, 2), "antithetic"),
        (torch.ones(2, 9), "coupled"),
    ):
        assert torch.isnan(standard_error(terms, noise)).all()
    estimate = Estimate.of_terms(torch.ones(3, 5, dtype=torch.float64))
    assert estimate.value.tolist() == [5, 5, 5]
    assert estimate.standard_error.tolist() == [0, 0, 0]
    assert estimate.value.dtype == estimate.standard_error.dtype == torch.float32


@pytest.mark.parametrize("noise", ["independent", "antithetic"])
@pytest.mark.parametrize("strategy", ["even", "random"])
def test_the_error_told_is_the_scatter_seen(noise, strategy):
    schedule = NoiseSchedule.ddpm()
    denoiser = mixture(8)
    z0, labels = pictures(denoiser, 8, seed=5)
    c = denoiser.encode_prompts(labels)
    values, told = [], []
    for draw in range(60):
        t, weights = time_grid(schedule, 40, 100, 1000, strategy=strategy, seed=draw)
        seeds = [1000 * draw + row for row in range(8)]
        both = mi_and_elbo(
            denoiser, z0, c, Noising(t, weights, seeds, 2000, noise), random_times=strategy == "random"
        )
        values.append(torch.stack([estimate.value for estimate in both]))
        told.append(torch.stack([estimate.standard_error for estimate in both]))
    seen = torch.stack(values).double().var(0).mean(1).sqrt()
    expected = torch.stack(told).double().square().mean((0, 2)).sqrt()
    # 60 draws of 8 pictures know a deviation to about 4 %. What is told may be too high, never much too low.
    for ratio in (expected / seen).tolist():
        assert 0.85 <= ratio <= 1.6


def test_the_estimate_is_the_number_alone():
    denoiser = mixture(4)
    z0, labels = pictures(denoiser, 3, seed=0)
    t, weights = time_grid(denoiser.schedule, 6, 20, 1000)
    c = denoiser.encode_prompts(labels)
    _, bound = mi_and_elbo(denoiser, z0, c, Noising(t, weights, range(3)))
    assert torch.equal(bound.value, elbo(denoiser, z0, c, Noising(t, weights, range(3))))
