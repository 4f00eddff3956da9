"""The CPU benchmark, run whole on a tiny pipeline: its structure, and that what it compares agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import speed
from mitune.finetune.catalogue import AdapterConfig, TrainConfig

# The tiny text encoder reads fourteen letters.
pytestmark = pytest.mark.filterwarnings("ignore:the prompt .* is longer than:UserWarning")


def test_the_whole_benchmark(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {
        "repeats": 1,
        "batch": 3,
        "steps": 4,
        "few-steps": 3,
        "train-batch": 5,
        "micro-batch": 2,
        "rank": 2,
    }
    options = [f"--{name}={value}" for name, value in sizes.items()]
    assert speed.main(["--model", str(tiny_pipeline_folder), *options, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "speed.json").read_text())
    compared = record["comparisons"]
    assert [entry["name"].split(" ")[0] for entry in compared] == [
        "generation", "control:", *["pictures"] * 4, "training",
    ]  # fmt: skip
    assert [entry["at_most"] for entry in compared] == [1.02, None, *[1.0] * 4, 1.05]
    assert [len(entry["ratio"]["values"]) for entry in compared] == [*[1] * 6, 3]
    for entry in compared:
        assert entry["ratio"]["median"] > 0
        assert set(entry["seconds"]) == {entry["ours"], entry["against"]}
        assert entry["agreement"]
    assert compared[0]["agreement"]["latents_max_difference"] == 0.0
    assert all(entry["agreement"]["pictures_max_difference"] < 1e-3 for entry in compared[2:6])
    assert compared[6]["agreement"]["loss_relative_difference"] < 1e-4
    figures = {entry["name"]: entry["value"] for entry in record["figures"]}
    assert set(figures) == {
        "network forwards", "candidates with mi and llr", "pictures", "pictures by DPM-Solver++ 2M", "training",
    }  # fmt: skip
    # Two rows a step, four steps a candidate.
    assert figures["network forwards"] == pytest.approx(8 * figures["candidates with mi and llr"])
    assert record["settings"]["identity"].startswith("model#")
    assert "| training step against a hand-written loop |" in capsys.readouterr().out


def test_velocity_models_agree_too(tiny_v_pipeline_folder: Path) -> None:
    model = str(tiny_v_pipeline_folder)
    denoiser = speed.load(model)
    pictures = [
        entry
        for compare in (speed.pipeline, speed.multistep)
        for entry in compare(denoiser, batch=2, steps=4, guidance=3.0, repeats=1)[0]
    ]
    assert len(pictures) == 4
    assert all(entry["agreement"]["pictures_max_difference"] < 1e-3 for entry in pictures)
    config = TrainConfig(batch_size=3, lr=1e-3)
    (entry,), _ = speed.training(
        model, "cpu", AdapterConfig(kind="lora", rank=2), config, repeats=1, warmup=0
    )
    assert entry["agreement"]["loss_relative_difference"] < 1e-4


def test_a_hand_loop_that_does_something_else_is_noticed(
    tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = speed._on

    def other_noise(given: object, device: torch.device) -> object:
        found = draw(given, device)  # type: ignore[arg-type]
        found.noise.mul_(1.01)
        return found

    monkeypatch.setattr(speed, "_on", other_noise)
    with pytest.raises(RuntimeError, match="training losses: the two sides differ"):
        speed.training(
            str(tiny_pipeline_folder), "cpu", AdapterConfig(rank=2), TrainConfig(batch_size=3), repeats=1
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "/nowhere/at/all"], "neither a folder nor a Hub id"),
        (["--steps", "7"], "--steps 7: must divide 1000"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    says: str,
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--model", str(tiny_pipeline_folder), "--repeats", "1", "--batch", "1", "--out", str(tmp_path)]
    assert speed.main([*small, *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
