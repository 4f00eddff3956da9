"""SIGKILL anywhere, then the same command: it goes on, redoes nothing finished, and ends with the same bits."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLOCK = {"seconds", "time", "run", "own_sha256", "made"}


def without_clock(value: Any) -> Any:
    """What was measured with a clock, or names the folder, left out."""
    if isinstance(value, dict):
        return {
            key: without_clock(item)
            for key, item in value.items()
            if key not in CLOCK and not key.endswith(("_per_second", "seconds"))
        }
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """Everything a run made, comparable: files by their hash, JSON without clocks."""
    result: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or name in (".lock", "report.html", "config.yaml") or "checkpoints/" in name:
            continue
        if path.suffix == ".json":
            result[name] = without_clock(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            result[name] = [without_clock(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Any]]:
    """What complete runs made, by their overrides."""
    return {}


# Where the process dies: just before the n-th file with this in its path is put in place.
GENERATE = [
    ("candidates/plan.json", 1),
    ("candidates/unit-000000.safetensors", 1),
    ("candidates/unit-000002.parquet", 1),
]
LATER = [
    ("done/generate.json", 1),
    ("round-1/dataset", 1),
    ("candidates_examples.json", 1),
    ("checkpoints/", 1),
    ("checkpoints/", 3),
    ("round-1/adapter", 1),
    ("done/train.json", 1),
    ("baseline-", 4),
    ("after/unit-000001.parquet", 1),
    ("evaluation.json", 1),
    ("summary.json", 1),
    ("report.html", 1),
]


@pytest.mark.parametrize(("part", "count"), [*GENERATE, *LATER])
def test_a_killed_run_ends_as_the_uninterrupted_one(
    part: str,
    count: int,
    arguments: Callable[..., list[str]],
    run_command: Callable[..., Any],
    uninterrupted: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    if not uninterrupted:
        whole = run_command(arguments("run", f"run={tmp_path / 'whole'}"))
        assert whole.code == 0, whole.err
        uninterrupted.update(contents(tmp_path / "whole"))
    killed = run_command(arguments("run"), kill=[part, count])
    assert killed.code == -signal.SIGKILL, killed.err
    folder = tmp_path / "run"
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("unit-*.parquet")}
    time.sleep(0.01)
    again = run_command(arguments("run"))
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(folder) == uninterrupted
    assert not list(folder.rglob(".partial-*"))


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "unipc", "heun"])
def test_a_killed_race_by_a_solver_with_memory_ends_with_the_same_bits(
    sampler: str, arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    words = arguments(
        "generate", f"sampler={sampler}", "sampler.steps=4", "scorers=[mi]", "sampler.racing.by=mi",
        "sampler.racing.at=[2]", "sampler.racing.survivors=[2]",
    )  # fmt: skip
    assert run_command([*words, f"run={tmp_path / 'whole'}"]).code == 0
    killed = run_command(words, kill=["candidates/unit-000002.parquet", 1])
    assert killed.code == -signal.SIGKILL, killed.err
    assert run_command(words).code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_second_round_survives_too(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(arguments("run", "rounds=2", f"run={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    killed = run_command(arguments("run", "rounds=2"), kill=["round-2/checkpoints/", 2])
    assert killed.code == -signal.SIGKILL, killed.err
    assert run_command(arguments("run", "rounds=2")).code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    # A finished run can be taken further: one round first, then a second, ends as two at once.
    assert run_command(arguments("run", f"run={tmp_path / 'stepwise'}")).code == 0
    assert run_command(arguments("run", "rounds=2", f"run={tmp_path / 'stepwise'}")).code == 0
    assert contents(tmp_path / "stepwise") == contents(tmp_path / "whole")


def test_stages_one_by_one_are_the_run(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    for stage in ("generate", "select", "train", "evaluate"):
        killed = run_command(arguments(stage), kill=[f"done/{stage}.json", 1])
        assert killed.code == -signal.SIGKILL, killed.err
        done = run_command(arguments(stage))
        assert done.code == 0, done.err
    assert run_command(arguments("run")).code == 0
    assert run_command(arguments("run", f"run={tmp_path / 'whole'}")).code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
