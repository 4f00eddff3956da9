"""Charts: TensorBoard and Weights & Biases get what a run found, in one chart for all its rounds, and no secret."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune import charts
from mitune.charts import Charts, Naming
from mitune.track import read_metrics
from tests.cli import main
from tests.end_to_end.conftest import commands
from tests.end_to_end.test_resume import contents

SECRET = "hf_thisMustNotAppear"


def test_tensorboard_holds_the_scalars_of_each_stage(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(stage: str, name: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "tensorboard" / stage))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(name)]

    tracker = Charts(["tensorboard"], tmp_path, {"seed": 1, "token": SECRET})
    for step in range(4):
        tracker.log({"loss": float(step), "text": "left out", "bad": math.nan}, step)
    tracker.log({"oracle": 0.5}, 3, stage="evaluate")
    tracker.close()
    tracker = Charts(["tensorboard"], tmp_path, {})
    tracker.truncate_after("train", 2)
    tracker.log({"loss": 20.0}, 2)
    tracker.close()
    assert scalars("train", "loss") == [(0, 0.0), (1, 1.0), (2, 20.0)]
    assert scalars("evaluate", "oracle") == [(3, 0.5)]
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_wandb_writes_offline_inside_the_run_folder_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mitune", "run", f"hub.token={SECRET}"])
    for step in range(2):
        tracker = Charts(["wandb"], tmp_path / "run", {"lr": 1e-4, "token": SECRET})
        tracker.log({"loss": 0.5}, step)
        tracker.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    stored = list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    identity = json.loads((tmp_path / "run" / "wandb" / "run.json").read_text())["id"]
    assert len(stored) == 2
    assert all(identity in path.name for path in stored)
    everything = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(b"train/loss" in path.read_bytes() for path in stored)
    assert not any(SECRET.encode() in path.read_bytes() for path in everything)
    assert os.getcwd() == str(tmp_path)


def test_a_chart_is_named_as_the_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    given: dict[str, Any] = {}

    class Run:
        offline, id = True, "abcd1234"
        settings = type("Settings", (), {"sync_dir": str(tmp_path / "a b" / "offline-run-1-abcd1234")})

        def define_metric(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, values: dict[str, Any]) -> None:
            pass

    monkeypatch.setattr(wandb, "init", lambda **rest: given.update(rest) or Run())
    naming = Naming("mine", "theirs", "team", "sweep 3", ["a", "b"])
    tracker = Charts(["wandb"], tmp_path, {}, naming)
    assert not given  # nothing is opened before there is a figure
    tracker.log({"loss": 1.0}, 1)
    names = ("name", "project", "entity", "group", "tags", "resume")
    assert [given[name] for name in names] == ["mine", "theirs", "team", "sweep 3", ["a", "b"], "allow"]
    (line,) = tracker.endings()
    assert line.endswith(f"wandb sync '{tmp_path / 'a b'}'/offline-run-*-abcd1234")


def test_tables_of_a_chart_obey_no_markdown_and_have_an_end(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Charts(["tensorboard"], tmp_path, {})
    prompts = ["<img src=x onerror=alert(1)>\n# a | title", *["plain"] * (charts.ROWS + 5)]
    scores = [None, math.nan, *[1.5] * (charts.ROWS + 4)]
    tracker.table("candidates", {"prompt": prompts, "mi": scores}, 1, "generate")
    tracker.histograms({"mi": scores, "empty": [None] * len(scores)}, 1, "generate")
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "generate"), size_guidance={"tensors": 0})
    events.Reload()
    (event,) = events.Tensors("candidates/text_summary")
    shown = event.tensor_proto.string_val[0].decode().split("\n")
    assert len(shown) == 1 + charts.ROWS
    assert all(line.startswith("    ") for line in shown)
    assert shown[1].strip() == "<img src=x onerror=alert(1)> # a | title"
    assert events.Tags()["histograms"] == ["mi"]


def trained(run: Path) -> str:
    """The digest of a run's adapter."""
    path = run / "round-1" / "adapter" / "pytorch_lora_weights.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_of_two_rounds_is_one_chart_with_everything(
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    make, run = commands(tiny_pipeline_folder, tmp_path), tmp_path / "run"
    words = ["rounds=2", "tracker=[wandb,tensorboard]", "tracker.tags=[a]"]
    words += ["train.pictures_every=2", "train.log_every=1"]
    assert main(make("run", *words)) == 0
    out = capsys.readouterr().out

    identity = json.loads((run / "wandb" / "run.json").read_text())["id"]
    (offline,) = (run / "wandb" / "wandb").glob("offline-run-*")
    assert offline.name.endswith(identity)
    assert f"wandb sync {run / 'wandb' / 'wandb'}/offline-run-*-{identity}" in out.replace("\n", "")
    stored = next(offline.glob("*.wandb")).read_bytes()
    for name in ("generate/mi_spread", "generate/candidates", "select/kept", "train/loss", "train/pictures"):
        assert name.encode() in stored, name
    for name in ("evaluate/differences", "stages/train_seconds", "evaluate/mi_difference"):
        assert name.encode() in stored, name

    def drawn(stage: str) -> EventAccumulator:
        events = EventAccumulator(str(run / "tensorboard" / stage), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
        return events

    assert [event.step for event in drawn("train").Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [event.step for event in drawn("train").Images("pictures")] == [0, 2, 4, 4, 6, 8]
    found = drawn("generate").Tags()
    assert {"mi", "llr"} <= {*found["histograms"]} & {*found["scalars"]}
    assert [event.step for event in drawn("generate").Scalars("candidates")] == [1, 2]
    found = drawn("evaluate").Tags()
    assert {"mi_before", "mi_after", "mi_difference"} <= {*found["scalars"]}
    assert found["images"]
    assert drawn("select").Tags()["images"]
    assert {"generate_seconds", "evaluate_seconds"} <= {*drawn("stages").Tags()["scalars"]}

    for number in (1, 2):
        pictures = sorted(path.name for path in (run / f"round-{number}" / "pictures").glob("training-*"))
        assert pictures == ["training-000000.png", "training-000002.png", "training-000004.png"]
        rows = read_metrics(run / f"round-{number}" / "metrics.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
    everything = [path for path in run.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in everything)

    # What is drawn while it trains changes nothing of the training; done again, nothing is drawn twice.
    assert main(make("run", f"run={tmp_path / 'plain'}")) == 0
    assert trained(tmp_path / "plain") == trained(run)
    capsys.readouterr()
    assert main(make("run", *words)) == 0
    assert "wandb" not in capsys.readouterr().out
    assert len([*(run / "wandb" / "wandb").glob("offline-run-*")]) == 1


def test_pictures_come_out_alike_where_a_training_was_killed_between_them(
    tiny_pipeline_folder: Path, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    make = commands(tiny_pipeline_folder, tmp_path)
    words = ["train.pictures_every=1", "train.checkpoint_every=2"]
    for stage in ("generate", "select"):
        assert main(make(stage)) == 0
        assert main(make(stage, f"run={tmp_path / 'whole'}")) == 0
    assert run_command(make("train", *words, f"run={tmp_path / 'whole'}")).code == 0
    killed = run_command(make("train", *words), kill=["training-000003", 1])
    assert killed.code == -signal.SIGKILL, killed.err
    assert run_command(make("train", *words)).code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
