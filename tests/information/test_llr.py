"""``llr`` against its definition written out and against the exact information of each sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mitune.errors import UserError
from mitune.information.catalogue import LLRImageConfig
from mitune.information.elbo import elbo
from mitune.information.llr import PathLLR, llr_image
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Step, sample
from mitune.sampling.seeds import candidate_noise, candidate_seed
from tests.analytic import exact_kl, three_clouds, within_three_errors
from tests.information.mixtures import correlation, mixture, pictures, rmse, slope


class PlainLLR:
    """Σ (‖z' − μ_∅‖² − ‖z' − μ_c‖²) / 2 std², word for word."""

    name = "plain"

    def start(self, n, device):
        self.total = torch.zeros(n, dtype=torch.float64)

    def observe(self, step: Step):
        if step.std > 0:
            mean_null = step.a * step.z + step.b * step.eps_null
            mean_cond = step.a * step.z + step.b * step.eps_cond
            far = (step.z_prev - mean_null).pow(2).sum(1) - (step.z_prev - mean_cond).pow(2).sum(1)
            self.total += far / (2 * step.std**2)

    def select(self, rows):
        self.total = self.total[rows]

    def result(self):
        return self.total


@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("sampler", [{"name": "ddpm", "variance": "large"}, {"name": "ddim", "eta": 0.7}])
def test_llr_is_its_definition(guidance, sampler):
    denoiser = three_clouds()
    observers = [PathLLR("path"), PlainLLR()]
    c = denoiser.encode_prompts(["a", "b", "a", "b"])
    sample(
        denoiser,
        c,
        range(4),
        SamplerConfig(steps=15, guidance=guidance, spacing="leading", **sampler),
        observers,
    )
    torch.testing.assert_close(observers[0].result(), observers[1].result(), rtol=1e-8, atol=1e-8)


VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize(("guidance", "least"), [(1.0, 0.99), (4.0, 0.93)])
@pytest.mark.parametrize("dimensions", [2, 32])
def test_llr_is_the_information_of_each_sample(dimensions, guidance, least, schedule):
    # A condition so strong that guidance drives all samples to the same information leaves nothing to correlate with.
    denoiser = mixture(dimensions, 0.5, schedule)
    n = 60
    _, labels = pictures(denoiser, n, seed=0)
    observer = PathLLR()
    sampler = SamplerConfig("ddpm", 1000, guidance=guidance, spacing="leading")
    z = sample(denoiser, denoiser.encode_prompts(labels), range(n), sampler, [observer])
    exact = denoiser.information(z, labels)
    assert correlation(observer.result(), exact) >= least
    assert slope(observer.result(), exact) == pytest.approx(1, abs=0.05)


def test_llr_averages_to_the_divergence():
    denoiser = three_clouds()
    n = 300
    observer = PathLLR()
    sample(
        denoiser,
        denoiser.encode_prompts(["a"] * n),
        range(n),
        SamplerConfig("ddpm", 100, guidance=1.0, spacing="leading"),
        [observer],
    )
    assert within_three_errors(observer.result(), exact_kl(denoiser, "a"))


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_wide_kernel_is_nearer_the_truth_at_few_steps(guidance, schedule):
    denoiser = mixture(16, 0.5, schedule)
    n = 200
    _, labels = pictures(denoiser, n, seed=0)
    wide, narrow = PathLLR(), PathLLR("path")
    narrow.name = "narrow"
    sampler = SamplerConfig("ddpm", 20, guidance=guidance, spacing="trailing")
    z = sample(denoiser, denoiser.encode_prompts(labels), range(n), sampler, [wide, narrow])
    exact = denoiser.information(z, labels)
    assert rmse(wide.result(), exact) < 0.9 * rmse(narrow.result(), exact)


def test_the_tail_is_the_information_of_the_first_latent():
    denoiser = mixture(2, 0.9)
    n = 100
    _, labels = pictures(denoiser, n, seed=0)
    observers = [PathLLR(), PathLLR(tail=True)]
    observers[1].name = "with tail"
    noise = torch.cat([candidate_noise(seed, (2,), 0) for seed in range(n)]).double()
    sampler = SamplerConfig("ddpm", 500, guidance=4.0, spacing="trailing")
    z = sample(denoiser, denoiser.encode_prompts(labels), range(n), sampler, observers)
    tail = observers[1].result() - observers[0].result()
    exact = denoiser.log_prob_t(noise, 999, labels) - denoiser.log_prob_t(noise, 999, None)
    assert rmse(tail, exact) < 0.2 * float(exact.std())
    information = denoiser.information(z, labels)
    assert rmse(observers[1].result(), information) < 0.8 * rmse(observers[0].result(), information)


def test_a_deterministic_path_has_no_density():
    denoiser = three_clouds()
    observer = PathLLR()
    sample(
        denoiser,
        denoiser.encode_prompts(["a", "b"]),
        [0, 1],
        SamplerConfig("ddim", 10, eta=0.0, guidance=7.5, spacing="leading"),
        [observer],
    )
    assert observer.result().tolist() == [0, 0]


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_one_path_on_a_picture_is_the_coupled_elbo(schedule):
    denoiser = mixture(4, schedule=schedule)
    z0, labels = pictures(denoiser, 5, seed=0)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(schedule, 9, 20, 1000)
    ours = llr_image(denoiser, z0, c, Noising(t, torch.ones_like(t), range(5)))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, elbo(denoiser, z0, c, Noising(t, weights, range(5), noise="coupled")))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_path_of_the_flow_by_hand(guidance):
    # Two steps of the chain z_t = (α_t/α_s) z_s + √v n from t = 300 on, read backwards with the variance
    # v (α_s² + σ_s²)/(α_t² + σ_t²), the (guided) conditional process against null.
    denoiser = mixture(3, schedule=FLOW)
    z0, labels = pictures(denoiser, 2, seed=0)
    c = denoiser.encode_prompts(labels)
    t = torch.tensor([400.0, 600.0], dtype=torch.float64)
    ours = llr_image(
        denoiser, z0, c, Noising(t, torch.ones_like(t), [8, 9]), LLRImageConfig(guidance=guidance)
    )
    for i, seed in enumerate((8, 9)):
        maps = candidate_noise(candidate_seed(seed, "forward", 0), (3,), 2).double()
        z = 0.7 * z0[i : i + 1] + 0.3 * maps[0]
        llr = 0.0
        for s, time, noise in ((0.3, 0.4, maps[1]), (0.4, 0.6, maps[2])):
            ratio = (1 - time) / (1 - s)
            v = time**2 - (ratio * s) ** 2
            z_s, z = z, ratio * z + v**0.5 * noise
            wide = v * ((1 - s) ** 2 + s**2) / ((1 - time) ** 2 + time**2)
            _, eps_null, eps = (
                denoiser.schedule.to_epsilon(output, z, 1000 * time, denoiser.prediction_type)
                for output in denoiser.outputs(z, 1000 * time, denoiser.widened(c[i]), guidance)
            )
            for sign, predicted in ((1, eps), (-1, eps_null)):
                mean = (z - v / time * predicted) / ratio
                llr -= sign * float((z_s - mean).square().sum() / (2 * wide))
        assert float(ours[i]) == pytest.approx(llr, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_llr_of_pictures_is_their_information(schedule):
    denoiser = mixture(16, schedule=schedule)
    z0, labels = pictures(denoiser, 50, seed=1)
    exact = denoiser.information(z0, labels)
    t, _ = time_grid(schedule, 1000, 0, 1000)
    score = llr_image(
        denoiser, z0, denoiser.encode_prompts(labels), Noising(t, torch.ones_like(t), range(50), 20_000)
    )
    assert correlation(score, exact) >= 0.99
    assert slope(score, exact) == pytest.approx(1, abs=0.05)


def test_paths_are_averaged_and_each_is_a_draw_of_its_own():
    denoiser = mixture(4)
    z0, labels = pictures(denoiser, 40, seed=1)
    c = denoiser.encode_prompts(labels)
    noising = Noising(*time_grid(VP, 30, 20, 1000), range(40), 2000, "coupled")
    eight = llr_image(denoiser, z0, c, noising, LLRImageConfig(paths=8))
    each = [elbo(denoiser, z0, c, replace(noising, path=path)) for path in range(8)]
    torch.testing.assert_close(eight, torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)
    few = [3, 17]
    own = replace(noising, seeds=few, batch_size=7)
    alone = llr_image(denoiser, z0[few], c[few], own, LLRImageConfig(paths=8))
    torch.testing.assert_close(alone, eight[few], rtol=1e-4, atol=1e-5)


def test_with_another_weighting():
    denoiser = mixture(4)
    z0, labels = pictures(denoiser, 4, seed=1)
    c = denoiser.encode_prompts(labels)
    t, _ = time_grid(VP, 7, 20, 1000)
    triple = llr_image(
        denoiser,
        z0,
        c,
        Noising(t, torch.ones_like(t), range(4), noise="coupled", emphasis=torch.full((7,), 3.0)),
        LLRImageConfig(guidance=2.0),
    )
    torch.testing.assert_close(
        triple,
        3
        * llr_image(denoiser, z0, c, Noising(t, torch.ones_like(t), range(4)), LLRImageConfig(guidance=2.0)),
    )
    with pytest.raises(ValueError, match="paths=0"):
        llr_image(denoiser, z0, c, Noising(t, torch.ones_like(t), range(4)), LLRImageConfig(paths=0))
    with pytest.raises(UserError, match="did you mean 'wide'"):
        PathLLR("wyde")
