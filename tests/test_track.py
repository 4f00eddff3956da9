from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mitune import track
from mitune.errors import UserError

SECRET = "hf_thisMustNotAppear"


def log_steps(folder: Path, steps: range, stage: str = "train", offset: float = 0.0) -> None:
    tracker = track.open_metrics(folder, main=True)
    for step in steps:
        tracker.log({"loss": step + offset}, step, stage)
    tracker.close()


def test_rows_carry_time_stage_step_and_values(tmp_path: Path) -> None:
    tracker = track.open_metrics(tmp_path / "deep" / "round-1", main=True)
    tracker.log({"loss": torch.tensor(0.5), "lr": np.float32(0.25), "note": "größer"}, 7)
    tracker.log({"oracle": 0.75}, 0, stage="evaluate")
    # Nothing is held back: a killed process has lost no row.
    first, second = track.read_metrics(tmp_path / "deep" / "round-1" / "metrics.jsonl")
    assert first.pop("time") > 1.6e9
    assert first == {"stage": "train", "step": 7, "loss": 0.5, "lr": 0.25, "note": "größer"}
    assert (second["stage"], second["step"], second["oracle"]) == ("evaluate", 0, 0.75)
    tracker.close()


def test_nan_and_infinity_are_null_as_json_wants(tmp_path: Path) -> None:
    tracker = track.open_metrics(tmp_path, main=True)
    tracker.log({"loss": math.nan, "norm": math.inf, "lr": 1.0}, 0)
    tracker.close()

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (row["loss"], row["norm"], row["lr"]) == (None, None, 1.0)


def test_resuming_appends(tmp_path: Path) -> None:
    log_steps(tmp_path, range(3))
    log_steps(tmp_path, range(3, 5))
    assert [row["step"] for row in track.read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "torn", ['{"time": 1, "stage": "tr', '{"time": 1, "stage": "train", "step": 3}', "\x00\x00"]
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    log_steps(tmp_path, range(3))
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write(torn)
    assert [row["step"] for row in track.read_metrics(path)] == [0, 1, 2]
    log_steps(tmp_path, range(3, 4))
    assert [row["step"] for row in track.read_metrics(path)] == [0, 1, 2, 3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_damage_elsewhere_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = '{"stage": "train", "step": 0}\n'
    path.write_text(f"{row}nonsense\n{row}")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2"):
        track.read_metrics(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1"):
        track.read_metrics(path)


@pytest.mark.parametrize(
    "line",
    [
        *('{"stage": "train"}', '{"step": 1}', '{"stage": 1, "step": 1}', '{"stage": "train", "step": "x"}'),
        *('{"stage": "train", "step": 1e999}', '{"stage": "train", "step": true}', "null", "[" * 100_000),
        *('{"stage": "train", "step": 1.5}', '{"stage": "train", "step": ' + "1" * 5000 + "}"),
    ],
)
def test_a_line_that_names_no_step_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "train", "step": 0}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 .*; delete that line"):
        track.read_metrics(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "metrics.jsonl")
        with pytest.raises(UserError, match=rf"metrics\.jsonl is a (named )?{name}"):
            track.open_metrics(tmp_path / name, main=True)
        with pytest.raises(UserError, match=rf"metrics\.jsonl is a (named )?{name}"):
            track.read_metrics(tmp_path / name / "metrics.jsonl")


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert track.read_metrics(tmp_path / "metrics.jsonl") == []


def test_truncate_after_drops_the_steps_to_come_of_that_stage_alone(tmp_path: Path) -> None:
    log_steps(tmp_path, range(6))
    log_steps(tmp_path, range(4, 6), stage="validate")
    tracker = track.open_metrics(tmp_path, main=True)
    tracker.truncate_after("train", 3)
    tracker.log({"loss": 99.0}, 3)
    tracker.close()
    rows = [
        (row["stage"], row["step"], row["loss"]) for row in track.read_metrics(tmp_path / "metrics.jsonl")
    ]
    assert rows == [
        ("train", 0, 0.0),
        ("train", 1, 1.0),
        ("train", 2, 2.0),
        ("validate", 4, 4.0),
        ("validate", 5, 5.0),
        ("train", 3, 99.0),
    ]


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    tracker = track.open_metrics(tmp_path / "round-1")
    tracker.log({"loss": 1.0}, 0)
    tracker.truncate_after("train", 0)
    tracker.close()
    assert not (tmp_path / "round-1").exists()
    monkeypatch.setenv("RANK", "0")
    track.open_metrics(tmp_path / "round-1").close()
    assert (tmp_path / "round-1" / "metrics.jsonl").exists()


def test_unknown_and_missing_trackers_are_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        track.check_trackers(["tensorbord"])
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        track.check_trackers(["wandb"])


def test_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    tracker = track.JsonLines(tmp_path / "metrics.jsonl")

    class Full:
        def write(self, _: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    tracker._file.close()
    tracker._file = Full()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"metrics\.jsonl: the disk is full"):
        tracker.log({"loss": 1.0}, 0)


def test_secrets_are_hidden_at_any_depth() -> None:
    config = {
        "hub": {"token": SECRET, "hf_token": SECRET, "list": [{"api_key": SECRET}]},
        "tokenizer": "clip",
        "max_tokens": 77,
        "empty": {"password": None},
    }
    hidden = track.without_secrets(config)
    assert SECRET not in json.dumps(hidden)
    assert (hidden["tokenizer"], hidden["max_tokens"], hidden["empty"]["password"]) == ("clip", 77, None)
    assert config["hub"]["token"] == SECRET  # type: ignore[index]


def test_wandb_is_offline_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    login = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(login))
    assert track.wandb_mode() == "offline"
    login.write_text("machine example.org login user password x\n")
    assert track.wandb_mode() == "offline"
    login.write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    login.chmod(0o600)
    assert track.wandb_mode() == "online"
    login.unlink()
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert track.wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert track.wandb_mode() == "disabled"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_once_also_when_the_file_is_closed(tmp_path: Path) -> None:
    tracker = track.JsonLines(tmp_path / "metrics.jsonl")
    tracker._file.close()
    tracker._file = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115
    with pytest.raises(UserError, match="disk is full"):
        tracker.log({"loss": 1.0}, 1)
    tracker.close()
