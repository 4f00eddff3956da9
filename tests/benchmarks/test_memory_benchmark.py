"""The arithmetic of the memory benchmark, and its look at a process; the whole of it takes a quarter of an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import memory
from benchmarks.common import ROOT


def row(winners: int, gigabytes: float) -> dict[str, Any]:
    peak = {
        "pss": gigabytes,
        "anonymous": gigabytes / 2,
        "file": 0.1,
        "largest_process": gigabytes,
        "high_water": gigabytes,
    }
    return {"winners": winners, "processes": 2, "peak": peak}


def test_what_does_not_fit_is_extrapolated_by_a_line_and_said_to_be() -> None:
    base, ours = [row(1000, 5), row(2000, 8), row(4000, 14)], [row(4000, 2), row(20000, 2.2)]
    assert memory.extrapolated(base, 20000, 2) == pytest.approx(62)
    assert memory.extrapolated(base, 2000, 2) == 8
    found = {entry["name"]: entry for entry in memory.figures(ours, base, {"ours": 0.6, "base": 0.5})}
    assert found["share of it"]["value"] == pytest.approx(2.2 / 62)
    assert found["share of it, both without the floor of every process"]["value"] == pytest.approx(1 / 61)
    assert found["peak at 20000 against 4000 winners, high_water"]["value"] == pytest.approx(1.1)
    assert "extrapolated" in found["the other tree's peak at 20000 winners"]["note"]


def test_pages_that_are_written_count_as_anonymous() -> None:
    own = [psutil.Process()]
    before = memory.peaks([memory.memory_of(own)])
    held = bytearray(b"1" * 200_000_000)
    after = memory.peaks([memory.memory_of(own), []])
    assert len(held) == 200_000_000
    assert after["anonymous"] - before["anonymous"] == pytest.approx(0.2, abs=0.05)
    assert after["pss"] == pytest.approx(after["anonymous"] + after["file"], abs=0.05)


@pytest.mark.exhaustive
def test_the_whole_benchmark(tmp_path: Path) -> None:
    words = ["--base", str(ROOT), "--counts", "8", "16", "--base-counts", "4", "8", "--repeats", "1"]
    assert memory.main([*words, "--steps", "1", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "memory.json").exists()
