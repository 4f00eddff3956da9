"""Attend-and-Excite: its own loss falls, gradients are finite, goals are reached, attention is shared out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mitune.families import load_denoiser
from mitune.pixels.balance import balanced
from mitune.pixels.excitation import _shared_out, _smoothed
from mitune.pixels.settings import BalancingConfig
from mitune.sampling.catalogue import SamplerConfig

TWO, ONE = "a red circle and a blue square", "a circle"


@pytest.fixture(scope="module")
def world():
    return load_denoiser({"path": "shapes", "device": "cpu"})


def excited(world, **own):
    sampler = SamplerConfig("ddim", 10, balance="attend_excite", balancing=BalancingConfig(**own))
    return balanced(world, sampler)


def given(walked):
    z = torch.randn(2, *walked.latent_shape, generator=torch.Generator().manual_seed(0))
    return z, max(walked._places), walked.encode_prompts([TWO, ONE])


def test_attention_is_shared_out_among_the_words_of_each_encoder():
    maps = torch.tensor([[[0.9, 0.02, 0.01, 0.07]]])  # a start token takes most
    words = torch.tensor([[[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    found = _shared_out(maps, words)[0, 0].tolist()
    assert found == pytest.approx([0, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 1], abs=1e-6)
    assert _shared_out(maps, torch.zeros(1, 2, 4)).tolist() == [[[0, 0, 0, 0]]]


def test_smoothing_is_a_gaussian_that_keeps_the_mean_of_a_flat_map():
    assert torch.allclose(_smoothed(torch.full((1, 2, 4, 4), 0.3)), torch.full((1, 2, 4, 4), 0.3))
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1
    own = _smoothed(spike)[0, 0]
    assert float(own[2, 1] / own[2, 2]) == pytest.approx(math.exp(-2), rel=1e-5)
    assert float(own[1, 1] / own[2, 2]) == pytest.approx(math.exp(-4), rel=1e-5)


def test_a_step_along_the_gradient_lowers_the_loss(world):
    walked = excited(world, refinements=0)
    z, t, condition = given(walked)
    before, slope = walked.slope(z, t, condition)
    assert slope.isfinite().all()
    assert slope[0].norm() > 0
    assert before[1] == 0  # one phrase: no loss
    assert not slope[1].any()
    tiny = 1e-2
    after, _ = walked.slope(z - tiny * slope, t, condition)
    fall = float((before - after)[0]) / tiny
    assert fall == pytest.approx(float(slope[0].square().sum()), rel=0.1)


def test_the_walk_is_moved_in_its_first_steps_only_and_not_for_one_phrase(world):
    walked = excited(world, step=0.5, refinements=0)
    z, t, condition = given(walked)
    moved = walked.placed(z, t, condition)
    _, slope = walked.slope(z, t, condition)
    assert torch.equal(moved[1], z[1])
    assert torch.allclose(moved[0], z[0] - 0.5 * slope[0], atol=1e-5)
    assert walked.placed(z, min(walked._places), condition) is z
    late = sorted(walked._places, reverse=True)[4]  # the fifth of ten: the last that is moved
    assert torch.allclose(
        (walked.placed(z, late, condition) - z)[0],
        -0.5 * math.sqrt(1 - 4 / 18) * walked.slope(z, late, condition)[1][0],
        atol=1e-5,
    )


def test_goals_are_sought_until_they_are_reached(world):
    z, t, _ = given(excited(world))
    forwards, losses = [], []
    for goals, times in (([0.0001, 0.5, 0.8], 9), ([0.6, 0.5, 0.8], 9), ([0.6, 0.5, 0.8], 0)):
        walked = excited(world, step=0.3, thresholds=goals, refinements=times)
        condition = walked.encode_prompts([TWO, ONE])
        world.forwards = 0
        moved = walked.placed(z, t, condition)
        forwards.append(world.forwards)
        losses.append(float(walked.slope(moved, t, condition)[0][0]))
    assert forwards[0] == 2  # looked at, reached, then moved once as at any step
    assert forwards[2] == 1
    assert 2 < forwards[1] <= 10
    assert losses[1] < losses[2]
    assert losses[1] < 0.45


def test_no_weight_of_the_model_is_touched(world):
    walked = excited(world)
    z, t, condition = given(walked)
    with torch.no_grad():
        walked.placed(z, t, condition)
    assert all(one.grad is None and not one.requires_grad for one in world.network.parameters())
