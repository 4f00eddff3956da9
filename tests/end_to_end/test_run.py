"""A whole run on the tiny pipeline: everything it promises to leave behind is there and says what it should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from mitune.data.store import CandidateStore
from mitune.files import read_json
from mitune.scores import LATENT_SCORERS, PATH_SCORERS
from tests.cli import main


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
    for entry in summary["rounds"]:  # the score that selected judges too, and it says so
        assert entry["evaluate"]["judged_by"]["mi"] == {
            "judge": summary["model"],
            "itself": True,
            "selected": True,
        }
    assert summary["made"]["command"].startswith("mitune run ")
    assert "seed=3" in summary["made"]["command"]
    assert f"mi (it also selected): the model itself ({summary['model']})" in done.out.replace("\n", " ")

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


def test_candidates_may_have_a_guidance_of_their_own(
    arguments: Callable[..., list[str]], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    """Drawn as with that of the sampler; the held-out pictures keep the sampler's."""

    def latents(run: str, folder: str) -> Any:
        (place,) = (tmp_path / run).glob(folder)
        store = CandidateStore(place)
        table = store.table()
        return store.latents(table[table["kept"]])

    for run, *words in (
        ("plain", "sampler.guidance=2"),
        ("own", "sampler.guidance=2", "generate.guidance=5"),
        ("all", "sampler.guidance=5"),
    ):
        done = run_command(arguments("run", *words, "generate.keep=3", f"run={tmp_path / run}"))
        assert done.code == 0, done.err
    drawn = {run: latents(run, "round-1/candidates") for run in ("plain", "own", "all")}
    held = {run: latents(run, "baseline-*") for run in ("plain", "own", "all")}
    assert drawn["own"].equal(drawn["all"])
    assert not drawn["own"].equal(drawn["plain"])
    assert held["own"].equal(held["plain"])
    assert not held["own"].equal(held["all"])
    changed = run_command(
        arguments("run", "sampler.guidance=2", "generate.guidance=6", f"run={tmp_path / 'own'}")
    )
    assert changed.code == 2
    assert "generate.guidance" in changed.err


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


@pytest.mark.slow
def test_every_scorer_and_a_sum_chooses_watches_and_evaluates(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = [name for name in PATH_SCORERS if name != "rfmi"]  # of flows alone
    scores = [*path, *LATENT_SCORERS, "clip", "jpeg", "mi-0.5*elbo"]
    settings = [
        *(f"scorer.{name}.times=1" for name in ("mi_image", "elbo", "llr_image", "contrast")),
        *("scorer.contrast.edits=1", "scorer.cas.steps=2", "scorer.cas.probes=1", "scorer.cas.recursion=0"),
        "scorer.clip.path=shapes",
        *("generate.keep=3", "train.steps=1", f"scorers=[{','.join(scores)}]"),
        f"evaluate.scorers=[{','.join(scores)}]",
    ]
    # Whose things the world's own grammar finds: grounding asks for them.
    for key, texts in (
        ("prompts.source", "a red circle\na blue square\n"),
        ("evaluate.prompts.source", "a green cross\n"),
    ):
        (tmp_path / f"{key}.txt").write_text(texts)
        settings.append(f"{key}={tmp_path / f'{key}.txt'}")
    assert main(arguments("generate", *settings)) == 0
    folder = tmp_path / "run" / "round-1"
    table = CandidateStore(folder / "candidates").table()
    for score in scores:
        for made in ("checkpoints", "adapter", "dataset"):
            shutil.rmtree(folder / made, ignore_errors=True)
        for stage in ("select", "train"):
            (folder / "done" / f"{stage}.json").unlink(missing_ok=True)
            own = [f"select.by={score}", f"train.keep_best_by={score}"]
            assert main(arguments(stage, *settings, *own)) == 0, (stage, score)
        chosen = datasets.load_from_disk(str(folder / "dataset"))
        assert sorted(chosen["score"]) == sorted(table.groupby("prompt_id")[score].max()), score
        assert read_json(folder / "done" / "train.json")["best_step"] == 1
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert any(f"validation_{score}" in line for line in lines)
    assert main(arguments("evaluate", *settings, *own)) == 0
    assert set(scores) <= read_json(folder / "evaluation.json")["after"]["all"].keys()


@pytest.mark.slow
def test_the_oracle_as_a_control(tmp_path: Path) -> None:
    """Only where it selects may it pick the checkpoint; it always may judge."""
    words = [
        *(f"run={tmp_path / 'run'}", "model.device=cpu", "prompts.limit=2", "evaluate.prompts.limit=2"),
        *("select=oracle", "select.k=1", "generate.candidates=2", "sampler.steps=2", "scorers=[mi,oracle]"),
        *("train.steps=1", "train.batch_size=2", "adapter.rank=2", "train.validation_prompts=2"),
        *("train.keep_best_by=exact", "evaluate.scorers=[oracle,exact]", "evaluate.candidates=1"),
    ]
    assert main(["run", *words]) == 0
    figures = read_json(tmp_path / "run" / "summary.json")["rounds"][0]
    assert figures["select"]["oracle_kept"] == figures["select"]["oracle_best"]
    assert 0 <= figures["train"]["best_value"] <= 1
    assert {"oracle", "exact"} <= figures["evaluate"]["after"]["all"].keys()


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
