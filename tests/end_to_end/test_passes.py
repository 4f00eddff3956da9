"""Scoring in passes as a user runs it: scores as measured at once, a kill, two processes, bad keys."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mitune.data.selection import select
from mitune.data.store import CandidateStore
from mitune.files import read_json
from mitune.sampling.loop import sample_population
from mitune.stages import candidates
from tests.cli import main
from tests.end_to_end.conftest import commands

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
BY = "z(contrast)+z(elbo)"
SCORED = (
    "scorers=[mi,elbo,contrast]", f"select.by={BY}", "generate.candidates=6", "generate.rows_per_unit=12",
    "generate.keep=null", "generate.batch_size=4", "scorer.elbo.times=5", "scorer.contrast.times=5",
    "scorer.contrast.edits=2",
)  # fmt: skip
PASSES = "generate.passes=0.3"


def table(folder: Path) -> pd.DataFrame:
    return CandidateStore(folder / "round-1" / "candidates").table()


@pytest.fixture(scope="module")
def made(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole`` and ``passes``: the same candidates, scored at once and in passes."""
    folder = tmp_path_factory.mktemp("passes")
    arguments = commands(tiny_pipeline_folder, folder)
    assert main(arguments("generate", *SCORED, f"run={folder / 'whole'}")) == 0
    assert main(arguments("generate", *SCORED, PASSES, f"run={folder / 'passes'}")) == 0
    return folder


def test_who_stays_has_the_same_scores_and_who_leaves_has_none(made: Path) -> None:
    whole, passed = table(made / "whole"), table(made / "passes")
    stayed = passed["left_after"].isna()
    assert 0 < stayed.sum() < len(passed)
    assert (stayed.groupby(passed["prompt_id"]).sum() >= 1).all()
    for name in ("contrast", "elbo"):
        np.testing.assert_allclose(passed[name][stayed], whole[name][stayed], rtol=1e-4, atol=1e-4)
        assert passed[name][~stayed].isna().all()
    pd.testing.assert_series_equal(passed["mi"], whole["mi"])  # all else is measured for all
    assert passed[BY].notna().equals(stayed)
    chosen = select(passed, BY, 1)
    assert chosen["left_after"].isna().all()
    assert not passed["kept"][~stayed].any()


def test_what_it_saved_is_counted(made: Path) -> None:
    folder = made / "passes" / "round-1"
    figures = read_json(folder / "done" / "generate.json")["passes"]
    left = table(made / "passes")["left_after"]
    assert figures["left"] == left.notna().sum()
    whole = read_json(made / "whole" / "round-1" / "done" / "generate.json")
    spent = read_json(folder / "done" / "generate.json")
    assert whole["forwards"] - spent["forwards"] == figures["whole"] - figures["rows"] > 0


def test_the_best_of_the_kept_are_among_those_that_have_the_score(
    arguments: Arguments, refused: Refused, tmp_path: Path
) -> None:
    own = [word for word in SCORED if not word.startswith("generate.keep")]
    assert main(arguments("generate", *own, PASSES, "generate.keep=6")) == 0
    place = tmp_path / "run" / "round-1" / "candidates"
    there = table(tmp_path / "run")["elbo"].dropna()
    words = [f"score.source={place}", "score.scorers=[mi]", "score.by=elbo", "score.top_fraction=1"]
    assert main(arguments("score", *words)) == 0
    top = pd.read_parquet(tmp_path / "run" / "round-1" / "candidates-top-1")
    assert sorted(top["elbo"]) == sorted(there)
    assert len(there) < len(table(tmp_path / "run"))
    assert "left_after" not in pd.read_parquet(place.with_name("candidates-scores.parquet"))


def test_a_killed_command_ends_as_the_uninterrupted_one(
    made: Path, arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    command = arguments("generate", *SCORED, PASSES)
    assert run_command(command, kill=["unit-000001.parquet", 1]).code == -signal.SIGKILL
    assert run_command(command).code == 0
    for path in (made / "passes" / "round-1" / "candidates").glob("unit-*[!n]"):
        other = tmp_path / "run" / "round-1" / "candidates" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name


def test_told_to_leave_it_keeps_its_batches(
    made: Path, arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[int] = []

    def counting(denoiser: Any, condition: Any, seeds: list[int], *rest: Any) -> Any:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(seeds))
        return sample_population(denoiser, condition, seeds, *rest)

    monkeypatch.setattr(candidates, "sample_population", counting)
    command = arguments("generate", *SCORED, PASSES)
    assert main(command) != 0
    assert list((tmp_path / "run" / "round-1" / "candidates").glob("begun-*"))
    monkeypatch.undo()
    assert main(command) == 0
    pd.testing.assert_frame_equal(table(tmp_path / "run"), table(made / "passes"))


@pytest.mark.slow
def test_two_processes_score_the_same(
    made: Path, arguments: Arguments, run_by_two: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    done = run_by_two(arguments("generate", *SCORED, PASSES))
    assert done.code == 0, done.err
    pd.testing.assert_frame_equal(table(tmp_path / "run"), table(made / "passes"), rtol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (["generate.passes=0"], ["generate.passes=0"]),
        (["generate.passes=0.9"], ["generate.passes=0.9", "at most 0.5"]),
        ([PASSES, "select.difficulty=1"], ["select.difficulty=1", "generate.passes=null"]),
        ([PASSES, "select.fraction=0.5"], ["select.fraction=0.5", "generate.passes=null"]),
    ],
)
def test_what_is_refused(
    overrides: list[str], hints: list[str], arguments: Arguments, refused: Refused, tmp_path: Path
) -> None:
    line = refused(arguments("generate", *SCORED, *overrides))
    for hint in hints:
        assert hint in line
    assert not (tmp_path / "run" / "round-1").exists()


def test_another_choice_than_was_raced_for_is_refused(
    tiny_pipeline_folder: Path, refused: Refused, made: Path
) -> None:
    arguments = commands(tiny_pipeline_folder, made)
    for changed in ("select.k=2", "select.losers=1", "select.by=elbo"):
        command = arguments("select", *SCORED, PASSES, "generate.keep=6", f"run={made / 'all kept'}")
        if not (made / "all kept").exists():
            assert main(["generate", *command[1:]]) == 0
        key = changed.partition("=")[0]
        assert f"{key} (" in refused([*command, changed])


@pytest.mark.parametrize("changed", [["scorers=[mi_image,elbo]", "select.by=elbo"], ["select.by=mi"]])
def test_where_nothing_is_measured_in_passes_it_is_said(
    changed: list[str], arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``mi_image``'s pass gives ``elbo`` as well."""
    assert main(arguments("generate", *SCORED, "scorer.mi_image.times=5", PASSES, *changed)) == 0
    assert "note: generate.passes=0.3: select.by=" in capsys.readouterr().out
    assert table(tmp_path / "run")["elbo"].notna().all()
    assert "passes" not in read_json(tmp_path / "run" / "round-1" / "done" / "generate.json")


def test_where_nobody_can_leave_all_get_their_scores(
    arguments: Arguments, tmp_path: Path, made: Path
) -> None:
    assert main(arguments("generate", *SCORED, PASSES, "select.k=6", "generate.keep=null")) == 0
    found, whole = table(tmp_path / "run"), table(made / "whole")
    assert found["left_after"].isna().all()
    np.testing.assert_allclose(found["contrast"], whole["contrast"], rtol=1e-4, atol=1e-4)
