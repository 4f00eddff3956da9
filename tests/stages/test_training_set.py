"""Putting a training set together: how many pictures are held at once, and what it comes to."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mitune import distributed
from mitune.data import dataset
from mitune.data.selection import select
from mitune.data.store import CandidateStore, plan_units
from mitune.errors import UserError
from mitune.stages import training_set
from mitune.stages.training_set import write_training_set
from mitune.tasks import Task

SHAPE = (4, 2, 2)
PROMPTS = [
    Task.of(f"a {colour} cat") for colour in ("red", "green", "blue", "white", "black", "grey", "pink")
]


class Decoder:
    """Stands for a model; counts its pictures that are there."""

    latent_shape, device, pictures_at_once = SHAPE, torch.device("cpu"), 2

    def __init__(self) -> None:
        self.alive, self.most = 0, 0

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        pictures = z[:, :3].sigmoid().repeat_interleave(4, 2).repeat_interleave(4, 3)
        gc.collect()
        self.alive += len(pictures)
        self.most = max(self.most, self.alive)
        weakref.finalize(pictures, self._gone, len(pictures))
        return pictures

    def _gone(self, count: int) -> None:
        self.alive -= count


@pytest.fixture
def store(tmp_path: Path) -> CandidateStore:
    """Two candidates of each prompt, one of them kept."""
    found, generator = CandidateStore(tmp_path / "candidates"), torch.Generator().manual_seed(0)
    units = plan_units(PROMPTS, 2, 4)
    found.bind(units)
    for unit in units:
        rows = unit.candidates()
        table: dict[str, Any] = {
            "prompt_id": [prompt.id for prompt, _ in rows],
            "prompt": [prompt.text for prompt, _ in rows],
            "category": [""] * len(rows),
            "candidate": [number for _, number in rows],
            "seed": list(range(len(rows))),
            "mi": torch.rand(len(rows), generator=generator).tolist(),
            "kept": [number == 0 for _, number in rows],
        }
        found.write_unit(unit, table, torch.randn(len(unit.prompts), *SHAPE, generator=generator))
    return found


def chosen(store: CandidateStore, kept: bool = True) -> pd.DataFrame:
    table = store.table()
    return select(table[table["kept"]] if kept else table, "mi", 1).assign(weight=1.0)


def test_it_is_the_set_that_is_built_whole_and_few_pictures_are_there_at_once(
    store: CandidateStore, tmp_path: Path
) -> None:
    rows, decoder = chosen(store), Decoder()
    write_training_set(tmp_path / "set", store, rows, None, decoder, 3, 1, "m")  # type: ignore[arg-type]
    assert decoder.most <= 2 * decoder.pictures_at_once  # those that are written, and those that come
    latents = store.latents(rows)
    whole = dataset.build(rows, Decoder().decode(latents), latents, 1, "m")
    dataset.save(whole, tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "set" / path.name).read_bytes() == path.read_bytes()


def test_a_latent_that_was_not_kept_is_refused_and_the_old_set_stays(
    store: CandidateStore, tmp_path: Path
) -> None:
    write_training_set(tmp_path / "set", store, chosen(store), None, Decoder(), 3, 1, "m")  # type: ignore[arg-type]
    before = (tmp_path / "set" / "state.json").read_bytes()
    lost = chosen(store, kept=False)
    assert (lost["latent_row"] < 0).any()
    with pytest.raises(UserError, match="was not kept"):
        write_training_set(tmp_path / "set", store, lost, None, Decoder(), 3, 1, "m")  # type: ignore[arg-type]
    assert (tmp_path / "set" / "state.json").read_bytes() == before
    assert not list(tmp_path.glob(".partial-*"))


def test_the_others_are_told_of_an_error_before_their_pieces_go(
    store: CandidateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would say that their folder is gone, and that would be what the command ends with."""
    there: list[list[Path]] = []
    monkeypatch.setattr(
        distributed, "_abandon", lambda error: there.append(list(tmp_path.glob(".partial-*")))
    )
    monkeypatch.setattr(training_set, "write_set", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_training_set(tmp_path / "set", store, chosen(store), None, Decoder(), 3, 1, "m")  # type: ignore[arg-type]
    assert [len(found) for found in there] == [1]
    assert not list(tmp_path.glob(".partial-*"))


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_set(
    store: CandidateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_set, "write_set", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_training_set(tmp_path / "set", store, chosen(store), None, Decoder(), 3, 1, "m")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["candidates"]
