"""The CAS benchmark, run whole on a tiny pipeline and small mixtures: its structure, and that both sides agree."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import cas as benchmark

# The tiny text encoder reads fourteen letters.
pytestmark = pytest.mark.filterwarnings("ignore:the prompt .* is longer than:UserWarning")


def test_the_whole_benchmark(
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "_ENOUGH", 4)
    sizes = {"repeats": 1, "pictures": 2, "steps": 3, "probes": 2, "samples": 6}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    folder = ["--model", str(tiny_pipeline_folder), "--out", str(tmp_path)]
    assert benchmark.main([*folder, *options, "--dimensions", "2", "3"]) == 0
    record = json.loads((tmp_path / "cas.json").read_text())
    faster, derivative = record["comparisons"]
    assert faster["at_most"] == 0.2
    assert faster["agreement"]["total"] < 0.1
    assert math.isfinite(derivative["agreement"]["total"])  # a random network bends too much to ask for more
    figures = {entry["name"]: entry["value"] for entry in record["figures"]}
    # Both branches: three nodes of two probes and the middle, two steps of two recursions.
    assert figures["network forwards, batched"] == pytest.approx(2 * 13 * figures["pictures, batched"])
    assert len(figures) == 3 + 4
    first, second, third = record["tables"].values()
    assert {row["divergence"] for row in first} == {"hutchinson", "jvp"}
    for ours, theirs in zip(first[::2], first[1::2], strict=True):
        assert ours["forwards"] == theirs["forwards"]  # equal cost, or the table says nothing
    assert {row["settings"] for row in second} >= {"default", "as published"}
    assert {row["rule"] for row in third} == {"simpson38", "simpson13", "trapezoid"}
    page = capsys.readouterr().out
    assert "| batched against one picture and one probe at a time |" in page
    assert "## Finite difference against exact derivative, 16 steps" in page
    assert (tmp_path / "cas.md").read_text() in page


def test_two_sides_that_differ_are_not_compared(
    tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = benchmark.load_denoiser(
        {"path": str(tiny_pipeline_folder), "device": "cpu", "dtype": "float32"}
    )
    real = benchmark.cas

    def shifted(*args: object, batch_size: int, **options: object) -> benchmark.CAS:
        found = real(*args, batch_size=batch_size, **options)  # type: ignore[arg-type]
        # Far more than float32 scatters between batches of one size and another.
        off = 1000.0 if batch_size == 1 else 0.0
        return benchmark.CAS(found.conditional + off, found.unconditional, found.standard_error)

    monkeypatch.setattr(benchmark, "cas", shifted)
    with pytest.raises(RuntimeError, match=r"total: the two sides differ by 1e\+03"):
        benchmark.timing(denoiser, pictures=1, steps=2, probes=1, batch_size=8, repeats=1)


def test_a_rounded_denoiser_answers_in_its_type() -> None:
    case = benchmark.case(3, "flow", 4, dtype=torch.bfloat16)
    output = case.model.predict(case.z0, 300.0, case.condition)
    assert torch.equal(output, output.bfloat16().to(output.dtype))
    assert case.name == "flow, d = 3, bfloat16"


def test_a_mistake_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--model", "/nowhere/at/all", "--only", "timing", "--out", str(tmp_path)]) == 2
    assert "neither a folder nor a Hub id" in capsys.readouterr().err
