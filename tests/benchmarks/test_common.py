"""What the benchmarks share: turns, ratios, the record."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common
from mitune.errors import UserError


def test_every_arm_runs_once_a_round_and_none_is_always_first() -> None:
    calls: list[str] = []
    arms = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = common.interleave(arms, repeats=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine slows down tenfold: the medians of the arms say 1.0, the rounds say 2.
    ratio = common.paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert ratio["median"] == 2.0
    assert ratio["quartiles"] == [2.0, 2.0] == ratio["ci95"]
    assert ratio["values"] == [2.0, 2.0, 2.0]


def test_the_interval_holds_the_median_and_repeats_itself() -> None:
    ours, theirs = [1.0, 1.1, 0.9, 1.3, 1.05], [1.0] * 5
    ratio = common.paired_ratio(ours, theirs)
    low, high = ratio["ci95"]
    assert 0.9 <= low <= ratio["median"] == 1.05 <= high <= 1.3
    assert low < high
    assert ratio == common.paired_ratio(ours, theirs)
    with pytest.raises(ValueError, match="cannot be paired"):
        common.paired_ratio([1.0], [1.0, 2.0])


def test_targets_are_judged_by_the_median() -> None:
    seconds = {"ours": [1.03, 1.03], "theirs": [1.0, 1.0]}
    assert common.comparison("x", seconds, "ours", "theirs", at_most=1.02)["reached"] is False
    assert common.comparison("x", seconds, "ours", "theirs", at_most=1.05)["reached"] is True
    assert common.comparison("x", seconds, "ours", "theirs")["reached"] is None
    assert common.figure("x", 0.5, "", at_least=0.45)["reached"] is True
    assert common.figure("x", 0.4, "", at_least=0.45)["reached"] is False
    assert common.figure("x", None, "", at_least=0.45)["reached"] is None


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_two_different_things_are_not_compared(difference: float) -> None:
    assert common.agree("pictures", 0.1, 0.1) == 0.1
    with pytest.raises(RuntimeError, match="pictures: the two sides differ"):
        common.agree("pictures", difference, 0.1)


def test_the_record_says_what_was_measured_where(tmp_path: Path) -> None:
    seconds = {"ours": [1.0, 1.2], "theirs": [2.0, 2.0]}
    compared = common.comparison("a against b", seconds, "ours", "theirs", 0.5, {"difference": 0.0}, "a note")
    number = common.figure("rate", 12.5, "rows/s", at_least=20)
    record = common.write("trial", {"batch": 3}, [compared], [number], tmp_path, load_before=0.25)
    assert json.loads((tmp_path / "trial.json").read_text()) == record
    assert record["schema"] == 1
    assert record["settings"] == {"batch": 3}
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["processor"]
    assert record["machine"]["load_average_before"] == 0.25
    assert record["versions"]["torch"] != "not installed"
    assert set(record["git"]) == {"commit", "changed"}
    page = (tmp_path / "trial.md").read_text()
    assert "| a against b | 0.5500 (0.5000–0.6000) | 0.5250–0.5750 | ≤ 0.5 | no | 1.1 / 2 |" in page
    assert "| rate | 12.5 rows/s | ≥ 20 | no |" in page
    assert "- a against b: a note" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial.json", "trial.md"]


def test_a_command_writes_and_prints_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only")
    common.add_output(parser, "trial")
    options = parser.parse_args(["--out", str(tmp_path)])
    found = {
        "settings": common.settings_of(options, "only"),
        "comparisons": [],
        "figures": [common.figure("rows", 3.0, "")],
        "more": {"table": [1, 2]},
    }
    assert common.run(options, lambda: found) == 0
    record = json.loads((tmp_path / "trial.json").read_text())
    assert record["settings"] == {"device": "cpu"}
    assert record["table"] == [1, 2]
    assert capsys.readouterr().out == (tmp_path / "trial.md").read_text() + "\n"
    found["page"] = lambda record: f"{len(record['table'])} rows"
    assert common.run(options, lambda: found) == 0
    assert capsys.readouterr().out == "2 rows\n"
    assert (tmp_path / "trial.md").read_text() == "2 rows"


def test_a_command_tells_what_the_user_can_mend_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure() -> dict[str, Any]:
        raise UserError("no GPU here; take another machine")

    options = argparse.Namespace(name="trial", out=str(tmp_path), device="cpu")
    assert common.run(options, measure) == 2
    assert capsys.readouterr().err == "no GPU here; take another machine\n"
    assert not list(tmp_path.iterdir())
