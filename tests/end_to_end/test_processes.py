"""Several processes: the same result as one, whatever their number; clear ends where one of them goes wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mitune.data.store import CandidateStore
from mitune.families.adapter_place import ADAPTER_FILE
from mitune.files import read_json
from mitune.leaving import TEMPORARY
from mitune.runs import REQUEUE

Arguments = Callable[..., list[str]]
Run = Callable[..., Any]
STILL = "adapter.dropout=0"  # masks of the dropout are drawn by each process for its share of the batch


def same_run(one: Path, other: Path, exact: bool) -> None:
    """Candidates, training set and figures of two runs are equal; adapters too, or to within rounding."""
    for name in ("candidates", "after"):
        left, right = (CandidateStore(folder / "round-1" / name).table() for folder in (one, other))
        pd.testing.assert_frame_equal(left, right, rtol=1e-4 if name == "after" else 0)
    for path in sorted((one / "round-1" / "candidates").glob("unit-*.safetensors")):
        assert path.read_bytes() == (other / "round-1" / "candidates" / path.name).read_bytes()
    arrow = "round-1/dataset/data-00000-of-00001.arrow"
    assert (one / arrow).read_bytes() == (other / arrow).read_bytes()
    left, right = (load_file(folder / "round-1" / "adapter" / ADAPTER_FILE) for folder in (one, other))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if exact:
            assert torch.equal(value, right[name])
        else:
            torch.testing.assert_close(value, right[name], rtol=0, atol=2e-5)
    marks = [read_json(folder / "round-1" / "done" / "generate.json") for folder in (one, other)]
    clock = {"seconds": 0, "own_sha256": ""}
    assert marks[0] | clock == marks[1] | clock


def disturbed(run_ranks: Run, command: list[str], run: Path, rank: int, **signalled: Any) -> list[Any]:
    """What two processes end with, of which one gets a signal."""
    return once_struck(lambda: run_ranks(2, command, rank=rank, **signalled), run, rank)


def once_struck(start: Callable[[], list[Any]], run: Path, rank: int) -> list[Any]:
    """What the processes of a run end with, of which ``rank`` gets a signal. Units go to whoever is free, so one that
    starts late may find too few left to be signalled at: such an undisturbed run is set aside and started again."""
    for attempt in range(6):
        done = start()
        if done[rank].code != 0:
            return done
        run.rename(run.with_name(f"undisturbed-{attempt}"))
    raise AssertionError(f"process {rank} was in no run at the file it is signalled at")


@pytest.fixture(scope="module")
def alone() -> dict[str, Path]:
    """Where the module's run by one process is, once it is made."""
    return {}


@pytest.fixture
def by_one(alone: dict[str, Path], arguments: Arguments, run_command: Run, tmp_path_factory: Any) -> Path:
    """The folder of an undisturbed run by one process."""
    if not alone:
        folder = tmp_path_factory.mktemp("alone") / "run"
        done = run_command(arguments("run", STILL, f"run={folder}"))
        assert done.code == 0, done.err
        alone["run"] = folder
    return alone["run"]


def test_a_run_by_three_processes_is_the_run_by_one(
    by_one: Path, arguments: Arguments, run_ranks: Run, tmp_path: Path
) -> None:
    done = run_ranks(3, arguments("run", STILL, "train.batch_size=3"))
    assert [own.code for own in done] == [0, 0, 0], done[0].err
    assert "round 1: generated 12 candidates" in done[0].out
    assert not done[1].out
    assert not done[2].out
    store = CandidateStore(tmp_path / "run" / "round-1" / "candidates")
    pd.testing.assert_frame_equal(
        store.table(), CandidateStore(by_one / "round-1" / "candidates").table(), rtol=0
    )


def test_more_processes_than_units_wait_for_the_others(
    by_one: Path, arguments: Arguments, run_ranks: Run, run_command: Run, tmp_path: Path
) -> None:
    done = run_ranks(5, arguments("generate", STILL))
    assert [own.code for own in done] == [0] * 5, done[0].err
    (line,) = done[0].err.splitlines()
    assert "5 processes for 4 units to do" in line
    assert "lower generate.rows_per_unit" in line
    # Another number of processes goes on from there.
    done = run_ranks(2, arguments("run", STILL))
    assert [own.code for own in done] == [0, 0], done[0].err
    same_run(by_one, tmp_path / "run", exact=False)


@pytest.mark.parametrize(
    ("part", "count", "rank", "again"),
    [
        ("candidates/unit-", 3, 1, 1),
        pytest.param("candidates/unit-", 3, 0, 3, marks=pytest.mark.exhaustive),
        pytest.param("round-1/dataset", 1, 0, 1, marks=pytest.mark.exhaustive),
        ("checkpoints/step-000002", 1, 0, 1),
        pytest.param("done/train.json", 1, 0, 2, marks=pytest.mark.exhaustive),
    ],
)
def test_a_process_that_is_lost_ends_the_others_and_another_number_goes_on(
    part: str,
    count: int,
    rank: int,
    again: int,
    by_one: Path,
    arguments: Arguments,
    run_ranks: Run,
    tmp_path: Path,
) -> None:
    done = disturbed(run_ranks, arguments("run", STILL), tmp_path / "run", kill=[part, count], rank=rank)
    assert done[rank].code == -signal.SIGKILL, done[rank].err
    other = done[1 - rank]
    assert other.code == 1, other.err
    assert "Traceback" not in other.err
    assert "the same command goes on from here" in other.err.splitlines()[-1]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("unit-*.parquet")}
    after = run_ranks(again, arguments("run", STILL, "train.batch_size=2" if again < 3 else "rounds=1"))
    if again == 3:  # more processes than a batch of two has items
        assert [own.code for own in after] == [2] * 3
        assert (
            sum("train.batch_size=2: must be at least the number of processes (3)" in a.err for a in after)
            == 1
        )
        after = run_ranks(1, arguments("run", STILL))
    assert all(own.code == 0 for own in after), after[0].err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list((tmp_path / "run").rglob(".partial-*"))
    same_run(by_one, tmp_path / "run", exact=False)


