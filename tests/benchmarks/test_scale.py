"""The benchmark of a large run, its pieces at a small size; the whole of it is exhaustive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import common, results_tables
from benchmarks import scale as benchmark
from mitune.data.store import CandidateStore

SMALL = ["--prompts", "12", "--candidates", "4", "--rows-per-unit", "8", "--repeats", "1", "--pictures", "8"]


def test_the_simulated_units_are_whole_and_keep_winner_and_worst(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    assert benchmark.write_candidates(store, 5, 4, 8, 2) == 3
    table = store.table()
    assert store.missing() == []
    kept = table[table["kept"]].groupby("prompt_id")["contrast"]
    every = table.groupby("prompt_id")["contrast"]
    assert (kept.max() == every.max()).all()
    assert (kept.min() == every.min()).all()
    assert store.latents(table[table["kept"]]).shape == (10, *benchmark.LATENT)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_start_opens_three_files_a_unit(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path / "round-1" / "candidates")
    units = benchmark.write_candidates(store, 80, 4, 8, 2)
    (tmp_path / "prompts.txt").write_text("\n".join(task.text for task in benchmark.tasks(80)))
    found = benchmark.operations("start", common.ROOT, [str(tmp_path), "80", "4", "8"])
    assert 3 * units <= found["opens"] <= 3 * units + 8
    assert found["changes"] == 0


@pytest.mark.exhaustive
def test_the_whole_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark.main([*SMALL, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "scale.json").read_text())
    assert set(found["works"]) >= {"start", "end", "select", "report", "evaluate, 8 pictures"}
    monkeypatch.setattr(results_tables, "record", lambda _: found)
    assert results_tables.scale_works().count("now") == 6
    assert "12 × 4" in results_tables.scale_files()
