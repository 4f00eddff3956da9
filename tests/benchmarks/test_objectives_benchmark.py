"""The benchmark of the objectives, run whole at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import objectives as benchmark


def test_the_whole_benchmark(tmp_path: Path) -> None:
    assert benchmark.main(["--pictures", "4", "--repeats", "1", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "objectives.json").read_text())
    assert {entry["name"] for entry in record["comparisons"]} == set(benchmark.OBJECTIVES) - {"mse"}
    # A pair is two pictures, and nothing is held of the reference's forward: what dpo holds is mse's and little more.
    assert record["bytes"]["dpo"] == pytest.approx(record["bytes"]["mse"], rel=0.1)
    assert record["bytes"]["mse"] > 4 * 8 * 8 * 4


def test_memory_counts_each_storage_once() -> None:
    x = torch.ones(100, requires_grad=True)

    def step() -> None:
        y = x * 2  # saves nothing
        (y * y).sum().backward()  # saves y twice

    assert benchmark.memory(step, "cpu") == 400
