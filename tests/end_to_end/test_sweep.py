"""``mitune STAGE -m``: every job in its folder, what they share made once, a failure the affair of its own job."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from mitune import command
from mitune.files import read_json
from mitune.runs import RunFolder
from tests.cli import main
from tests.end_to_end.conftest import ROOT

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]


def written(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob(pattern))}


def test_a_grid_shares_its_candidates_and_each_job_is_the_run_it_would_be_alone(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    words = [
        "-m",
        f"run={folder}",
        "adapter=dora,lora",
        "select.k=1,2",
        "generate.keep=null",
        "adapter.dropout=0",
    ]
    assert main(arguments("train", *words)) == 0
    jobs = [f"adapter={adapter},select.k={k}" for adapter in ("dora", "lora") for k in (1, 2)]
    assert sorted(path.parent.name for path in folder.glob("*/sweep.json")) == sorted(jobs)
    # 4 prompts, a unit each, once: in the one store that all four look at
    units = sorted(folder.glob("shared/*/unit-*.parquet"))
    assert len(units) == 4
    stores = {(folder / job / "round-1" / "candidates").resolve() for job in jobs}
    assert stores == {units[0].parent}
    assert "| dora | 1 | 1 |" in (folder / "table.md").read_text()
    capsys.readouterr()

    alone = tmp_path / "alone"
    own = ["adapter=lora", "select.k=2", "adapter.dropout=0", f"run={alone}"]
    for stage in ("generate", "select", "train"):
        assert main(arguments(stage, *own)) == 0
    swept = RunFolder(folder / jobs[3])
    assert swept.mark(1, "train")["loss"] == RunFolder(alone).mark(1, "train")["loss"]  # type: ignore[index]
    weights = "round-1/adapter/pytorch_lora_weights.safetensors"
    assert (swept.root / weights).read_bytes() == (alone / weights).read_bytes()
    first, second = (datasets.load_from_disk(str(root / "round-1/dataset")) for root in (swept.root, alone))
    assert first["seed"] == second["seed"]
    assert first["latent"] == second["latent"]

    # The same command again does nothing; one value more runs one job more, and draws nothing.
    before = written(folder, "*.safetensors") | written(folder, "unit-*")
    assert main(arguments("train", *words)) == 0
    assert capsys.readouterr().out.count("done before") == 4
    # Of what a finished job has lost, nothing is reported as done.
    lost = next(path for path in before if "/adapter/" in str(path))
    kept = lost.read_bytes()
    lost.unlink()
    assert main(arguments("train", *words)) == 0
    assert "makes it again" in capsys.readouterr().err
    assert lost.read_bytes() == kept
    before = written(folder, "*.safetensors") | written(folder, "unit-*")
    assert (
        main(
            arguments(
                "train", *words[:2], "adapter=lora", "train.steps=choice(2)", "generate.keep=2", words[-1]
            )
        )
        == 0
    )
    after = written(folder, "*.safetensors") | written(folder, "unit-*")
    assert {path: after[path] for path in before} == before
    assert len(list(folder.glob("shared/*"))) == 1


def test_a_failed_job_ends_neither_the_sweep_nor_its_table(
    arguments: Arguments, tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, missing = tmp_path / "sweep", tmp_path / "not yet"
    words = arguments("run", "-m", f"run={folder}", f"model.path='{missing}',{tiny_pipeline_folder}")
    words = [word for word in words if word != f"model.path={tiny_pipeline_folder}"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "1 of 2 jobs failed" in shown.err
    assert str(missing) in shown.err
    notes = {path.parent: read_json(path) for path in folder.glob("*/sweep.json")}
    failed = next(place for place, note in notes.items() if note["code"] == 2)
    (done,) = notes.keys() - {failed}
    assert notes[done]["code"] == 0
    gain = read_json(done / "summary.json")["rounds"][0]["evaluate"]["difference"]["all"]["mi"]["difference"]
    assert notes[done]["value"] == gain
    assert "failed: " in (folder / "table.csv").read_text()
    # Once its reason is gone, the same command runs that job and no other.
    missing.symlink_to(tiny_pipeline_folder)
    before = (done / "summary.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (done / "summary.json").stat().st_mtime_ns == before
    assert (failed / "summary.json").is_file()


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["run", "select.k=1,9"], ["job select.k=9", "generate.candidates=3"]),
        (["run", "adapter=dora,loora"], ["loora", "did you mean 'lora'"]),
        (["run", "train.stepz=1,2"], ["train.stepz", "train.steps"]),
        (["run", "train.lr=small,0.1"], ["train.lr=small", "a number"]),
        (["run", "train.lr=interval(0,1)"], ["interval", "hydra/sweeper=optuna"]),
        (["run", "select.by=mi,z(mi)"], ["quotes"]),
        (["run"], ["nothing is swept"]),
        (["run", "run=one,two"], ["run= is the sweep's folder"]),
        (["score", "seed=1,2"], ["mitune score -m", "run"]),
        (["export", "seed=1,2"], ["mitune export -m"]),
        (["run", "seed=1,2", "hydra.sweeper.nonsense=3"], ["hydra: ", "nonsense"]),
        (["run", "seed=1,2", "launch=cpu_3"], ["launch=cpu_3", "cpu_2"]),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_begins(
    words: list[str], hints: list[str], arguments: Arguments, refused: Refused, tmp_path: Path
) -> None:
    line = refused([*arguments(words[0], "-m", f"run={tmp_path / 'sweep'}"), *words[1:]])
    for hint in hints:
        assert hint in line
    assert not (tmp_path / "sweep").exists()


def test_a_preset_alone_is_told_to_be_swept(refused: Refused) -> None:
    assert "add -m" in refused(["run", "sweep=rounds"])


def test_a_sweep_is_not_launched_itself(
    arguments: Arguments, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert "launch=NAME" in refused(arguments("run", "-m", "seed=1,2"))


@pytest.mark.parametrize(
    ("plugin", "word"),
    [
        ("joblib_launcher", "hydra/launcher=joblib"),
        ("submitit_launcher", "hydra/launcher=submitit_slurm"),
        ("optuna_sweeper", "hydra/sweeper=optuna"),
    ],
)
def test_a_plugin_that_is_not_there_is_named_with_its_extra(
    plugin: str, word: str, arguments: Arguments, refused: Refused
) -> None:
    if _has(plugin):
        pytest.skip("it is installed")
    assert "mitune[sweep]" in refused(arguments("run", "-m", "seed=1,2", word))


@pytest.mark.parametrize("code", [75, 130])
def test_a_wish_to_stop_ends_the_sweep_with_its_code(
    code: int, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = arguments("generate", "-m", "seed=1,2", f"run={tmp_path / 'sweep'}")
    asked = []

    def stopped(stage: str, given: list[str]) -> int:
        asked.append(given)
        return code

    monkeypatch.setattr(command, "run", stopped)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == code
    assert len(asked) == 1
    assert read_json(tmp_path / "sweep" / "seed=1" / "sweep.json")["code"] == code


@pytest.mark.parametrize(
    ("preset", "count", "one"),
    [
        ("candidates", 6, "generate.candidates=24,select.k=3"),
        ("adapters", 4, "adapter=lora,adapter.text_encoder=true"),
        ("real", 3, "select.real_fraction=0.25"),
        ("rounds", 2, "select=random"),
    ],
)
def test_the_papers_ablations_are_presets(
    preset: str, count: int, one: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", "--cfg", f"sweep={preset}"]) == 0
    places = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(places) == count
    assert {place.parent.name for place in places} == {preset}
    assert one in [place.name for place in places]


def test_a_preset_brings_its_fixed_part_to_every_job(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    assert main(arguments("select", "-m", "sweep=rounds", f"run={folder}", "select=mi,random")) == 0
    (mi,) = {line for line in capsys.readouterr().out.splitlines() if line.startswith("job select=mi")}
    assert mi == "job select=mi"
    assert "rounds: 3" in (folder / "select=mi" / "config.yaml").read_text()


def test_a_job_started_by_accelerate(
    arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes make the candidates that one makes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    folder = tmp_path / "sweep"
    assert main(arguments("generate", "-m", f"run={folder}", "launch=cpu_2", "seed=choice(5)")) == 0
    assert run_command(arguments("generate", "seed=5")).code == 0
    alone = sorted((tmp_path / "run" / "round-1" / "candidates").glob("unit-*.parquet"))
    assert len(alone) == 4
    for path in alone:
        swept = folder / "seed=5" / "round-1" / "candidates" / path.name
        assert swept.read_bytes() == path.read_bytes()


def _has(plugin: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "select.k=1,2"]),
        ("submitit_launcher", ["hydra/launcher=submitit_local", "select.k=1,2"]),
        (
            "optuna_sweeper",
            ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "train.lr=interval(0.0001,0.01)"],
        ),
    ],
)
def test_hydras_plugins(plugin: str, words: list[str], arguments: Arguments, tmp_path: Path) -> None:
    if not _has(plugin):
        pytest.skip(f"hydra_{plugin} is not installed: pip install 'mitune[sweep]'")
    folder = tmp_path / "sweep"
    assert main(arguments("run", "-m", f"run={folder}", "generate.keep=3", *words)) == 0
    notes = [read_json(path) for path in folder.glob("*/sweep.json")]
    assert len(notes) == 2
    assert all(isinstance(note["value"], float) for note in notes)
    assert len(list(folder.glob("shared/candidates-*"))) == 1
    assert len(list(folder.glob("shared/baseline-*"))) == 1