@pytest.mark.parametrize(
    "death", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.exhaustive)]
)
def test_all_leave_together_when_one_is_told_to(
    death: int, by_one: Path, arguments: Arguments, run_ranks: Run, tmp_path: Path
) -> None:
    signalled = {"kill": ["candidates/unit-", 2], "death": death, "rank": 1}
    done = disturbed(run_ranks, arguments("run", STILL), tmp_path / "run", **signalled)
    assert [own.code for own in done] == [TEMPORARY, TEMPORARY]
    name = signal.Signals(death).name
    assert done[1].err == f"mitune: told to leave by {name}; the same command goes on from here\n"
    assert done[0].err == ""
    assert (tmp_path / "run" / REQUEUE).exists()
    # And in the training: after the same step, with a checkpoint of it.
    done = run_ranks(2, arguments("run", STILL), kill=["checkpoints/step-000002", 1], death=death)
    assert [own.code for own in done] == [TEMPORARY, TEMPORARY], done[0].err + done[1].err
    assert (tmp_path / "run" / REQUEUE).exists()
    steps = sorted(path.name for path in (tmp_path / "run" / "round-1" / "checkpoints").glob("step-*"))
    assert steps == ["step-000002", "step-000003"]
    done = run_ranks(2, arguments("run", STILL))
    assert [own.code for own in done] == [0, 0], done[0].err
    assert not (tmp_path / "run" / REQUEUE).exists()
    same_run(by_one, tmp_path / "run", exact=False)


def test_a_mistake_ends_all_of_them_and_is_said_once(arguments: Arguments, run_ranks: Run) -> None:
    done = run_ranks(3, arguments("select"))
    assert [own.code for own in done] == [2, 2, 2]
    (line,) = "".join(own.err for own in done).splitlines()
    assert "run mitune generate" in line


def test_processes_with_other_settings_are_refused(arguments: Arguments, run_ranks: Run) -> None:
    done = run_ranks(2, [arguments("generate"), arguments("generate", "seed=7", "sampler.steps=3")])
    assert [own.code for own in done] == [2, 2]
    (line,) = "".join(own.err for own in done).splitlines()
    assert "process 1" in line
    assert "sampler.steps (2 there, 3 here), seed (0 there, 7 here)" in line


def test_a_folder_that_one_node_does_not_share_is_refused(
    arguments: Arguments, run_ranks: Run, tmp_path: Path
) -> None:
    own = tmp_path / "of this node alone"
    done = run_ranks(2, [arguments("generate"), arguments("generate", f"run={own}")])
    assert [own.code for own in done] == [2, 2]
    (line,) = "".join(own.err for own in done).splitlines()
    assert str(own) in line
    assert "give run= a folder that all nodes share" in line
    assert not own.exists()
    assert run_ranks(1, arguments("generate"))[0].code == 0


@pytest.mark.parametrize("stage", ["agree", pytest.param("calibrate", marks=pytest.mark.exhaustive)])
def test_studies_by_two_processes(stage: str, arguments: Arguments, run_ranks: Run, tmp_path: Path) -> None:
    settings = [f"{stage}.prompts=3", f"{stage}.candidates=4", f"{stage}.resamples=20"]
    settings += [
        "generate.rows_per_unit=4",
        "agree.scorers=[mi,llr]",
        "calibrate.by=[mi]",
        "calibrate.target=llr",
    ]
    settings += ["sampler.steps=3"]
    for ranks in (1, 2):
        done = run_ranks(ranks, arguments(stage, *settings, f"run={tmp_path / str(ranks)}"))
        assert all(own.code == 0 for own in done), done[0].err
    file = {"agree": "agree/agreement.json", "calibrate": "calibrate/calibration.json"}[stage]
    one, two = (read_json(tmp_path / name / file) | {"seconds": 0} for name in ("1", "2"))
    assert one == two


def test_a_lost_process_is_no_reason_to_queue_again(
    arguments: Arguments, server: Any, tmp_path: Path
) -> None:
    """A launcher that loses one process sends SIGTERM to the others: that is not the scheduler's."""
    die = {0: ["candidates/unit-", 4, signal.SIGTERM], 1: ["candidates/unit-", 1, signal.SIGKILL]}
    command, patience = arguments("generate"), {"MITUNE_PATIENCE": "4"}
    done = once_struck(lambda: server.run([command] * 2, die, environment=patience), tmp_path / "run", rank=1)
    assert [own.code for own in done] == [TEMPORARY, -signal.SIGKILL]
    assert not (tmp_path / "run" / REQUEUE).exists()


def test_one_of_several_processes_says_whose_means_it_shows(
    arguments: Arguments, run_ranks: Run, tmp_path: Path
) -> None:
    done = run_ranks(2, arguments("generate"), environment={"MITUNE_LOG_EVERY": "0.01"})
    assert [own.code for own in done] == [0, 0], done[0].err
    first, *lines = done[0].err.splitlines()
    assert f"generate in {tmp_path / 'run'}: " in first
    assert ", 2 processes; " in first
    assert any(": generate " in line and line.endswith(" (process 0)") for line in lines)
    assert not [line for line in done[1].err.splitlines() if line.startswith("mitune")]
