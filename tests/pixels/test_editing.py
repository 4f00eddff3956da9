"""Prompt-to-Prompt on the embedded model and on tiny joint ones: what has to be the source's bits is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.pixels.alignment import Columns
from mitune.pixels.editing import Editor, Given, edit, region
from mitune.pixels.plans import Plan, Wanted, plan
from mitune.pixels.settings import EditConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.inversion import invert
from mitune.sampling.loop import sample, walk
from mitune.sampling.solver import solver_of
from tests.families import checks, test_flux, test_sana, test_sd3

SOURCE, TARGET = "a red circle and a blue square", "a green circle and a blue square"
QUICK = SamplerConfig(steps=4)
PLAIN = EditConfig(blend=False)


@pytest.fixture(scope="module")
def shapes() -> Any:
    return load_denoiser({"path": "shapes", "device": "cpu"})


@pytest.fixture(scope="module", params=["sd3", "flux", "sana"])
def other(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "sana":
        folder = test_sana.build(tmp_path_factory.mktemp("sana"))
        return checks.Model(folder, checks.EULER, {"max_tokens": 40}).ours
    family = {"sd3": test_sd3, "flux": test_flux}[request.param]
    return family.describe(family.build(tmp_path_factory.mktemp(request.param))).load()


def same(denoiser: Denoiser, text: str = SOURCE) -> Plan:
    """An edit that changes no word."""
    own = plan(denoiser, Wanted(text, text, "reweight", text.split()[1], 1.0))
    return dataclasses.replace(own, mode="replace")


def test_the_same_prompt_gives_the_sources_picture(shapes: Any) -> None:
    for settings in (PLAIN, EditConfig(), EditConfig(cross_share=1.0, self_share=1.0, blend=False)):
        found = edit(shapes, [same(shapes)] * 2, [1, 2], QUICK, settings)
        assert (found.after - found.before).abs().max() <= 1e-5
    drawn = sample(shapes, shapes.encode_prompts([SOURCE] * 2), [1, 2], QUICK)
    assert (found.before - drawn).abs().max() <= 1e-4


def test_nothing_taken_over_is_a_redraw_from_the_same_noise(shapes: Any) -> None:
    alone = EditConfig(cross_share=0.0, self_share=0.0, blend=False)
    found = edit(shapes, [plan(shapes, Wanted(SOURCE, TARGET))], [3], QUICK, alone)
    drawn = sample(shapes, shapes.encode_prompts([TARGET]), [3], QUICK)
    assert (found.after - drawn).abs().max() <= 1e-4
    assert (found.after - found.before).abs().max() > 0.1


def test_a_mask_of_ones_is_plain_and_one_of_zeros_the_source(shapes: Any) -> None:
    plans = [plan(shapes, Wanted(SOURCE, TARGET))]
    plain = edit(shapes, plans, [4], QUICK, PLAIN)
    ones, zeros = (
        edit(shapes, plans, [4], QUICK, EditConfig(), fixed=make(1, *shapes.latent_shape[-2:]))
        for make in (torch.ones, torch.zeros)
    )
    assert torch.equal(ones.after, plain.after)
    assert torch.equal(zeros.after, zeros.before)
    assert (plain.after - plain.before).abs().max() > 0.1


def test_outside_of_the_mask_the_latent_is_the_sources(shapes: Any) -> None:
    found = edit(shapes, [plan(shapes, Wanted(SOURCE, TARGET))], [5], QUICK, EditConfig())
    assert 0 < found.masks.mean() < 1
    moved = (found.after - found.before).abs().amax(1)
    assert moved[found.masks == 0].max() == 0
    assert moved[found.masks == 1].max() > 0.1


def test_weight_one_is_plain_and_another_is_not(shapes: Any) -> None:
    refined = edit(shapes, [plan(shapes, Wanted(SOURCE, TARGET, "refine"))], [6], QUICK, PLAIN)
    one, ten = (
        edit(shapes, [plan(shapes, Wanted(SOURCE, TARGET, "reweight", "green", w))], [6], QUICK, PLAIN)
        for w in (1.0, 10.0)
    )
    assert torch.equal(one.after, refined.after)
    assert (ten.after - refined.after).abs().max() > 0.01


def test_an_edit_does_not_depend_on_its_batch(shapes: Any) -> None:
    targets = (TARGET, "a red triangle and a blue square", "a circle")
    plans = [plan(shapes, Wanted(SOURCE, text)) for text in targets]
    whole = edit(shapes, plans, [7, 8, 9], QUICK, EditConfig())
    parts = edit(shapes, plans, [7, 8, 9], QUICK, EditConfig(), batch_size=2)
    assert (whole.after - parts.after).abs().max() <= 1e-4
    assert torch.equal(whole.masks, parts.masks)


def test_shares_count_steps_and_what_is_taken_over_is_the_sources_map(shapes: Any) -> None:
    """Of a step inside the share the target's maps are the source's, column for column; of one outside its own."""
    editor = Editor(
        shapes, [plan(shapes, Wanted(SOURCE, TARGET))], solver_of(shapes, QUICK), EditConfig(cross_share=0.5)
    )
    seen: list[tuple[float, bool]] = []
    inner = shapes.predict

    def watched(z: Tensor, t: Any, condition: Any, tap: Any = None) -> Tensor:
        class Watch:
            def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
                changed = tap.layer(place, kind, maps)
                if kind == "cross":
                    out = maps if changed is None else changed
                    seen.append((float(t), bool((out[-1] - out[-2]).abs().max() == 0)))
                return changed

        return inner(z, t, condition, Watch())

    shapes.predict = watched
    try:
        noise = torch.randn(1, *shapes.latent_shape, generator=torch.Generator().manual_seed(0)).repeat(
            2, 1, 1, 1
        )
        for at in editor.solver.steps:
            editor.outputs(noise, at.time, editor.widened(editor.told()), 2.0)
    finally:
        del shapes.predict
    times = [at.time for at in editor.solver.steps]
    assert {t for t, taken in seen if taken} == set(times[:2])
    assert {t for t, taken in seen if not taken} == set(times[2:])


def test_half_a_pair_is_refused(shapes: Any) -> None:
    editor = Editor(shapes, [same(shapes)], solver_of(shapes, QUICK), PLAIN)
    with pytest.raises(ValueError, match="half a pair"):
        editor.predict(torch.zeros(1, *shapes.latent_shape), 500, editor.told()[0])


def test_a_place_goes_to_the_thing_that_looks_there_most() -> None:
    sums = torch.zeros(1, 3, 4, 4)
    sums[0, 0, 0, 0] = 1.0  # what changes, in the source
    sums[0, 2, 0, 1] = 1.0  # another thing, right beside it
    (found,) = region(sums, 0.5)
    assert found[0, 0] == 1
    assert found[1, 1] == 1  # beside what changes
    assert found[0, 1] == 0
    assert found[2:].sum() == 0


# -- pictures that are there ---------------------------------------------------------------------------------------


def test_a_picture_drawn_without_noise_is_followed_back_and_drawn_again(shapes: Any) -> None:
    """Within 0.05 of latents as large as 5; as DDIM inversion is mostly done it misses four times that and more."""
    sampler = SamplerConfig(steps=6, eta=0.0, guidance=1.0)
    told = shapes.encode_prompts([SOURCE] * 2)
    z = sample(shapes, told, [1, 2], sampler)

    def missed(recursion: int) -> float:
        path = invert(shapes, z, told, sampler, recursion=recursion)
        assert len(path) == 7
        assert torch.equal(path[-1], z)
        again = walk(shapes, told, solver_of(shapes, sampler), Given([path[0]], 1), 1.0).latents
        return float((again - z).abs().max())

    assert missed(8) < 0.05 < missed(0) / 4


def test_a_picture_that_is_given_is_the_source_to_the_bit(shapes: Any) -> None:
    z = sample(shapes, shapes.encode_prompts([SOURCE]), [1], QUICK)
    sampler = SamplerConfig(steps=4, eta=0.0, guidance=2.0)
    found = edit(shapes, [plan(shapes, Wanted(SOURCE, TARGET))], [0], sampler, EditConfig(), pictures=z)
    assert torch.equal(found.before, z)
    assert (found.after - z).abs().max() > 0.1
    kept = edit(shapes, [same(shapes)], [0], sampler, PLAIN, pictures=z)
    assert (kept.after - z).abs().max() <= 1e-4


@pytest.mark.parametrize("sampler", [SamplerConfig(), SamplerConfig("ddpm"), SamplerConfig("dpmpp_2m")])
def test_other_samplers_cannot_be_followed_back(shapes: Any, sampler: SamplerConfig) -> None:
    with pytest.raises(UserError, match=r"sampler\.eta=0"):
        invert(shapes, torch.zeros(1, *shapes.latent_shape), shapes.encode_prompts([SOURCE]), sampler)


# -- other families ------------------------------------------------------------------------------------------------


def test_other_families_edit_too(other: Any) -> None:
    sampler = SamplerConfig("euler", steps=2)
    settings = EditConfig(blend=False, cross_share=1.0, self_share=1.0)
    kept = edit(other, [same(other)], [1], sampler, settings)
    assert (kept.after - kept.before).abs().max() <= 1e-5 * max(1.0, float(kept.before.abs().max()))
    for text in (TARGET, "a big red circle and a blue square"):
        plans = [plan(other, Wanted(SOURCE, text))]
        alone = edit(other, plans, [1], sampler, EditConfig(blend=False, cross_share=0.0, self_share=0.0))
        both = edit(other, plans, [1], sampler, settings)
        assert both.after.isfinite().all()
        assert not torch.equal(both.after, alone.after)
        blended = edit(other, plans, [1], sampler, EditConfig())
        assert blended.masks.shape[-2:] == other.latent_shape[-2:]
        moved = (blended.after - blended.before).abs().amax(1)
        assert not moved[blended.masks == 0].any()
    z = torch.randn(1, *other.latent_shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(edit(other, [same(other)], [0], sampler, settings, pictures=z).before, z)


@pytest.mark.parametrize("shares", [(1.0, 0.4), (0.0, 1.0), (1.0, 1.0)])
def test_rows_of_joint_maps_still_sum_to_one(other: Any, shares: tuple[float, float]) -> None:
    """Both in picture and in text, whatever the source's share was, and whichever of the two is taken over."""
    if other.joint is None:
        pytest.skip("its text is not in one sequence with its picture")
    editor = Editor(
        other,
        [plan(other, Wanted(SOURCE, "a big red circle and a blue square"))],
        solver_of(other, SamplerConfig("euler", steps=2)),
        EditConfig(cross_share=shares[0], self_share=shares[1]),
    )
    sums: list[Tensor] = []

    class Look:
        def __init__(self, tap: Any) -> None:
            self.tap = tap

        def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
            changed = self.tap.layer(place, kind, maps)
            sums.append((maps if changed is None else changed).sum(-1))
            return changed

    inner = other.predict
    other.predict = lambda z, t, condition, tap: inner(z, t, condition, Look(tap))
    try:
        z = torch.randn(2, *other.latent_shape, generator=torch.Generator().manual_seed(0))
        editor.predict(z, 900.0, editor.told())
    finally:
        del other.predict
    assert sums
    assert max(float((own - 1).abs().max()) for own in sums) <= 1e-5


def test_columns_are_as_wide_as_the_text(other: Any) -> None:
    width = other.encode_prompts([SOURCE]).tensors["text"].shape[1]
    own = plan(other, Wanted(SOURCE, "a circle")).columns
    assert isinstance(own, Columns)
    assert len(own.take) == len(own.use) == width
    assert 0 <= min(own.take) <= max(own.take) < width
