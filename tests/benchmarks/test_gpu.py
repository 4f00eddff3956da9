"""The GPU benchmark: its whole code path on a tiny network, its arithmetic, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_the_whole_benchmark_on_a_tiny_network(tmp_path: Path) -> None:
    assert gpu.main(["--tiny", "--device", "cpu", "--backend", "none", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "gpu-tiny.json").read_text())
    figures = {entry["name"]: entry for entry in record["figures"]}
    values = {name: entry["value"] for name, entry in figures.items()}
    assert values["check: latents relative difference"] < 1e-3
    assert values["check: mi relative difference"] < 1e-3
    targets = {name for name, entry in figures.items() if entry["at_least"] is not None}
    plain = "generate + mi: times the plain float32 eager loop, one prompt and 1 of its candidates a batch"
    assert targets == {
        "generate + mi: share of the bf16 matrix rate",
        plain,
        "training: share of the bf16 matrix rate",
        "training: times the plain loop",
    }
    # A CPU does not say how much memory it used; everything else is a number.
    unknown = {name for name, value in values.items() if value is None}
    assert unknown == {"generate + mi: peak memory", "training: peak memory"}
    assert all(value >= 0 for value in values.values() if value is not None)
    rate = values["bf16 matrix products"]
    share = values["generate + mi: share of the bf16 matrix rate"]
    assert share == pytest.approx(values["generate + mi: arithmetic"] / rate)
    # 4 steps, two branches.
    work = values["generate + mi"] * 8 * values["one row through the network"] * 1e9
    assert values["generate + mi: arithmetic"] * 1e12 == pytest.approx(work)


def test_flops_are_those_of_one_more_row() -> None:
    layer = torch.nn.Linear(6, 5)
    weight = torch.randn(4, 4)

    def run(rows: int) -> None:
        _ = weight @ weight  # the same whatever the rows
        layer(torch.randn(rows, 6))

    assert gpu.flops_a_row(run) == 2 * 6 * 5


def test_attention_is_counted() -> None:
    q = torch.randn(1, 1, 7, 8)
    counted = gpu.count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted == 2 * (2 * 7 * 7 * 8)


def test_the_full_shape_is_stable_diffusion_2_1() -> None:
    denoiser = gpu.build(gpu.SD21, torch.device("meta"))
    assert sum(parameter.numel() for parameter in denoiser.network.parameters()) == 865_910_724
    assert denoiser.latent_shape == (4, 64, 64)
    assert denoiser.picture_size == (512, 512)


def test_batches_shrink_until_they_fit() -> None:
    tried = []

    def run(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError
        return "done"

    assert gpu.largest_that_fits(gpu.halvings(12), run) == (3, "done")
    assert tried == [12, 6, 3]
    with pytest.raises(gpu.UserError, match="not even 4 rows fit"):
        gpu.largest_that_fits([8, 4], run)


@pytest.mark.parametrize(
    "arguments", [["--device", "cpu"], ["--device", "mps", "--tiny"], ["--device", "cuda"], []]
)
def test_without_a_gpu_it_says_so_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([*arguments, "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert "needs a CUDA GPU" in shown.err
    assert not list(tmp_path.iterdir())
