"""Racing and its pilot as a user runs them: ``generate`` and ``run`` with ``sampler.racing``, ``calibrate``; a kill."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mitune.data.store import CandidateStore
from mitune.files import read_json
from tests.cli import main

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
RACING = (
    "sampler.steps=4", "generate.candidates=4", "generate.rows_per_unit=8", "sampler.racing.by=llr",
    "sampler.racing.at=[2]", "sampler.racing.survivors=[2]",
)  # fmt: skip
PILOT = (
    "sampler.steps=4", "calibrate.candidates=4", "calibrate.by=[llr,elbo]", "calibrate.times=1",
    "calibrate.target=elbo", "scorer.elbo.times=3", "calibrate.resamples=20", "calibrate.recall=0.5",
)  # fmt: skip


def test_a_round_with_racing(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("run", *RACING)) == 0
    assert "racing by llr dropped 8: drawing took 1.33 times less" in capsys.readouterr().out
    made = read_json(tmp_path / "run" / "summary.json")["rounds"][0]
    assert made["generate"]["candidates"] == 16
    assert made["generate"]["forwards"] == 4 * (4 * 4 + 2 * 4)
    assert made["generate"]["racing"] == {
        "by": "llr", "cuts": [{"step": 2, "survivors": 2}], "dropped": 8, "looks": 0, "saved": 32,
        "speedup": pytest.approx(4 / 3),
    }  # fmt: skip
    store = CandidateStore(tmp_path / "run" / "round-1" / "candidates")
    assert len(store.table()) == 8
    assert store.table(dropped=True)["dropped_at"].value_counts().to_dict() == {2.0: 8}
    # The held-out pictures are those of a run without racing: all of them.
    after = CandidateStore(tmp_path / "run" / "round-1" / "after").table(dropped=True)
    assert len(after) == 4
    assert "dropped_at" not in after


def test_a_killed_race_ends_as_the_uninterrupted_one(
    arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(arguments("generate", *RACING, f"run={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    assert (
        run_command(arguments("generate", *RACING), kill=["unit-000001.parquet", 1]).code == -signal.SIGKILL
    )
    assert run_command(arguments("generate", *RACING)).code == 0
    for path in (tmp_path / "whole" / "round-1" / "candidates").glob("unit-*[!n]"):
        other = tmp_path / "run" / "round-1" / "candidates" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name


def test_another_schedule_is_another_run(arguments: Arguments, refused: Refused) -> None:
    assert main(arguments("generate", *RACING)) == 0
    line = refused(arguments("generate", *RACING, "sampler.racing.survivors=[3]"))
    assert "sampler.racing.survivors ([2] there, [3] now)" in line


@pytest.mark.slow
def test_two_processes_race_the_same(
    arguments: Arguments, run_by_two: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    assert main(arguments("generate", *RACING, f"run={tmp_path / 'one'}")) == 0
    done = run_by_two(arguments("generate", *RACING))
    assert done.code == 0, done.err
    one, two = (CandidateStore(tmp_path / name / "round-1" / "candidates") for name in ("one", "run"))
    pd.testing.assert_frame_equal(one.table(dropped=True), two.table(dropped=True), rtol=1e-3)


def test_a_pilot_leaves_figures_and_a_schedule_that_works(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("calibrate", *PILOT)) == 0
    folder = tmp_path / "run" / "calibrate"
    figures = read_json(folder / "calibration.json")
    assert (figures["prompts"], figures["candidates"], figures["target"]) == (4, 4, "elbo")
    assert [row["step"] for row in figures["scores"]["llr"]["at"]] == [1, 2, 3, 4]
    assert [row["step"] for row in figures["scores"]["elbo"]["at"]] == [
        2,
        4,
    ]  # every second step, and the last
    assert (figures["scores"]["llr"]["look"], figures["scores"]["elbo"]["look"], figures["finish"]) == (
        0,
        2,
        6,
    )
    assert figures["looks"] == 16 * 2 * 2
    assert figures["forwards"] == 16 * (2 * 4 + 2 * 2 + 6)
    assert figures["scores"]["llr"]["at"][-1]["tau_own"]["mean"] == pytest.approx(1)
    page, shown = (folder / "calibration.md").read_text(), capsys.readouterr().out
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split()[1] for row in rows] == ["`llr`", "`elbo`"]
    assert all(row in shown for row in rows)
    assert "Running `elbo` (2 forwards a look)" in page
    assert (folder / "calibration.png").read_bytes().startswith(b"\x89PNG")
    table = pq.read_table(next((folder / "candidates").glob("*.parquet")))
    assert {"llr@1", "llr@4", "elbo@2", "elbo@4", "elbo"} <= set(table.column_names)
    # Another share of the best costs nothing, and what is proposed goes into the same run folder.
    before = {path: path.stat().st_mtime_ns for path in (folder / "candidates").iterdir()}
    assert main(arguments("calibrate", *PILOT, "calibrate.recall=0.25")) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "candidates").iterdir()} == before
    command = read_json(folder / "calibration.json")["command"]
    assert command
    given = [*PILOT, "calibrate.recall=0.25", *command.split()]
    assert main(arguments("generate", *given)) == 0


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (
            ["calibrate.by=[elbo]", "calibrate.times=null"],
            ["calibrate.by: elbo is not free", "calibrate.times=2"],
        ),
        (["calibrate.by=[oracle]"], ["calibrate.by: oracle judges finished pictures only"]),
        (["calibrate.by=[]"], ["calibrate.by is empty"]),
        (["calibrate.target=blip"], ["calibrate.target", "no score 'blip'"]),
        (
            ["calibrate.target=oracle"],
            ["calibrate.target: the oracle judges prompts of the embedded world only"],
        ),
        (["calibrate.target=null", "select=random"], ["calibrate.target=contrast"]),
        (["calibrate.k=4"], ["calibrate.k=4", "calibrate.candidates=4"]),
        (["calibrate.recall=0"], ["calibrate.recall"]),
        (["calibrate.recall=1.5"], ["calibrate.recall=1.5"]),
        (["sampler.steps=1"], ["sampler.steps=1"]),
        (["sampler.eta=0", "scorers=[mi]"], ["calibrate.by: llr needs a stochastic sampler"]),
        (["prompts.limit=1", "calibrate.prompts=1"], ["calibrate.prompts=1", "at least 2"]),
    ],
)
def test_what_a_pilot_refuses(
    overrides: list[str], hints: list[str], arguments: Arguments, refused: Refused, tmp_path: Path
) -> None:
    line = refused(arguments("calibrate", *PILOT, *overrides))
    for hint in hints:
        assert hint in line
    assert not (tmp_path / "run" / "calibrate" / "candidates").exists()


def test_a_race_that_cannot_be_is_refused_before_the_model_is_opened(
    arguments: Arguments, refused: Refused
) -> None:
    given = [
        *RACING,
        "model.path=nobody/nowhere",
        "sampler.racing.survivors=[1]",
        "select.k=2",
        "generate.keep=2",
    ]
    assert "survivors=[1]: 2 candidates a prompt must be left" in refused(arguments("generate", *given))
