"""Heatmaps: closed forms of calibration and information, each phrase found, nothing depends on the company."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.denoising import denoising_terms
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.pixels.calibration import calibrated, shares, strengths
from mitune.pixels.catalogue import METHODS, HeatmapConfig
from mitune.pixels.collecting import plan_of
from mitune.pixels.heatmaps import heatmaps, refined, stretched
from mitune.pixels.information import information_map
from mitune.pixels.phrases import Asked, find
from mitune.pixels.upsample import upsampled
from mitune.worlds.shapes import parse_prompt, random_scene, render
from tests.analytic import scene

TEXTS = [
    "a red circle and a blue square",
    "a big green cross",
    "a red circle left of a blue square and a green cross",
]


def asked(text: str) -> Asked:
    return Asked(text, find(text, [str(thing) for thing in parse_prompt(text).objects]))


# -- calibration -------------------------------------------------------------------------------------------------------


def set_to(**values: Any) -> HeatmapConfig:
    return HeatmapConfig(calibration="elbo", **values).filled()


TABLE = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 7.0]])  # losses of three phrases at two times


def test_gamma_one_changes_nothing():
    maps = torch.rand(3, 4, 4)
    strength = strengths(TABLE, set_to(normalise="minmax", gamma=1.0))
    assert torch.equal(calibrated(maps, strength), maps)


def test_losses_turned_round_swap_the_strengths():
    pair = TABLE[:, :2]
    for normalise in ("minmax", "scale"):
        settings = set_to(normalise=normalise, scale=4.0)
        assert torch.equal(strengths(-pair, settings), strengths(pair, settings).flip(0))
        flipped = dataclasses.replace(settings, calibration="flipped")
        assert torch.equal(strengths(pair, flipped), strengths(-pair, settings))


def test_the_published_strengths():
    """γ^n with n from the least loss, 0, to the greatest, 1 (ELBO-T2IAlign, eq. 5)."""
    found = strengths(TABLE, set_to(normalise="minmax", gamma=1 / 3))
    assert torch.allclose(found, (1 / 3) ** torch.tensor([0, 0.25, 1.0], dtype=torch.float64))


def test_shares_in_own_units_and_in_standard_errors():
    assert shares(TABLE, "scale", 2.0).tolist() == [0.0, 0.5, 1.0]
    table = torch.tensor([[0.0, 0.0], [0.0, 2.0]])  # difference: mean 1, standard error √2/√2
    assert torch.allclose(shares(table, "error", 4.0), torch.tensor([0.0, 0.25], dtype=torch.float64))


def test_counted_from_zero_a_phrase_that_helps_is_left_alone_and_one_that_harms_is_pressed_down():
    table = torch.tensor([[-5.0, -0.1, 1.0], [-7.0, -0.3, 3.0]])  # means -6, -0.2 and 2 with standard error 1
    assert torch.allclose(shares(table, "zero", 4.0), torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    assert shares(table[:, 2:], "zero", 1.0).tolist() == [1.0]  # one phrase alone, too


def test_counted_from_zero_needs_what_the_prompt_loses_without_a_phrase():
    with pytest.raises(UserError, match=r"pixels\.losses=drop"):
        HeatmapConfig(losses="phrase").filled()
    assert HeatmapConfig(losses="phrase", normalise="error").filled().normalise == "error"


@pytest.mark.parametrize("normalise", ["minmax", "scale", "error"])
def test_equal_losses_and_a_single_phrase_are_left_alone(normalise):
    assert shares(torch.ones(3, 2), normalise, 1.0).tolist() == [0.0, 0.0]
    assert shares(torch.rand(1, 1), normalise, 1.0).tolist() == [0.0]


# -- information -------------------------------------------------------------------------------------------------------


def test_the_maps_sum_is_the_integrand_of_mi():
    denoiser, z0, labels = scene(6)
    grid = time_grid(denoiser.schedule, 5, 100, 900)
    noising = Noising(*grid, seeds=range(6), batch_size=4)
    told = [denoiser.encode_prompts(labels), denoiser.null(6)]
    found = information_map(denoiser, z0, told, noising)
    mi = denoising_terms(denoiser, z0, told, noising, reference=1).mi
    assert found.shape == z0.shape
    assert torch.allclose(found.sum(1), mi[:, :, 0].sum(1), rtol=1e-10)


def test_what_is_left_without_a_phrase_is_measured_once():
    """Of two phrases either is what is left of the other: gaps and both kinds of losses need N + 1 texts."""
    for losses in ("drop", "phrase"):
        plan = plan_of(asked(TEXTS[0]), HeatmapConfig(losses=losses, normalise="minmax").filled())
        assert len(plan.texts) == 3
    assert len(plan_of(asked(TEXTS[2]), HeatmapConfig().filled()).texts) == 4
    assert plan_of(asked(TEXTS[1]), HeatmapConfig().filled()).texts == (TEXTS[1], None)


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_a_flat_map_is_cold():
    maps = torch.stack([torch.full((2, 2), 3.0), torch.tensor([[1.0, 2.0], [3.0, 5.0]])])
    assert stretched(maps).tolist() == [[[0, 0], [0, 0]], [[0, 0.25], [0.5, 1]]]


def test_a_map_of_no_numbers_does_not_pass_for_a_cold_one():
    maps = torch.rand(2, 4, 4)
    for wrong in (torch.nan, torch.inf):
        maps[1, 0, 0] = wrong
        assert stretched(maps).isfinite().flatten(1).all(1).tolist() == [True, False]


def test_a_guided_map_ends_where_the_colour_does():
    picture = torch.zeros(3, 32, 32)
    picture[:, :, 13:] = 1.0  # an edge within a cell
    maps = torch.zeros(1, 4, 4)
    maps[..., 2:] = 1.0
    smooth, guided = (upsampled(maps, (32, 32), how, picture)[0] for how in ("bilinear", "guided"))
    assert guided[16, 12] < 0.05
    assert guided[16, 13] > 2 * smooth[16, 13] > 0.3
    assert torch.allclose(upsampled(torch.ones(2, 4, 4), (32, 32), "guided", picture), torch.ones(2, 32, 32))


# -- on the embedded models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["shapes", "shapes_flow"])
def drawn(request: Any) -> tuple[Any, Tensor, Tensor, list[np.ndarray]]:
    """A model, its latents of three scenes, their pictures and their masks."""
    denoiser = load_denoiser({"path": request.param, "device": "cpu"})
    rng = np.random.default_rng(7)
    made = [render(random_scene(rng, parse_prompt(text))) for text in TEXTS]
    pictures = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture, _ in made])
    return denoiser, denoiser.encode_image(pictures), pictures, [masks for _, masks in made]


FEW = HeatmapConfig(times=3, loss_times=4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_map_of_each_phrase(drawn, method):
    denoiser, z0, pictures, masks = drawn
    settings = HeatmapConfig(method=method, times=min(3, METHODS[method].sets["times"]), loss_times=3)
    denoiser.forwards = 0
    found = heatmaps(denoiser, z0, [asked(text) for text in TEXTS], [1, 2, 3], settings, pictures=pictures)
    assert denoiser.forwards == sum(one.forwards for one in found)
    inside, outside = [], []
    for one, own in zip(found, masks, strict=True):
        assert one.maps.shape == (len(own), 64, 64)
        assert one.maps.min() >= 0
        assert one.maps.max() <= 1
        assert len(one.losses) == len(one.scores) == len(own)
        for heat, mask in zip(one.maps, own, strict=True):
            inside.append(float(heat[torch.from_numpy(mask)].mean()))
            outside.append(float(heat[torch.from_numpy(~mask)].mean()))
    assert np.mean(inside) > np.mean(outside) + 0.1


def test_what_is_found_does_not_depend_on_the_company(drawn):
    denoiser, z0, pictures, _ = drawn
    every = [asked(text) for text in TEXTS]
    together = heatmaps(denoiser, z0, every, [1, 2, 3], FEW, pictures=pictures)
    (alone,) = heatmaps(denoiser, z0[2:], every[2:], [3], FEW, batch_size=5, pictures=pictures[2:])
    assert (alone.maps - together[2].maps).abs().max() < 1e-3
    assert torch.allclose(alone.losses, together[2].losses, atol=1e-2)
    assert alone.forwards == together[2].forwards
    (other,) = heatmaps(denoiser, z0[2:], every[2:], [4], FEW)
    assert not torch.allclose(alone.losses, other.losses, atol=1e-2)  # its seed is its noise


def test_a_phrase_that_is_not_there_has_the_highest_loss(drawn):
    denoiser, z0, _, _ = drawn
    text = "a red circle, a blue square and a yellow triangle"
    (found,) = heatmaps(denoiser, z0[:1], [asked(text)], [1])
    assert int(found.losses.argmax()) == 2
    assert int(found.scores.argmin()) == 2


def test_gaps_need_no_attention(drawn):
    denoiser, z0, _, _ = drawn
    for gap in ("gap", "elbo", "mi"):
        settings = dataclasses.replace(FEW, gap=gap, calibration="none")
        (found,) = heatmaps(denoiser, z0[:1], [asked(TEXTS[0])], [1], settings)
        assert found.maps.shape == (2, *z0.shape[-2:])
        assert found.forwards == 3 * 4
        assert found.losses.isnan().all()


def test_self_attention_to_the_power_nought_is_no_refinement(drawn):
    denoiser, z0, _, _ = drawn
    seen = denoiser.attention(z0[:1], 100, denoiser.encode_prompts(TEXTS[:1]))
    maps = seen.cross[0, 0]
    assert torch.allclose(refined(maps, seen, "rows", 0), maps)
    twice = refined(refined(maps, seen, "rows", 1), seen, "rows", 1)
    assert torch.allclose(refined(maps, seen, "rows", 2), twice, atol=1e-6)
    assert refined(maps, seen._replace(own=None), "rows", 1) is maps


def test_without_a_phrase_there_is_nothing_to_find(drawn):
    denoiser, z0, _, _ = drawn
    with pytest.raises(UserError, match="no phrase is asked for") as error:
        heatmaps(denoiser, z0[:1], [Asked("a cat", ())], [1])
    assert "\n" not in str(error.value)


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"pixels\.t_min=600 is not below pixels\.t_max=500"):
        HeatmapConfig(t_min=600).filled()
    with pytest.raises(UserError, match=r"pixels\.times=10: there are 5 steps"):
        HeatmapConfig(t_min=495).filled()
