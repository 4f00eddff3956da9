"""Whole commands on a tiny random pipeline: their arguments, and a process that runs and kills them quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TRAIN = """a red circle and a blue square
a blue circle and a red square
a green star on a red square
a red cat on the left of a blue dog
"""
HELD_OUT = """a green circle and a red star
a yellow star and a blue dog
"""

ROOT = Path(__file__).parents[2]
# Also where the package is not installed; one thread, as many processes may be at work.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(tiny_pipeline_folder: Path, tmp_path: Path) -> Arguments:
    """``arguments(stage, *overrides)``: a command on the tiny pipeline that takes a second or two."""
    train, held_out = tmp_path / "prompts.txt", tmp_path / "held out.txt"
    train.write_text(TRAIN)
    held_out.write_text(HELD_OUT)

    def make(stage: str, *overrides: str) -> list[str]:
        return [
            stage,
            f"run={tmp_path / 'run'}",
            f"model.path={tiny_pipeline_folder}",
            "model.device=cpu",
            "prompts=file",
            f"prompts.source={train}",
            "evaluate=file",
            f"evaluate.prompts.source={held_out}",
            "scorers=[mi,llr]",
            "select=mi",
            "sampler.steps=2",
            "generate.candidates=3",
            "generate.rows_per_unit=3",
            "generate.keep=2",
            "select.k=1",
            "adapter.rank=2",
            "adapter.dropout=0.1",
            "train.steps=4",
            "train.batch_size=2",
            "train.checkpoint_every=1",
            "evaluate.candidates=2",
            "evaluate.examples=2",
            *overrides,
        ]

    return make


@dataclass(frozen=True)
class Done:
    """How a command ended. ``code`` is negative for a signal."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Done]]:
    """``run_command(arguments, kill=None)``: a command in a process of its own; ``kill``: [part of a path, n], SIGKILL
    just before the n-th file whose path holds that part takes its final name."""
    folder = tmp_path_factory.mktemp("commands")
    launcher = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("launcher.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    count = 0

    def run(arguments: list[str], kill: list[Any] | None = None) -> Done:
        nonlocal count
        count += 1
        out, err = folder / f"{count}.out", folder / f"{count}.err"
        request = {"arguments": arguments, "kill": kill, "out": str(out), "err": str(err)}
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(json.dumps(request) + "\n")
        launcher.stdin.flush()
        code = int(launcher.stdout.readline())
        return Done(code, out.read_text(), err.read_text())

    yield run
    assert launcher.stdin is not None
    launcher.stdin.close()
    launcher.wait(timeout=30)


@pytest.fixture(scope="session")
def run_by_two() -> Callable[[list[str]], Done]:
    """``run_by_two(arguments)``: the command by two processes of ``accelerate launch``."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(ROOT / "launch" / "cpu_2.yaml"), "-m", "mitune"]
    environment = os.environ | ENVIRONMENT | {"ACCELERATE_USE_CPU": "true", "MASTER_PORT": "0"}

    def run(arguments: list[str]) -> Done:
        done = subprocess.run(
            [*launch, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
