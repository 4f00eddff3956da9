"""Rewards by name: sums of them, and what is refused before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mitune.errors import UserError
from mitune.files import read_json, write_json
from mitune.referees.weighted import WeightedSum, load_reward
from mitune.worlds.shapes import oracle_scores
from tests.referees.conftest import TEXTS, pictures, settings
from tests.worlds.shapes.pairs import training_batch


def test_a_weighted_sum_is_a_reward(clip_folder: Path) -> None:
    section, shown = settings(path=str(clip_folder), form="cosine"), pictures(3)
    clip, jpeg = (load_reward(name, section).score(shown, TEXTS) for name in ("clip", "jpeg"))
    both = load_reward("20*clip - 0.5*jpeg", section)
    torch.testing.assert_close(both.score(shown, TEXTS), 20 * clip - 0.5 * jpeg)
    assert not both.differentiable
    assert both.name == "20*clip-0.5*jpeg"


def test_a_sum_of_differentiable_rewards_is_differentiable(clip_folder: Path) -> None:
    section, shown = settings(path=str(clip_folder), form="cosine"), pictures(2).requires_grad_()
    clip = load_reward("clip", section)
    both = WeightedSum([(2.0, clip), (1.0, clip)])
    assert both.differentiable
    ours, theirs = (
        torch.autograd.grad(reward.score(shown, TEXTS[:2]).sum(), shown)[0] for reward in (both, clip)
    )
    torch.testing.assert_close(ours, 3 * theirs)


def test_the_oracle_is_a_reward() -> None:
    shown, texts = training_batch(np.random.default_rng(), 4, wrong_share=0.5)
    tensor = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    reward = load_reward("oracle", settings())
    assert not reward.differentiable
    expected = torch.from_numpy(oracle_scores(tensor, texts)).float()
    torch.testing.assert_close(reward.score(tensor, texts), expected)
    with pytest.raises(UserError, match="embedded world only"):
        reward.score(tensor, ["a photo of a cat"] * 4)


def test_every_reward_refuses_a_prompt_too_few(clip_folder: Path) -> None:
    section = settings(path=str(clip_folder))
    for name in ("clip", "jpeg", "oracle", "clip+jpeg"):
        with pytest.raises(UserError, match="3 pictures but 2 prompts"):
            load_reward(name, section).score(pictures(3), TEXTS[:2])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pikscore", "did you mean 'pickscore'"),
        ("clip+elbo", "'elbo' is not known"),
        ("z(clip)", "compares candidates"),
    ],
)
def test_names_that_are_no_rewards(name: str, says: str, clip_folder: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_reward(name, settings(path=str(clip_folder)))


def test_a_weight_that_is_no_number() -> None:
    jpeg = load_reward("jpeg", settings())
    with pytest.raises(UserError, match="weight of the reward jpeg is nan"):
        WeightedSum([(float("nan"), jpeg)])
    with pytest.raises(UserError, match="one reward or more"):
        WeightedSum([])


@pytest.mark.parametrize("broken", ["gone", "no config", "no preprocessing", "another kind", "pickled"])
def test_a_folder_that_is_no_clip_is_refused_by_key(clip_folder: Path, tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    says = {
        "gone": "neither a folder nor a Hub id",
        "no config": "no config.json",
        "no preprocessing": "no preprocessor_config.json",
        "another kind": "is no CLIP.*model_type=siglip",
        "pickled": "pickled, which are not read",
    }[broken]
    if broken == "gone":
        shutil.rmtree(folder)
    if broken == "no config":
        (folder / "config.json").unlink()
    if broken == "no preprocessing":
        (folder / "preprocessor_config.json").unlink()
    if broken == "another kind":
        write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "siglip"})
    if broken == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=rf"scorer\.clip\.path=.*{says}") as error:
        load_reward("clip", settings(path=str(folder))).score(pictures(1), TEXTS[:1])
    assert "\n" not in str(error.value)
