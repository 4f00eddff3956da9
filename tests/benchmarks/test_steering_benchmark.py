"""The benchmark of steering, run whole at small sizes: what it writes, and that more particles come closer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from benchmarks import steering as benchmark


def test_the_whole_benchmark(tmp_path: Path) -> None:
    sizes = "--dimensions 2 --particles 8 128 --rows 1024 --reference 4096 --steps 8 --repeats 1"
    more = "--draws 60 --budget 8 --distance-steps 12"
    benchmark.main([*sizes.split(), *more.split(), "--out", str(tmp_path)])
    record = json.loads((tmp_path / "steering.json").read_text())
    page = (tmp_path / "steering.md").read_text()
    assert len(record["convergence"]) == 4
    # 8 repeats at N = 128 place its error within a quarter: a slope of −0.5 within 0.1 (one sigma).
    assert all(-1.0 < row["mean"] < -0.15 for row in record["slopes"])
    far = {(row["reward"], row["strength"], row["method"]): row["distance"] for row in record["distances"]}
    for case in itertools.product(benchmark.KINDS, benchmark.STRENGTHS):
        assert far[(*case, "DAS, gradient proposals")] < far[(*case, "no steering")]
    assert record["comparisons"][0]["agreement"]["largest difference of λ"] <= 1e-3
    assert "DAS, bootstrap proposals" in page


def test_slope_and_distance() -> None:
    assert benchmark.slope_of([10, 100, 1000], [1.0, 0.1, 0.01]) == pytest.approx(-1.0, abs=1e-6)
    z = torch.randn(500, 3, dtype=torch.float64)
    assert benchmark.sliced_wasserstein(z, z[torch.randperm(500)]) == pytest.approx(0, abs=1e-9)
    # A shift by s is seen as s·cos of each direction: root mean square s/√d, here within the scatter of 200 directions.
    assert benchmark.sliced_wasserstein(z, z + torch.tensor([3.0, 0, 0])) == pytest.approx(3**0.5, rel=0.2)
