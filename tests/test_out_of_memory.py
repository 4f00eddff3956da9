"""Out of memory: the message says what would have fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.out_of_memory import advice, largest_that_fits
from tests.finetune.conftest import make_dataset


def small_device(limit: int) -> Any:
    """Stands for a device on which forwards of more than ``limit`` rows run out of memory."""

    def predict(denoiser: Any, z: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if len(z) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoiser._predict(z, *arguments)

    return predict


@pytest.mark.parametrize(
    ("size", "limit", "found"), [(96, 30, 24), (96, 48, 48), (3, 1, 1), (8, 0, None), (1, 0, None)]
)
def test_the_largest_half_that_fits(size: int, limit: int, found: int | None) -> None:
    def attempt(rows: int) -> None:
        if rows > limit:
            raise torch.OutOfMemoryError

    assert largest_that_fits(size, attempt) == found


def test_what_is_said() -> None:
    assert advice("a batch", 8, 2, "x={fits}") == "out of memory with a batch of 8; 2 fits: say x=2"
    assert "not even 1 fits: see model.dtype, model.offload" in advice("a batch", 8, None, "x={fits}")


@pytest.mark.parametrize(
    ("limit", "words"), [(3, "a micro-batch of 8; 2 fits: say train.micro_batch=2"), (0, "not even 1")]
)
def test_training(
    limit: int, words: str, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    attach(denoiser, AdapterConfig(rank=2))
    monkeypatch.setattr(type(denoiser), "_predict", type(denoiser).predict, raising=False)
    monkeypatch.setattr(type(denoiser), "predict", small_device(limit))
    with pytest.raises(UserError, match=words):
        train(denoiser, make_dataset(), TrainConfig(steps=1, batch_size=8), tmp_path)


@pytest.mark.parametrize("interval", [None, [300, 800]])
def test_drawing(
    interval: list[float] | None, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.data.prompts import load_prompts
    from mitune.data.store import plan_units
    from mitune.information.scoring import Scoring
    from mitune.sampling.catalogue import SamplerConfig
    from mitune.stages.candidates import Drawing, draw_unit
    from tests.cli import compose

    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    unit = plan_units(load_prompts("shapes", split="train", limit=2), 4, 8)[0]
    scoring = Scoring(["mi"], dict(compose().scorer), denoiser, seed=0, batch_size=8)
    monkeypatch.setattr(type(denoiser), "_predict", type(denoiser).predict, raising=False)
    monkeypatch.setattr(type(denoiser), "predict", small_device(4))
    sampler = SamplerConfig("ddim", 4, eta=0.0, guidance=7.5, spacing="leading", guidance_interval=interval)
    with pytest.raises(UserError, match=r"a batch of 8; 2 fits: say generate\.batch_size=2"):
        draw_unit(unit, Drawing(sampler, scoring, 0, 8))


@pytest.fixture
def drawn_here(tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny model, on a device that takes 4 rows, and with a gradient 2."""
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    plain = type(denoiser).predict

    def predict(self: Any, z: torch.Tensor, *arguments: Any) -> torch.Tensor:
        if len(z) > (2 if z.requires_grad else 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, z, *arguments)

    monkeypatch.setattr(type(denoiser), "predict", predict)
    return denoiser


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_drawing_along_a_gradient(spacing: str, drawn_here: Any) -> None:
    """What is tried with fewer pictures goes along it as well, wherever a walk of one step begins."""
    from mitune.data.store import plan_units
    from mitune.information.scoring import Scoring
    from mitune.pixels.settings import BalancingConfig
    from mitune.sampling.catalogue import SamplerConfig
    from mitune.stages.candidates import Drawing, draw_unit
    from mitune.tasks import Task
    from tests.cli import compose

    unit = plan_units([Task.of("a red circle and a blue square")], 8, 8)[0]
    scoring = Scoring([], dict(compose().scorer), drawn_here, seed=0, batch_size=8)
    own = BalancingConfig(refinements=0)
    sampler = SamplerConfig(steps=4, guidance=1.0, spacing=spacing, balance="attend_excite", balancing=own)
    with pytest.raises(UserError, match=r"a batch of 8; 2 fits: say generate\.batch_size=2"):
        draw_unit(unit, Drawing(sampler, scoring, 0, 8))


def test_editing(drawn_here: Any, tmp_path: Path) -> None:
    from mitune.information.scoring import Scoring
    from mitune.pixels.plans import Wanted
    from mitune.sampling.catalogue import SamplerConfig
    from mitune.stages.edit_units import Editing
    from mitune.stages.edits import Edit, planned
    from tests.cli import compose

    edits = [Edit(Wanted("a red circle", "a blue circle"), seed) for seed in range(4)]
    config = compose(
        ["edit.source=a red circle", "edit.target=a blue circle", "generate.batch_size=8"], "edit"
    )
    scoring = Scoring([], dict(config.scorer), drawn_here, seed=0, batch_size=8)
    work = Editing(tmp_path, edits, planned(drawn_here, edits), config, SamplerConfig(steps=2), scoring)
    with pytest.raises(UserError, match=r"a batch of 8; 2 fits: say generate\.batch_size=2"):
        work.make()
