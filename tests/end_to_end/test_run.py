"""A whole run on the tiny pipeline: everything it promises to leave behind is there and says what it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf


def test_a_run_leaves_what_it_promises(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_command(arguments("run", "rounds=2", "seed=3"))
    assert done.code == 0, done.err
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["schema"] == 1
    assert summary["scorer"] == "mi"
    assert summary["seed"] == 3
    assert summary["model"].startswith("model#")
    assert [entry["round"] for entry in summary["rounds"]] == [1, 2]
    first, second = summary["rounds"]
    # 4 prompts x 3 candidates x 2 steps x (conditional and null branch)
    assert first["generate"] | {"seconds": 0, "model": ""} == {
        "prompts": 4, "candidates": 12, "forwards": 48, "seconds": 0, "model": "",
    }  # fmt: skip
    assert first["select"] == {
        "by": "mi", "k": 1, "kept": 4, "oracle_pool": None, "oracle_kept": None, "oracle_best": None,
    }  # fmt: skip
    assert first["train"]["steps"] == 4
    assert first["train"]["trainable_parameters"] > 0
    assert isinstance(first["train"]["loss"], float)
    for entry in summary["rounds"]:
        for side in ("before", "after"):
            assert entry["evaluate"][side]["all"]["n"] == 4
            assert entry["evaluate"][side]["all"]["oracle"] is None
            assert entry["evaluate"][side]["all"]["mi"] > 0
    assert first["evaluate"]["before"] == second["evaluate"]["before"]
    assert first["evaluate"]["after"] != second["evaluate"]["after"]
    assert summary["forwards"] == sum(
        entry[stage].get("forwards", 0) for entry in summary["rounds"] for stage in entry if stage != "round"
    )
    assert second["generate"]["model"] != first["generate"]["model"]

    report = (folder / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert report.count("data:image/png;base64,") >= 8
    assert OmegaConf.load(folder / "config.yaml").seed == 3
    for number in (1, 2):
        round_folder = folder / f"round-{number}"
        assert (round_folder / "adapter" / "pytorch_lora_weights.safetensors").is_file()
        steps = [
            json.loads(line)["step"] for line in (round_folder / "metrics.jsonl").read_text().splitlines()
        ]
        assert len(steps) >= 4
        examples = json.loads((round_folder / "candidates_examples.json").read_text())
        assert len(examples) == 4
        for example in examples:
            best, worst = (example[side][0] for side in ("best", "worst"))
            assert best["scores"]["mi"] >= worst["scores"]["mi"]
            assert (round_folder / best["picture"]).is_file()
    assert len(list(folder.glob("baseline-*"))) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".ckpt")]
    assert done.err == ""
    assert "round 2: evaluated 4 held-out pictures" in done.out


def test_a_weighted_sum_serves_as_any_score_does(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_command(
        arguments(
            *("run", "scorers=[mi,elbo,combined]", "scorer.combined=z(mi)+0.5*z(elbo)", "select.by=combined"),
            *("evaluate.scorers=[mi,mi-0.1*elbo]", "train.keep_best_by=mi+0.1*elbo", "scorer.elbo.times=1"),
        )
    )
    assert done.code == 0, done.err
    folder = tmp_path / "run" / "round-1"
    tables = [pq.read_table(path).to_pandas() for path in sorted((folder / "candidates").glob("*.parquet"))]
    for table in tables:
        for _, rows in table.groupby("prompt_id"):
            z = [(rows[name] - rows[name].mean()) / rows[name].std(ddof=0) for name in ("mi", "elbo")]
            assert rows["combined"].tolist() == pytest.approx((z[0] + 0.5 * z[1]).tolist(), abs=1e-6)
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"][0]
    assert figures["select"]["by"] == "combined"
    tuned = figures["evaluate"]["after"]["all"]
    assert tuned["mi-0.1*elbo"] == pytest.approx(tuned["mi"] - 0.1 * tuned["elbo"])
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [row["validation_mi+0.1*elbo"] for row in steps if "validation_mi+0.1*elbo" in row]
    assert figures["train"]["best_value"] == max(values)
    # Without a column of its own the sum is made of the columns there are: the same winners.
    again = run_command(
        arguments(
            *("generate", "scorers=[mi,elbo]", "select.by=z(mi)+0.5*z(elbo)", "scorer.elbo.times=1"),
            f"run={tmp_path / 'other'}",
        )
    )
    assert again.code == 0, again.err
    for table, path in zip(tables, sorted((tmp_path / "other").rglob("unit-*.parquet")), strict=True):
        assert pq.read_table(path).to_pandas()["kept"].tolist() == table["kept"].tolist()


def test_the_adapter_loads_into_plain_diffusers(
    arguments: Callable[..., list[str]],
    run_command: Callable[..., Any],
    tiny_pipeline_folder: Path,
    tmp_path: Path,
) -> None:
    from diffusers import StableDiffusionPipeline

    done = run_command(arguments("run", "adapter=lora", "train.lr=0.01"))
    assert done.code == 0, done.err
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def picture() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.as_tensor(
            pipeline("a red circle", num_inference_steps=2, generator=generator, output_type="np").images
        )

    before = picture()
    pipeline.load_lora_weights(str(tmp_path / "run" / "round-1" / "adapter"))
    assert not torch.equal(picture(), before)


def test_two_processes_make_the_same_run(
    arguments: Callable[..., list[str]],
    run_command: Callable[..., Any],
    run_by_two: Callable[..., Any],
    tmp_path: Path,
) -> None:
    two = run_by_two(arguments("run", f"run={tmp_path / 'two'}"))
    assert two.code == 0, two.err
    assert two.out.count("round 1: generated") == 1
    assert run_command(arguments("run")).code == 0
    units = sorted((tmp_path / "run" / "round-1" / "candidates").glob("*.parquet"))
    assert len(units) == 4
    for path in units:
        assert pq.read_table(tmp_path / "two" / "round-1" / "candidates" / path.name).equals(
            pq.read_table(path)
        )
    one, both = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "two"))
    assert both["rounds"][0]["generate"]["forwards"] == one["rounds"][0]["generate"]["forwards"]
    # Each process sums its half of a batch, so the last bits of the gradients differ; dropout masks do too.
    assert both["rounds"][0]["train"]["loss"] == pytest.approx(one["rounds"][0]["train"]["loss"], rel=0.05)
