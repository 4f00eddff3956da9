"""Balanced phrases: weights in closed form, a weight of 1 is the plain walk to the bit, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.pixels.balance import COLUMNS, balanced, spread, weighed
from mitune.pixels.settings import BALANCES, BalancingConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from tests.analytic import three_clouds
from tests.families import test_flux, test_sd3, test_sdxl

TWO, ONE, THREE = (
    "a red circle and a blue square",
    "a circle",
    "a cross above a big square and a green triangle",
)
PLAIN = SamplerConfig("ddim", 4, eta=1.0, guidance=2.0)


@pytest.fixture(scope="module")
def world():
    return load_denoiser({"path": "shapes", "device": "cpu"})


def settings(balance, **own):
    return replace(PLAIN, balance=balance, balancing=BalancingConfig(**own))


def drawn(denoiser, sampler, prompts=(TWO, ONE, THREE), seeds=(1, 2, 3), batch_size=None):
    walked = balanced(denoiser, sampler)
    denoiser.forwards = 0
    condition = walked.encode_prompts([*prompts])
    return sample(walked, condition, [*seeds], sampler, batch_size=batch_size), denoiser.forwards


def test_gaps_are_spread_over_those_of_their_prompt():
    losses = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 9.0], [4.0, 8.0, 9.0]])
    there = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    assert spread(losses, there).tolist() == [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_weights_go_from_the_null_embedding_on_and_one_changes_no_bit():
    text, nothing = torch.randn(2, 5, 7), torch.randn(1, 5, 7)
    columns = torch.zeros(2, 2, 5)
    columns[0, 0, 1:3], columns[0, 1, 2:4] = 1, 1
    weights = torch.tensor([[1.2, 0.5], [3.0, 3.0]])
    found = weighed(text, nothing, columns, weights)
    for column, weight in enumerate([1.0, 1.2, 0.6, 0.5, 1.0]):
        wanted = nothing[0, column] + weight * (text[0, column] - nothing[0, column])
        assert torch.allclose(found[0, column], wanted, atol=1e-6)
    assert torch.equal(found[0, [0, 4]], text[0, [0, 4]])
    assert torch.equal(found[1], text[1])
    assert torch.equal(weighed(text, nothing, columns, torch.ones(2, 2)), text)


@torch.no_grad()
def test_the_weight_of_elbo_is_its_gap_in_closed_form(world):
    walked = balanced(world, settings("elbo", strength=1.5))
    condition = walked.encode_prompts([THREE, ONE])
    z = torch.randn(2, *world.latent_shape, generator=torch.Generator().manual_seed(0))
    found = walked.weights(z, 500, condition)
    whole = world.epsilon(z[:1], 500, world.encode_prompts([THREE]))
    phrases = ["a cross", "a big square", "a green triangle"]
    gaps = torch.stack(
        [
            (world.epsilon(z[:1], 500, world.encode_prompts([text])) - whole).square().mean()
            for text in phrases
        ]
    )
    wanted = 1.5 ** ((gaps - gaps.min()) / (gaps.max() - gaps.min()))
    assert torch.allclose(found[0], wanted, atol=1e-4)
    assert found[1].tolist() == [1.0, 1.0, 1.0]
    assert sorted(found[0].tolist())[0] == 1.0
    assert sorted(found[0].tolist())[2] == pytest.approx(1.5)


@pytest.mark.parametrize("balance", ["elbo", "uniform"])
def test_a_weight_of_one_is_the_plain_walk_to_the_bit(world, balance):
    assert torch.equal(drawn(world, settings(balance, strength=1.0))[0], drawn(world, PLAIN)[0])


@pytest.mark.parametrize("balance", BALANCES)
def test_prompts_of_one_phrase_are_drawn_as_ever_at_no_cost(world, balance):
    plain, forwards = drawn(world, PLAIN, [ONE, "a blue cross"], [1, 2])
    found, spent = drawn(world, settings(balance), [ONE, "a blue cross"], [1, 2])
    assert torch.equal(found, plain)
    assert spent == forwards == 2 * 2 * 4


def test_what_balances_changes_the_picture_and_counts_its_forwards(world):
    plain, forwards = drawn(world, PLAIN)
    found = {name: drawn(world, settings(name, **({"refinements": 0} if name == "attend_excite" else {})))
             for name in BALANCES}  # fmt: skip
    for z, _ in found.values():
        changed = (z - plain).flatten(1).norm(dim=1)
        assert changed[1] == 0
        assert (changed[[0, 2]] > 1e-3).all()
    assert {name: spent - forwards for name, (_, spent) in found.items()} == {
        "elbo": 4 * (1 + 2 + 1 + 3), "uniform": 0, "attend_excite": 2 * 2
    }  # fmt: skip


@pytest.mark.parametrize("balance", ["elbo", "uniform"])
def test_only_the_first_share_of_the_steps_is_balanced(world, balance):
    walked = balanced(world, settings(balance, share=0.5))
    times = sorted(walked._places, reverse=True)
    assert [walked.early(t) for t in times] == [True, True, False, False]
    assert balanced(world, settings(balance)).early(times[-1])


@pytest.mark.parametrize("balance", BALANCES)
def test_no_picture_depends_on_its_batch(world, balance):
    together = drawn(world, settings(balance))[0]
    by_two = drawn(world, settings(balance), batch_size=2)[0]
    alone = torch.cat(
        [drawn(world, settings(balance), [text], [seed])[0] for text, seed in ((TWO, 1), (THREE, 3))]
    )
    assert (by_two - together).abs().max() < 2e-3
    assert (alone - together[[0, 2]]).abs().max() < 2e-3


def test_a_repeated_phrase_has_each_of_its_places_once(world):
    columns = balanced(world, settings("uniform")).encode_prompts(["a circle and a circle"]).tensors[COLUMNS]
    assert columns.shape[:2] == (1, 2)
    assert columns[0].sum(1).tolist() == [2.0, 2.0]
    assert (columns[0, 0] * columns[0, 1]).sum() == 0
    found = drawn(world, settings("elbo"), ["a circle and a circle"], [1])  # equal gaps: 0/0 is no weight
    plain = drawn(world, PLAIN, ["a circle and a circle"], [1])
    assert torch.equal(found[0], plain[0])
    assert found[1] == plain[1]


@torch.no_grad()
def test_a_phrase_that_is_there_twice_has_one_weight(world):
    walked = balanced(world, settings("elbo"))
    condition = walked.encode_prompts(["a circle, a cross and a circle"])
    world.forwards = 0
    (found,) = walked.weights(torch.randn(1, *world.latent_shape), 500, condition).tolist()
    assert world.forwards == 1 + 2
    assert found[0] == found[2]
    assert sorted(found)[::2] == pytest.approx([1.0, 1.2])


@pytest.mark.parametrize(("name", "guidance"), [("heun", 1.0), ("dpmpp_2m", 3.0)])
def test_every_solver_and_guidance_is_balanced(world, name, guidance):
    own = replace(settings("elbo"), name=name, guidance=guidance, eta=0.0)
    found, plain = drawn(world, own)[0], drawn(world, replace(own, balance=None))[0]
    assert found.isfinite().all()
    changed = (found - plain).flatten(1).norm(dim=1)
    assert changed[1] == 0
    assert (changed[[0, 2]] > 1e-3).all()


OF_FAMILY = {"sdxl": {}, "sd3": {"max_tokens": 20}, "flux": {"max_tokens": 20}}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.exhaustive) if name == "flux" else name for name in OF_FAMILY
    ],
)
def family(request, tmp_path_factory):
    module = {"sdxl": test_sdxl, "sd3": test_sd3, "flux": test_flux}[request.param]
    folder = module.build(tmp_path_factory.mktemp(request.param))
    return load_denoiser({"path": str(folder), "device": "cpu", **OF_FAMILY[request.param]})


@pytest.mark.parametrize("balance", BALANCES)
def test_every_encoder_of_a_family_is_balanced(family, balance):
    few = {"refinements": 1} if balance == "attend_excite" else {}
    own = replace(
        settings(balance, **few), name="euler" if family.schedule.kind == "flow" else "ddim", steps=2
    )
    walked = balanced(family, own)
    condition = walked.encode_prompts([TWO])
    spans = family.spans(TWO)
    read = {column for word in spans if word.word != "and" for own in word.columns.values() for column in own}
    assert set(condition.tensors[COLUMNS][0].any(0).nonzero().flatten().tolist()) == read
    found = sample(walked, condition, [1], own)
    plain = sample(family, family.encode_prompts([TWO]), [1], replace(own, balance=None))
    assert found.isfinite().all()
    assert not torch.equal(found, plain)


def test_a_model_that_reads_no_tokens_is_refused():
    with pytest.raises(UserError, match="reads no tokens of a text"):
        balanced(three_clouds(), settings("uniform"))


def test_a_model_that_edits_pictures_is_refused(world, monkeypatch):
    monkeypatch.setattr(type(world), "edits_pictures", True)
    with pytest.raises(UserError, match=r"sampler\.balance=elbo: .* edits pictures"):
        balanced(world, settings("elbo"))


@pytest.mark.parametrize("balance", ["elbo", None])
def test_settings_that_a_balance_does_not_read_are_refused_in_python_too(world, balance):
    with pytest.raises(
        UserError, match=r"sampler\.balancing\.step=2\.0: .* say sampler\.balance=attend_excite"
    ):
        balanced(world, settings(balance, step=2.0))


def test_what_a_candidate_has_follows_it(world):
    walked = balanced(world, settings("elbo"))
    condition = walked.encode_prompts([TWO, ONE, THREE])
    wide = walked.widened(condition)
    assert len(wide) == 6
    assert torch.equal(wide.tensors[COLUMNS][3:], condition.tensors[COLUMNS])
    assert not wide.tensors[COLUMNS][:3].any()
    assert isinstance(condition[[2, 0]], Condition)
    assert torch.equal(condition[[2, 0]].tensors[COLUMNS], condition.tensors[COLUMNS][[2, 0]])
