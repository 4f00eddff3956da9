"""The train stage: which prompts watch over it, and that the best checkpoint is kept by a scorer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.runs import RunFolder
from mitune.stages.inputs import held_out_prompts, trained_from, training_prompts
from mitune.stages.train import validation_prompts
from tests.cli import compose, main


def test_validation_prompts_are_neither_trained_on_nor_held_out() -> None:
    config = compose(["prompts.limit=30", "evaluate.prompts.limit=30"])
    chosen = {prompt.id for prompt in validation_prompts(config, 12)}
    assert len(chosen) == 12
    assert not chosen & {prompt.id for prompt in training_prompts(config)}
    assert not chosen & {prompt.id for prompt in held_out_prompts(config)}


def test_where_the_source_has_no_more_the_trained_prompts_serve(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red dog\na blue cat\n")
    config = compose(
        ["prompts=file", f"prompts.source={path}", "prompts.limit=2", "scorers=[mi]", "select=mi"]
    )
    assert [prompt.text for prompt in validation_prompts(config, 5)] == ["a red dog", "a blue cat"]


def test_the_best_checkpoint_is_kept_by_a_scorer(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red dog\na blue cat\na green star\n")
    arguments = [
        f"run={tmp_path / 'run'}", f"model.path={tiny_pipeline_folder}", "model.device=cpu", "prompts=file",
        f"prompts.source={path}", "prompts.limit=2", "scorers=[mi]", "select=mi", "evaluate=file", "sampler.steps=2",
        "generate.candidates=2", "select.k=1", "adapter.rank=2", "train.steps=3", "train.batch_size=2",
        "train.checkpoint_every=1", "train.keep_best_by=mi", "train.lr=0.01",
    ]  # fmt: skip
    for stage in ("generate", "select", "train"):
        assert main([stage, *arguments]) == 0
    folder = tmp_path / "run" / "round-1"
    figures = json.loads((folder / "done" / "train.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = {row["step"]: row["validation_mi"] for row in rows if "validation_mi" in row}
    assert set(values) == {1, 2, 3}
    assert figures["best_value"] == max(values.values())
    assert values[figures["best_step"]] == figures["best_value"]


def test_a_fresh_adapter_goes_on_from_no_round(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.prepare(1)
    run.write_mark(1, "train", {})
    adapter = run.round(1) / "adapter"
    adapter.mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    assert trained_from(compose([]), run, 2) == adapter
    assert trained_from(compose(["train.fresh=true"]), run, 2) is None
    for number in (1, 2):
        assert trained_from(compose(["train.fresh=true", f"model.adapter=[{mine}]"]), run, number) == mine
    with pytest.raises(UserError, match=r"train.objective=nft .* leave it false"):
        compose(["train.objective=nft", "select.losers=1", "train.fresh=true"])
