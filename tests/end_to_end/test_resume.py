"""SIGKILL anywhere, then the same command: it goes on, redoes nothing finished, and ends with the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.server import ENVIRONMENT, ROOT

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


# Dies by itself: in the middle of the third piece of the set, and of the second chunk of encoded texts.
_DIES = """
import os, signal, sys
from mitune.data import pieces
from mitune.finetune import encoded
from tests.cli import main

encoded.HELD, encoded.CHUNK, written = 0, 2, []
write = pieces.Pieces.write

def rows(given):
    for row in given:
        yield row
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

def dying_write(self, number, given):
    written.append(number)
    write(self, number, rows(given) if sys.argv[1] == "pieces" else given)

class Dying(encoded.Scratch):
    def write(self, count, encode):
        def dying(part):
            if part.start:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(part)
        return super().write(count, dying)

pieces.Pieces.write = dying_write
if sys.argv[1] == "texts":
    from mitune.finetune import trainer
    trainer.Scratch = Dying
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.exhaustive
def test_a_kill_between_files_that_are_there_for_a_while_leaves_nothing_of_them(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    words = ["generate.batch_size=1", "train.steps=1"]
    assert run_command(arguments("run", *words, f"run={tmp_path / 'whole'}")).code == 0
    for what, left in (("pieces", "dataset-*/pieces/piece-*"), ("texts", "encoded-*/rows-0")):
        killed = subprocess.run(
            [sys.executable, "-c", _DIES, what, *arguments("run", *words)],
            capture_output=True, text=True, env=os.environ | ENVIRONMENT, cwd=ROOT, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        assert list((tmp_path / "run" / "round-1").glob(f".partial-{left}"))
    assert run_command(arguments("run", *words)).code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not list((tmp_path / "run").rglob(".partial-*"))


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
