"""``llr`` against its definition written out and against the exact information of each sample."""

from __future__ import annotations

import pytest
import torch
from analytic import exact_kl, three_clouds, within_three_errors

from mitune.information import PathLLR
from mitune.sampling import Sampler, Step, sample


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
    sample(denoiser, c, range(4), Sampler(steps=15, guidance=guidance, **sampler), observers)
    torch.testing.assert_close(observers[0].result(), observers[1].result(), rtol=1e-8, atol=1e-8)


def test_llr_is_the_information_of_each_sample():
    denoiser = three_clouds()
    n = 150
    labels = ["a", "b"] * (n // 2)
    observer = PathLLR()
    sampler = Sampler("ddpm", 1000, guidance=1.0)
    z = sample(denoiser, denoiser.encode_prompts(labels), range(n), sampler, [observer])
    exact = denoiser.information(z, labels)
    assert float(torch.corrcoef(torch.stack([observer.result(), exact]))[0, 1]) >= 0.99


def test_llr_averages_to_the_divergence():
    denoiser = three_clouds()
    n = 300
    observer = PathLLR()
    sample(
        denoiser, denoiser.encode_prompts(["a"] * n), range(n), Sampler("ddpm", 200, guidance=1.0), [observer]
    )
    assert within_three_errors(observer.result(), exact_kl(denoiser, "a"))


def test_llr_knows_the_sample_under_guidance_too():
    denoiser = three_clouds()
    labels = ["a", "b"] * 60
    observer = PathLLR()
    z = sample(
        denoiser, denoiser.encode_prompts(labels), range(120), Sampler("ddpm", 500, guidance=4.0), [observer]
    )
    exact = denoiser.information(z, labels)
    assert float(torch.corrcoef(torch.stack([observer.result(), exact]))[0, 1]) >= 0.93


def test_a_deterministic_path_has_no_density():
    denoiser = three_clouds()
    observer = PathLLR()
    sample(denoiser, denoiser.encode_prompts(["a", "b"]), [0, 1], Sampler("ddim", 10), [observer])
    assert observer.result().tolist() == [0, 0]
