"""A wrapped denoiser is the one inside, in all that it does not change."""

from __future__ import annotations

import torch

from mitune.pixels.wrapped import Wrapped
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from tests.analytic import three_clouds


def test_it_draws_as_the_one_inside():
    inner = three_clouds()
    wrapped = Wrapped(inner)
    sampler = SamplerConfig("ddim", steps=4, spacing="trailing", steps_offset=0, set_alpha_to_one=False)
    label = inner.labels[0]
    drawn = [sample(one, one.encode_prompts([label] * 3), [1, 2, 3], sampler) for one in (inner, wrapped)]
    assert torch.equal(*drawn)


def test_forwards_are_counted_in_one_place():
    inner = three_clouds()
    wrapped = Wrapped(inner)
    wrapped.forwards = 5
    assert inner.forwards == 5
    wrapped.predict(torch.zeros(2, *inner.latent_shape), 5, inner.null(2))
    assert wrapped.forwards == inner.forwards == 7
    assert wrapped.identity == inner.identity
    assert wrapped.schedule is inner.schedule
