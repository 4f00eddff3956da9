"""Scorers by name: every one gives finite columns, and what cannot be scored is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mitune.config import COLUMNS, SCORERS, compose
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.registry import Scoring, check_oracle
from mitune.sampling.loop import sample
from mitune.sampling.steps import Sampler

PROMPTS = ["a red circle and a blue square", "a blue circle and a red square", "a green star and a red dog"]


def scoring(names: list[str], folder: Path, pool: list[str] = PROMPTS) -> Scoring:
    settings = OmegaConf.to_container(compose(["scorer=quick", "scorer.elbo.times=2"]).scorer)
    return Scoring(names, settings, load_denoiser(str(folder)), pool=pool)  # type: ignore[arg-type]


def test_every_scorer_gives_one_finite_number_a_candidate(tiny_pipeline_folder: Path) -> None:
    texts = ["a red circle and a blue square", "a blue square and a green circle"]
    pool = [*PROMPTS, "a green circle and a blue square", "a red star and a blue circle", *texts]
    # The oracle reads pictures of the embedded world's size only; it is tried apart.
    judge = scoring([name for name in SCORERS if name != "oracle"], tiny_pipeline_folder, pool)
    observers = judge.observers()
    z = sample(
        judge.denoiser, judge.denoiser.encode_prompts(texts), [1, 2], Sampler("ddim", 3, eta=1.0), observers
    )
    columns = {observer.name: observer.result() for observer in observers} | judge.on_latents(
        z, texts, [1, 2]
    )
    assert set(columns) == set(judge.names)
    for values in columns.values():
        assert values.shape == (2,)
        assert values.isfinite().all()


def test_a_latent_score_does_not_depend_on_its_neighbours(tiny_pipeline_folder: Path) -> None:
    judge = scoring(["elbo", "contrast"], tiny_pipeline_folder)
    z = torch.randn(3, *judge.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    together = judge.on_latents(z, PROMPTS, [5, 6, 7])
    alone = judge.on_latents(z[1:2], PROMPTS[1:2], [6])
    for name in ("elbo", "contrast"):
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-4)


def test_the_oracle_tells_right_from_wrong_and_says_exactly(tiny_pipeline_folder: Path) -> None:
    from mitune.worlds.shapes import CATEGORIES, random_scene, render, split  # noqa: F401

    judge = scoring(["oracle"], tiny_pipeline_folder)
    blank = torch.full((2, 3, 64, 64), 0.9)
    columns = judge.on_pictures(blank, [split(CATEGORIES[0], "test")[0]] * 2)
    assert set(columns) == {"oracle", *COLUMNS}
    assert columns["oracle"].max() < 1
    assert columns["exact"].tolist() == [0.0, 0.0]


def test_the_oracle_refuses_prompts_of_another_world() -> None:
    from mitune.worlds.shapes import CATEGORIES, split

    check_oracle(["mi", "oracle"], split(CATEGORIES[0], "train")[:20], "scorers")
    check_oracle(["mi"], ["a photo of a cat"], "scorers")
    with pytest.raises(UserError, match=r"evaluate\.scorers.*a photo of a cat.*\[mi\]"):
        check_oracle(["mi", "oracle"], ["a photo of a cat"], "evaluate.scorers")


def test_an_unknown_scorer_is_named(tiny_pipeline_folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'contrast'"):
        scoring(["contrst"], tiny_pipeline_folder)


def test_a_pool_without_edits_is_refused(tiny_pipeline_folder: Path) -> None:
    judge = scoring(["contrast"], tiny_pipeline_folder, pool=["cat"])
    with pytest.raises(UserError, match="no edit of the prompt 'cat'"):
        judge.edits("cat")
