"""What Python gives is what the command line gives, bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import torch

from mitune.data import dataset as datasets
from mitune.data.store import CandidateStore
from mitune.files import read_json
from tests.api.conftest import TRAIN
from tests.cli import main


def test_candidates_are_those_of_generate(commands: Path, objects: SimpleNamespace) -> None:
    store = CandidateStore(commands / "round-1/candidates")
    table = store.table()
    names = ["prompt_id", "prompt", "category", "candidate", "seed", "mi", "llr", "elbo", "contrast"]
    assert list(objects.candidates.table) == names
    pd.testing.assert_frame_equal(objects.candidates.table, table[names], check_exact=True)
    assert torch.equal(objects.candidates.latents, store.latents(table))


def test_the_training_set_is_that_of_select(commands: Path, objects: SimpleNamespace, tmp_path: Path) -> None:
    theirs, ours = datasets.load(commands / "round-1/dataset"), objects.training.dataset
    assert {name: ours[name][:] for name in ours.column_names} == {
        name: theirs[name][:] for name in theirs.column_names
    }
    objects.training.save(tmp_path / "dataset")
    for file in sorted((commands / "round-1/dataset").iterdir()):
        assert (tmp_path / "dataset" / file.name).read_bytes() == file.read_bytes()
    assert ours["latent"][:] == theirs["latent"][:]


def test_the_adapter_is_that_of_train(commands: Path, objects: SimpleNamespace, tmp_path: Path) -> None:
    objects.tuned.save_adapter(tmp_path / "adapter")
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "adapter" / name).read_bytes() == (commands / "round-1/adapter" / name).read_bytes()


def test_the_comparison_is_that_of_evaluate(commands: Path, objects: SimpleNamespace, tmp_path: Path) -> None:
    found = read_json(commands / "round-1/evaluation.json")
    assert objects.evaluation.figures == {name: found[name] for name in objects.evaluation.figures}
    objects.evaluation.save(tmp_path, examples=1)
    for name in ("evaluation.json", "evaluation.parquet", "pictures/after-000.png"):
        assert (tmp_path / name).read_bytes() == (commands / "round-1" / name).read_bytes()
    row = objects.evaluation.table.set_index(["category", "score"]).loc[("all", "contrast")]
    cell = found["difference"]["all"]["contrast"]
    assert [row["difference"], row["low"], row["high"]] == [cell["difference"], *cell["ci95"]]


def test_saved_candidates_are_scored_by_the_command_as_pictures_are_here(
    objects: SimpleNamespace, tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place, picture in enumerate(objects.candidates.images()):
        picture.save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text(objects.candidates.table["prompt"][place])
    words = [
        f"model.path={tiny_pipeline_folder}",
        "model.device=cpu",
        "score.scorers=[elbo,mi_image,contrast]",
    ]
    assert main(["score", f"score.source={folder}", f"run={tmp_path / 'run'}", *words]) == 0
    theirs = pq.read_table(tmp_path / "pictures-scores.parquet").to_pandas()
    files = [folder / name for name in theirs["image"]]
    ours = objects.model.score(files, theirs["text"].tolist(), scores=["elbo", "mi_image", "contrast"])
    pd.testing.assert_frame_equal(ours, theirs[list(ours)], check_exact=True)


def test_saved_candidates_are_read_by_the_command(
    objects: SimpleNamespace, tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    objects.candidates.save(tmp_path / "candidates")
    store = CandidateStore(tmp_path / "candidates")
    assert torch.equal(store.latents(store.table()), objects.candidates.latents)
    words = [f"model.path={tiny_pipeline_folder}", "model.device=cpu", "score.scorers=[elbo]"]
    assert main(["score", f"score.source={tmp_path / 'candidates'}", f"run={tmp_path / 'run'}", *words]) == 0
    theirs = pq.read_table(tmp_path / "candidates-scores.parquet").to_pandas()
    assert theirs["elbo"].tolist() == objects.candidates.table["elbo"].tolist()
    assert theirs["text"].unique().tolist() == TRAIN
