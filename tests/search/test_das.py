"""Two searches, by a reward and by the model's own information: each steers the way it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.closed_form import LatentPotential, LatentReward
from mitune.errors import UserError
from mitune.information.llr import PathLLR
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.search.catalogue import SearchConfig
from mitune.search.potentials import path_potential
from mitune.search.smc import Steered, steer
from tests.analytic import three_clouds

SAMPLER = SamplerConfig("ddpm", 10, guidance=1.5, spacing="leading")
RIGHT = LatentReward("right", lambda z, _: z[:, 0])


def das(denoiser, prompts, reward, particles, settings=None, seed=0, first=0, observers=()) -> Steered:
    seeds = [candidate_seed(seed, prompt, first + n) for prompt in prompts for n in range(particles)]
    return steer(denoiser, prompts, seeds, SAMPLER, LatentPotential(reward, denoiser), settings, observers)


def steer_by_information(denoiser, prompts, particles, settings=None, by="llr", negatives=None) -> Steered:
    potential = path_potential(denoiser, prompts, particles, by, negatives)
    seeds = [candidate_seed(0, prompt, n) for prompt in prompts for n in range(particles)]
    return steer(denoiser, prompts, seeds, SAMPLER, potential, settings)


def test_particles_start_as_the_candidates_of_that_number():
    denoiser = three_clouds()
    out = das(denoiser, ["a", "b"], RIGHT, 3, SearchConfig(ess=0.0, proposal="bootstrap"), seed=7, first=5)
    seeds = [candidate_seed(7, prompt, number) for prompt in "ab" for number in (5, 6, 7)]
    z = sample(denoiser, denoiser.encode_prompts(["a"] * 3 + ["b"] * 3), seeds, SAMPLER)
    torch.testing.assert_close(out.latents.flatten(0, 1), z)


def test_a_reward_is_climbed():
    denoiser = three_clouds()
    plain = das(denoiser, ["a"], RIGHT, 64, SearchConfig(alpha=1e6))
    out = das(denoiser, ["a"], RIGHT, 64, SearchConfig(alpha=0.3), observers=[watched := PathLLR()])
    # exp(z/0.3) puts nearly all on the cloud at 1, of variance 0.3, and moves it by 1; unsteered the mean is 0.2.
    assert float(out.mean(out.latents)[0, 0]) > float(plain.mean(plain.latents)[0, 0]) + 0.8
    assert watched.result().shape == (64,)


@pytest.mark.parametrize("by", ["llr", "mi", "contrast"])
def test_information_needs_no_reward(by):
    denoiser = three_clouds()
    prompts, others = ["a", "b"], [["b"], ["a"]]
    settings = SearchConfig(alpha=0.3, ess=0.7)
    out = steer_by_information(denoiser, prompts, 48, settings, by=by, negatives=others)
    plain = steer_by_information(denoiser, prompts, 48, SearchConfig(ess=0.0), by=by, negatives=others)
    assert (out.resampled > 0).all()
    assert out.potential.isfinite().all()
    # The particles themselves, without their weights, have more of what they were steered by.
    assert (out.potential.mean(1) > plain.potential.mean(1)).all()


def test_what_is_missing_is_named():
    denoiser = three_clouds()
    with pytest.raises(UserError, match="did you mean 'llr'"):
        steer_by_information(denoiser, ["a"], 2, by="lr")
    for negatives in (None, [[]], [["b"], ["b"]]):
        with pytest.raises(UserError, match="same number of other prompts"):
            steer_by_information(denoiser, ["a"], 2, by="contrast", negatives=negatives)
    with pytest.raises(UserError, match=r"search\.particles"):
        das(denoiser, ["a"], RIGHT, 0)
