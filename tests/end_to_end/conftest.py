"""Whole commands on a tiny random pipeline: their arguments, and a process that runs and kills them quickly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.server import ENVIRONMENT, ROOT, Done, Server
from mitune.verbs.demo import PRESET

TRAIN = """a red circle and a blue square
a blue circle and a red square
a green star on a red square
a red cat on the left of a blue dog
"""
HELD_OUT = """a green circle and a red star
a yellow star and a blue dog
"""

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(tiny_pipeline_folder: Path, tmp_path: Path) -> Arguments:
    """``arguments(stage, *overrides)``: a command on the tiny pipeline that takes a second or two."""
    return commands(tiny_pipeline_folder, tmp_path)


def commands(pipeline: Path, folder: Path) -> Arguments:
    """What makes commands on a pipeline, in a folder."""
    train, held_out = folder / "prompts.txt", folder / "held out.txt"
    train.write_text(TRAIN)
    held_out.write_text(HELD_OUT)

    def make(stage: str, *overrides: str) -> list[str]:
        return [
            stage,
            PRESET,
            f"run={folder / 'run'}",
            f"model.path={pipeline}",
            "model.device=cpu",
            "prompts=file",
            f"prompts.source={train}",
            "evaluate=file",
            "evaluate.scorers=[mi]",
            f"evaluate.prompts.source={held_out}",
            "scorers=[mi,llr]",
            "select=mi",
            "sampler.steps=2",
            "generate.candidates=3",
            "generate.rows_per_unit=3",
            "generate.keep=2",
            "select.k=1",
            "generate.guidance=null",
            "adapter.targets=[]",
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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands in processes of their own that need not import anything."""
    server = Server(tmp_path_factory.mktemp("commands"))
    server.run([["--version"]])  # its imports are nobody's test
    yield server
    server.close()


@pytest.fixture(scope="session")
def run_command(server: Server) -> Callable[..., Done]:
    """``run_command(arguments, kill=None, death=SIGKILL)``: a command in a process of its own; ``kill``: [part of a
    path, n], SIGKILL (or another signal) just before the n-th file whose path holds that part takes its final name."""

    def run(arguments: list[str], kill: list[Any] | None = None, death: int = signal.SIGKILL) -> Done:
        return server.run([arguments], {0: [*kill, death]} if kill else None)[0]

    return run


@pytest.fixture(scope="session")
def run_ranks(server: Server) -> Callable[..., list[Done]]:
    """``run_ranks(ranks, arguments, kill=None, death=SIGKILL, rank=0)``: the command by so many processes, started as
    srun would; ``arguments`` may be a list for each. ``rank``: which one gets the signal."""

    def run(
        ranks: int,
        arguments: list[Any],
        kill: list[Any] | None = None,
        death: int = signal.SIGKILL,
        rank: int = 0,
        environment: dict[str, str] | None = None,
    ) -> list[Done]:
        commands = arguments if isinstance(arguments[0], list) else [arguments] * ranks
        die = {rank: [*kill, death]} if kill else None
        return server.run(commands, die, environment={"MITUNE_PATIENCE": "4", **(environment or {})})

    return run


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
