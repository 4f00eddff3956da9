"""Samplers by the command line: a new one is a file and a row of the catalogue, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.docs import ROOT
from tests.cli import main

SMALL = [
    "experiment=shapes", "prompts.limit=2", "generate.candidates=3", "generate.guidance=2", "generate.keep=3",
    "select.k=1", "sampler.steps=5", "scorers=[mi]", "select.by=mi",
]  # fmt: skip
TOY = """
from mitune.sampling.solver import LinearSolver


def toy(grid, settings):
    return LinearSolver(grid, [at.step(0.0, std=0.0, wide=0.0) for at in grid.intervals])
"""
ROW = '    SamplerPart("toy", "as ddim without noise", "mitune.sampling.toy:toy", noise="never"),\n'


def drawn(run: Path) -> tuple[torch.Tensor, pd.DataFrame]:
    """Every kept latent of a run, and the table of its candidates."""
    latents = [value for path in sorted(run.rglob("*.safetensors")) for value in load_file(path).values()]
    return torch.cat(latents), pd.concat(pd.read_parquet(path) for path in sorted(run.rglob("*.parquet")))


@pytest.mark.parametrize("model", ["shapes", "shapes_flow"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"])
def test_five_steps_of_a_solver_draw_and_score(model: str, sampler: str, tmp_path: Path) -> None:
    assert main(["generate", f"model={model}", f"run={tmp_path}", *SMALL, f"sampler={sampler}"]) == 0
    latents, table = drawn(tmp_path)
    assert latents.isfinite().all()
    assert len(table) == 6
    assert table["mi"].nunique() == 6


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "heun"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scorers=[llr]", "select.by=llr"], "llr needs a stochastic sampler"),
        (["search.by=das", "search.reward=mi"], "no noise"),
    ],
)
def test_a_sampler_without_noise_has_no_density_and_nothing_to_choose(
    words: list[str], said: str, sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"run={tmp_path / 'run'}", *SMALL, f"sampler={sampler}", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_grid_of_karras_is_refused_on_a_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [f"run={tmp_path / 'run'}", "model=shapes_flow", "sampler=unipc", "sampler.spacing=karras"]
    assert main(["generate", *SMALL, *own]) == 2
    assert "sampler.spacing=karras is for diffusions" in capsys.readouterr().err


def test_noisy_solvers_are_steered_and_raced(tmp_path: Path) -> None:
    noisy = [*SMALL, "sampler=dpmpp_2m_sde", "scorers=[mi,llr]", "select.by=llr"]
    steered = ["search.by=das", "search.reward=llr", "sampler.spacing=karras", f"run={tmp_path / 'steered'}"]
    assert main(["generate", *noisy, *steered]) == 0
    assert drawn(tmp_path / "steered")[1]["llr"].notna().all()
    raced = ["sampler.racing.by=llr", "sampler.racing.at=[2]", "sampler.racing.survivors=[2]"]
    assert main(["generate", *noisy, *raced, f"run={tmp_path / 'raced'}"]) == 0
    assert drawn(tmp_path / "raced")[0].isfinite().all()


def test_mi_steers_from_where_guidance_begins(tmp_path: Path) -> None:
    words = ["sampler=ddim", "search.by=das", "search.reward=mi", "sampler.guidance_interval=[0,500]"]
    assert main(["generate", f"run={tmp_path}", *SMALL, *words]) == 0
    assert drawn(tmp_path)[1]["mi"].notna().all()


@pytest.mark.parametrize(("spacing", "said"), [("leading", 2), ("trailing", 0)])
def test_what_a_version_with_other_steps_began_is_not_gone_on_with(
    spacing: str, said: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sampler=dpmpp_2m", f"sampler.spacing={spacing}", "generate.rows_per_unit=3"]
    command = ["generate", f"run={tmp_path}", *SMALL, *words]
    assert main(command) == 0
    folder = tmp_path / "round-1" / "candidates"
    made = json.loads((folder / "model.json").read_text())
    made.pop("steps", None)  # as that version left it
    (folder / "model.json").write_text(json.dumps(made))
    assert main(command) == 0  # finished: nothing is drawn
    (folder / "unit-000001.parquet").unlink()
    capsys.readouterr()
    assert main(command) == said
    assert ("laid the steps of this sampler otherwise" in capsys.readouterr().err) == (said == 2)


def test_a_guidance_interval_saves_the_null_branch_outside_of_it(tmp_path: Path) -> None:
    words = ["sampler.steps=10", "sampler.spacing=trailing"]
    forwards, found = [], []
    for number, own in enumerate(["null", "[300,800]"]):
        run = tmp_path / str(number)
        assert main(["generate", f"run={run}", *SMALL, *words, f"sampler.guidance_interval={own}"]) == 0
        forwards.append(json.loads((run / "round-1" / "done" / "generate.json").read_text())["forwards"])
        found.append(drawn(run)[1])
    assert forwards == [6 * 20, 6 * (10 + 5)]  # times 799, 699, 599, 499 and 399 lie within
    assert (found[1]["mi"] > 0).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sampler.guidance_interval=[800,300]"], "the first time is not below the second"),
        (["sampler.guidance_interval=[300]"], "give two numbers"),
        (["sampler.guidance_interval=[0,2000]"], "at most 1000"),
        (
            ["sampler.guidance_interval=[1,2]", "sampler.racing.by=mi", "sampler.racing.speedup=1.2"],
            "sampler.racing.survivors=",
        ),
        (["sampler.guidance_interval=[1,2]"], "none of the steps' times"),
        (["sampler.guidance_interval=[300,500]", "scorer.mi.t_min=700"], "no visited time lies above"),
        (
            [
                "sampler.guidance_interval=[0,500]",
                "scorers=[llr]",
                "select.by=llr",
                "sampler.racing.by=llr",
                "sampler.racing.at=[2]",
                "sampler.racing.survivors=[1]",
            ],
            "llr tells nothing of the candidates after step 2",
        ),
    ],
)
def test_an_interval_that_cannot_be_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"run={tmp_path / 'run'}", *SMALL, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_new_sampler_is_a_file_and_a_row(tmp_path: Path) -> None:
    package = tmp_path / "mitune"
    shutil.copytree(ROOT / "mitune", package, ignore=shutil.ignore_patterns("worlds", "__pycache__"))
    (package / "worlds").symlink_to(ROOT / "mitune" / "worlds")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (package / "sampling" / "toy.py").write_text(TOY, encoding="utf-8")
    catalogue = package / "sampling" / "catalogue.py"
    head, what, rest = catalogue.read_text(encoding="utf-8").partition('    "sampler.name",\n')
    catalogue.write_text(head + what + ROW + rest, encoding="utf-8")
    # Both in processes of their own with one thread: the order in which threads add decides the last bit.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    runs = {"toy": ["sampler.name=toy"], "known": ["sampler.name=ddim", "sampler.eta=0"]}
    for name, words in runs.items():
        done = subprocess.run(
            [sys.executable, "-m", "mitune", "generate", f"run={tmp_path / name}", *SMALL, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert torch.equal(drawn(tmp_path / "toy")[0], drawn(tmp_path / "known")[0])


@pytest.mark.parametrize("words", [(), ("scorer.mi.form=orthogonal",), ("scorer.mi.t_min=500",)])
def test_steering_by_mi_is_by_the_mi_of_the_configuration(words: tuple[str, ...], tmp_path: Path) -> None:
    steered = ("sampler=das", "search.reward=mi", *words, f"run={tmp_path}")
    assert main(["generate", *SMALL, *steered]) == 0
    _, table = drawn(tmp_path)
    assert table["reward"].tolist() == pytest.approx(table["mi"].tolist(), rel=1e-9)
