"""Drawing candidates: their seeds, their cost, what is kept, and that batches change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from mitune.data.prompts import make_prompt
from mitune.data.store import plan_units
from mitune.families import load_denoiser
from mitune.information.scoring import Scoring
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.seeds import candidate_seed
from mitune.stages.candidates import Drawing, cost, decode_rows, draw, draw_unit
from mitune.stages.generate import keeper
from tests.cli import compose

PROMPTS = [make_prompt(text) for text in ("a red circle", "a blue square and a dog", "a green star")]
SAMPLER = SamplerConfig("ddim", 2, eta=1.0, guidance=2.0, spacing="leading")


@pytest.fixture(scope="module")
def scoring(tiny_pipeline_folder: Path) -> Scoring:
    settings: Any = OmegaConf.to_container(compose().scorer)
    return Scoring(["mi", "llr"], settings, load_denoiser(str(tiny_pipeline_folder)))


def test_a_candidate_is_the_same_in_any_batch(scoring: Scoring) -> None:
    unit = plan_units(PROMPTS, 3, 9)[0]
    whole, latents = draw_unit(unit, Drawing(SAMPLER, scoring, 5, 96))
    parts, pieces = draw_unit(unit, Drawing(SAMPLER, scoring, 5, 2))
    assert whole["seed"] == parts["seed"] == [
        candidate_seed(5, prompt.text, number) for prompt in PROMPTS for number in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(latents, pieces, rtol=1e-4, atol=1e-4)
    for name in ("mi", "llr"):
        assert whole[name] == pytest.approx(parts[name], rel=1e-3)


def test_a_later_round_sees_new_noise(scoring: Scoring) -> None:
    unit = plan_units(PROMPTS[:1], 2, 2)[0]
    first, _ = draw_unit(unit, Drawing(SAMPLER, scoring, 0, 96))
    second, _ = draw_unit(unit, Drawing(SAMPLER, scoring, 0, 96, first=2))
    assert first["candidate"] == second["candidate"] == [0, 1]
    assert not set(first["seed"]) & set(second["seed"])


def test_the_cost_is_that_of_all_commands_together(scoring: Scoring, tmp_path: Path) -> None:
    units = plan_units(PROMPTS, 2, 2)
    draw(tmp_path, units[:1], Drawing(SAMPLER, scoring, 0, 96))
    (
        tmp_path / "plan.json"
    ).unlink()  # the rest of the plan, as a command that was killed after its first unit
    store = draw(tmp_path, units, Drawing(SAMPLER, scoring, 0, 96))
    figures = cost(store)
    assert figures.forwards == len(PROMPTS) * 2 * SAMPLER.steps * 2
    assert figures.seconds > 0
    assert len(store.table()) == 6


def test_pictures_come_in_the_order_of_the_rows(scoring: Scoring, tmp_path: Path) -> None:
    units = plan_units(PROMPTS, 2, 4)
    store = draw(tmp_path, units, Drawing(SAMPLER, scoring, 0, 96))
    table = store.table()
    forward = decode_rows(store, table, scoring.denoiser, 4)
    backward = decode_rows(store, table.iloc[::-1], scoring.denoiser, 4)
    assert len(forward) == 6
    assert forward[0].shape == (3, *scoring.denoiser.picture_size)
    for one, other in zip(forward, backward[::-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["generate.keep=1"], [0, 3]),  # the best, and the worst for the report
        (["generate.keep=2", "select.losers=1"], [0, 1, 3]),
        (["generate.keep=null", "select.k=2", "select.losers=2"], [0, 1, 2, 3]),
        (["generate.keep=99"], [0, 1, 2, 3]),
    ],
)
def test_the_best_the_losers_and_the_worst_are_kept(overrides: list[str], kept: list[int]) -> None:
    config = compose(["select=mi", "select.k=1", "generate.candidates=4", *overrides])
    table = {
        "prompt_id": ["a"] * 4 + ["b"] * 4,
        "prompt": ["a"] * 4 + ["b"] * 4,
        "category": [""] * 8,
        "candidate": [0, 1, 2, 3] * 2,
        "seed": list(range(8)),
        "mi": [4.0, 3.0, 2.0, 1.0, 1.0, 2.0, 3.0, 4.0],
    }
    flags = keeper(config)(table)
    rows = pd.DataFrame(table)[flags]
    assert rows[rows["prompt_id"] == "a"]["candidate"].tolist() == kept
    assert rows[rows["prompt_id"] == "b"]["candidate"].tolist() == sorted(3 - number for number in kept)


def test_batches_are_known_by_all_that_they_depend_on(scoring: Scoring) -> None:
    plain = Drawing(SAMPLER, scoring, 0, 96)
    assert (
        plain.digest == Drawing(SAMPLER, scoring, 1, 2).digest
    )  # the seeds are noted, and batches change nothing
    settings: Any = OmegaConf.to_container(compose(["scorer.mi.t_min=60"]).scorer)
    others = [Scoring(["mi", "llr"], settings, scoring.denoiser), Scoring(["mi"], settings, scoring.denoiser)]
    drawings = [Drawing(SAMPLER, other, 0, 96) for other in others]
    drawings += [plain, Drawing(dataclasses.replace(SAMPLER, guidance=3.0), scoring, 0, 96)]
    assert len({drawing.digest for drawing in drawings}) == len(drawings)
