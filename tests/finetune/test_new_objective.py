"""A new objective is a function, a row and a test: one is added here, to a copy of the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mitune

ROW = """
    Objective(
        "toy", "a toy", "toy:toy", pairs=True, anchor="start", strength="beta_toy",
        own=key(0.5, "strength of the toy", above=0, high=10),
    ),
)  # fmt: skip
"""
FUNCTION = """
from mitune.finetune.objectives import mse

def toy(denoiser, batch, strength):
    print("toy", strength, batch.rejected.shape == batch.z0.shape)
    return strength * mse(denoiser, batch)
"""
COMMANDS = """
import json, sys
from mitune.cli import main
print(json.dumps([main(words) for words in json.loads(sys.argv[1])]))
"""
SMALL = (
    "experiment=shapes_attention", "prompts.limit=2", "generate.candidates=2", "select.k=1", "sampler.steps=2",
    "scorers=[mi]", "select.by=mi", "train.steps=2", "train.batch_size=2", "evaluate.prompts.limit=2",
    "evaluate.candidates=1", "evaluate.scorers=[mi]", "adapter.rank=2", "train.objective=toy",
)  # fmt: skip


@pytest.fixture
def with_toy(tmp_path: Path) -> Path:
    """A folder to import the package from, linked file by file but for the catalogue."""
    source, copy = Path(mitune.__file__).parent, tmp_path / "lib" / "mitune"
    (copy / "finetune").mkdir(parents=True)
    for path in (*source.iterdir(), *(source / "finetune").iterdir()):
        if path.name not in ("finetune", "__pycache__", "catalogue.py"):
            (copy / path.relative_to(source)).symlink_to(path)
    rows = (source / "finetune" / "catalogue.py").read_text()
    assert rows.count("\n)  # fmt: skip\n") == 1
    (copy / "finetune" / "catalogue.py").write_text(rows.replace("\n)  # fmt: skip\n", ROW))
    (copy.parent / "toy.py").write_text(FUNCTION)
    return copy.parent


def test_an_objective_is_a_function_and_a_row_with_its_strength(with_toy: Path, tmp_path: Path) -> None:
    run = [*SMALL, f"run={tmp_path / 'run'}", "select.losers=1"]
    commands = [
        ["run", *run, "train.beta_toy=0.25"],
        ["run", *run, "select.losers=0"],
        ["run", *run, "train.fresh=true"],
        ["run", *run, "train.beta_toy=0"],
    ]
    environment = {**os.environ, "PYTHONPATH": str(with_toy)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip().splitlines()[-1:] == ["[0, 2, 2, 2]"], done.stderr
    assert "toy 0.25 True" in done.stdout
    assert (tmp_path / "run" / "round-1" / "adapter").is_dir()
    refusals = [line for line in done.stderr.splitlines() if "toy" in line]
    for line, said in zip(
        refusals[-3:],
        (
            "train.objective=toy compares winners with losers; add select.losers=1",
            "train.objective=toy is held to the adapter that drew the pictures, and train.fresh=true drops",
            "train.beta_toy=0.0: must be above 0",
        ),
        strict=True,
    ):
        assert said in line
