"""A finished run of two rounds on the tiny pipeline, made once; every test gets a copy of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.cli import main
from tests.end_to_end.conftest import Arguments, commands

_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


@pytest.fixture(scope="session")
def made(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arguments]:
    """The folder of the run, and what makes commands like the one that made it."""
    folder = tmp_path_factory.mktemp("verbs")
    make = commands(tiny_pipeline_folder, folder)
    assert main(make("run", "rounds=2", "generate.keep=1000", "train.keep_checkpoints=2")) == 0
    return folder / "run", make


@pytest.fixture
def run(made: tuple[Path, Arguments], tmp_path: Path) -> Path:
    """A copy of the run."""
    return shutil.copytree(made[0], tmp_path / "runs" / "mine")


@pytest.fixture
def old(run: Path) -> Path:
    """The same as a version without digests, and without a note of the keys, left it."""
    for path in [*run.rglob("done/*.json"), *run.rglob("unit-*.json"), *run.rglob("state.json")]:
        whole = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in whole.items() if "sha256" not in name}))
    config = run / "config.yaml"
    config.write_text(config.read_text().partition("\n")[2])
    return run


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """``shown(arguments)``: what a command that ends well prints."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.communicate("\n")


@pytest.fixture
def held() -> Callable[[Path], AbstractContextManager[None]]:
    """``with held(folder):`` another process has the folder's lock, as a command at work there has."""
    return _held
