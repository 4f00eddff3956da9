"""The benchmark of the estimators, run whole at small sizes: what it writes, and that good estimators look good."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import estimators as benchmark


def test_the_whole_benchmark(tmp_path: Path) -> None:
    sizes = ["--pictures", "40", "--steps", "200", "10", "--guidance", "1", "--seeds", "0", "--draws", "1"]
    benchmark.main([*sizes, "--out", str(tmp_path)])
    record = json.loads((tmp_path / "estimators.json").read_text())
    page = (tmp_path / "estimators.md").read_text()
    rows = record["singles"]
    assert {row["schedule"] for row in rows} == {"ddpm", "flow"}
    assert {row["T"] for row in rows} == {200, 10}

    def mean(name: str, steps: int, what: str) -> float:
        values = [row[what] for row in rows if row["estimator"] == name and row["T"] == steps]
        assert values, name
        return sum(values) / len(values)

    # 40 pictures place a correlation of 0.97 within 0.02: llr follows the truth, mi per picture does not.
    assert mean("llr, path", 200, "r") > 0.9
    assert mean("mi, path", 200, "r") < 0.7
    assert mean("llr, path", 200, "rmse") < mean("llr, path", 10, "rmse")
    assert "llr, path" in page
    assert record["averages"] == []
    assert record["strategies"]
