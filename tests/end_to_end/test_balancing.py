"""Balanced phrases by the command line: what is drawn, said, planned and refused; a killed command goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mitune.families.footprint import footprint
from mitune.families.source import find_model
from mitune.files import read_json
from mitune.pixels.settings import BALANCES
from mitune.stages.forecast import memory
from mitune.stages.planning import plan
from tests.cli import compose, main

SMALL = [
    "experiment=shapes", "prompts.limit=3", "generate.candidates=2", "generate.guidance=2", "generate.keep=2",
    "generate.rows_per_unit=2", "select.k=1", "sampler.steps=4", "scorers=[mi]", "select.by=mi",
]  # fmt: skip
FEW = {
    "elbo": [],
    "uniform": ["sampler.balancing.share=0.5"],
    "attend_excite": ["sampler.balancing.refinements=0", "sampler.balancing.step=1"],
}


def words(run: Path, balance: str | None, *more: str) -> list[str]:
    own = FEW[balance] if balance else []
    return ["generate", f"run={run}", *SMALL, f"sampler.balance={balance or 'null'}", *own, *more]


def latents(run: Path) -> torch.Tensor:
    return torch.cat(
        [value for path in sorted(run.rglob("*.safetensors")) for value in load_file(path).values()]
    )


@pytest.mark.parametrize("balance", BALANCES)
def test_candidates_are_balanced_as_planned_and_a_command_goes_on(balance: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = words(run, balance)
    assert main(command) == 0
    first = latents(run)
    mark = read_json(run / "round-1" / "done" / "generate.json")
    planned = plan(compose([*command[2:], f"run={run}"], "run"), exact=True).of("generate")
    assert mark["forwards"] == planned.total
    assert planned.rows.get("balancing", 0) == mark["forwards"] - 3 * 2 * 2 * 4
    assert not planned.at_most
    folder = run / "round-1" / "candidates"
    (folder / "unit-000001.parquet").unlink()  # as a kill leaves it
    shutil.rmtree(run / "round-1" / "done")
    assert main(command) == 0
    assert torch.equal(latents(run), first)
    plain = tmp_path / "plain"
    assert main(words(plain, None)) == 0
    assert not torch.equal(latents(plain), first)
    columns = [set(pd.read_parquet(path).columns) for path in sorted(tmp_path.rglob("unit-000001.parquet"))]
    assert columns[0] == columns[1]


def test_goals_are_counted_as_a_bound(tmp_path: Path) -> None:
    command = words(tmp_path / "run", "attend_excite", "sampler.balancing.refinements=2")
    found = plan(compose([*command[2:], f"run={tmp_path / 'run'}"], "run"), exact=True).of("generate")
    assert found.at_most
    assert found.rows["balancing"] == 3 * 2 * (2 + 3 * 2)
    assert main(command) == 0
    spent = read_json(tmp_path / "run" / "round-1" / "done" / "generate.json")["forwards"]
    assert found.total - 3 * 2 * 3 * 2 <= spent <= found.total


def test_pictures_of_one_phrase_are_said_to_be_drawn_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for balance in ("null", "elbo"):
        out = tmp_path / balance
        command = ["sample", "sample.prompt=a red circle", f"sample.out={out}", "sample.pictures=1"]
        assert main([*command, "sampler.steps=2", f"sampler.balance={balance}"]) == 0
        made.append((out / "pictures" / "000000.png").read_bytes())
    assert made[0] == made[1]
    assert "sampler.balance=elbo: 1 of 1 prompts name fewer than two phrases" in capsys.readouterr().out


def test_a_run_that_was_begun_without_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, None)) == 0
    assert main(words(tmp_path, "uniform")) == 2
    assert "sampler.balance (None there, uniform now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["sampler.balance=elbow"], "did you mean 'elbo'"),
        (["sampler.balancing.strength=2"], "nothing reads it with sampler.balance=null"),
        (["sampler.balance=elbo", "sampler.balancing.step=2"], "say sampler.balance=attend_excite"),
        (["sampler.balance=elbo", "sampler.balancing.share=0"], "must be above 0"),
        (["sampler.balance=attend_excite", "sampler.balancing.thresholds=[0.5]"], "give three numbers"),
        (["sampler.balance=attend_excite", "scorers=[mi,llr]"], "llr is a ratio of path densities"),
        (["sampler.balance=attend_excite", "model.compile=true"], "say model.compile=false"),
        (
            ["sampler.balance=elbo", "sampler=das", "reward=mi"],
            "a search goes from the model's own predictions",
        ),
        (
            ["sampler.balance=elbo", "sampler.racing.by=mi", "sampler.racing.survivors=[1]"],
            "different numbers of rows",
        ),
        (["sampler.balance=uniform", "sampler.balancing.phrases=spacey"], "did you mean 'spacy'"),
    ],
)
def test_what_cannot_be_is_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["generate", f"run={run}", *SMALL, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not run.exists()


def test_prompts_whose_phrases_nobody_finds_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "sample.prompt=a cat and a dog"
    more = ["sampler.balance=elbo", "sampler.balancing.phrases=world"]
    assert main(["sample", prompt, f"sample.out={tmp_path / 'out'}", *more]) == 2
    assert "'a cat and a dog' is not of the embedded world's grammar" in capsys.readouterr().err


def test_a_race_is_balanced_by_the_control(tmp_path: Path) -> None:
    race = ["sampler.racing.by=mi", "sampler.racing.at=[2]", "sampler.racing.survivors=[1]"]
    assert main(words(tmp_path, "uniform", *race)) == 0
    assert latents(tmp_path).isfinite().all()


@pytest.mark.exhaustive
def test_the_pictures_of_an_evaluation_are_balanced_too(tmp_path: Path) -> None:
    more = ["train.steps=2", "evaluate.prompts.limit=2", "evaluate.candidates=1", "evaluate.scorers=[mi]"]
    command = words(tmp_path, "elbo", *more)
    assert main(["run", *command[1:]]) == 0
    summary = read_json(tmp_path / "summary.json")
    planned = plan(compose([*command[2:], f"run={tmp_path}"], "run"), exact=True)
    assert planned.of("evaluate").rows["balancing"] > 0
    assert summary["forwards"] == planned.rows


def test_the_memory_of_a_gradient_is_foretold() -> None:
    found = footprint(find_model("shapes"))
    drawn = [
        memory(
            compose(["experiment=shapes", f"sampler.balance={balance}", "scorers=[mi]", "select.by=mi"]),
            found,
            2,
            0,
            4,
        )
        for balance in ("null", "elbo", "attend_excite")
    ]
    assert drawn[0].beside == drawn[1].beside
    assert drawn[2].beside["drawing"] > drawn[0].beside["drawing"]


def test_an_edit_is_not_balanced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["edit.source=a red circle", "edit.target=a blue circle", f"edit.out={tmp_path / 'out'}"]
    assert main(["edit", *words, "sampler.balance=uniform"]) == 2
    assert "phrases are not balanced there; say sampler.balance=null" in capsys.readouterr().err


@pytest.mark.parametrize("drawn", ["train.pictures_every=5", "train.keep_best_by=mi"])
@pytest.mark.parametrize("hidden", ["train.gradient_checkpointing", "train.compile"])
def test_what_training_hides_is_not_asked_for_while_it_draws(
    hidden: str, drawn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is drawn, and only where pictures are drawn in the training, by maps."""
    words = ["run", *SMALL, "sampler.balance=attend_excite", f"{hidden}=true", "--cfg"]
    assert main([*words, drawn]) == 2
    error = capsys.readouterr().err
    assert f"which {hidden}=true does not show; say {hidden}=false" in error
    assert error.count("\n") == 1
    assert main(words) == 0
    assert main([word.replace("attend_excite", "elbo") for word in [*words, drawn]]) == 0


def test_prompts_that_training_draws_are_looked_at_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are beyond those that are trained on, and so nobody else's."""
    (tmp_path / "prompts.txt").write_text("a red circle and a blue square\na circle\na cat and a dog\n")
    words = ["prompts=file", f"prompts.source={tmp_path / 'prompts.txt'}", "prompts.limit=2"]
    more = ["sampler.balance=elbo", "sampler.balancing.phrases=world", "evaluate.prompts.limit=1"]
    run = ["run", *SMALL, f"run={tmp_path / 'run'}", *words, *more, "train.pictures_every=1"]
    assert main(run) == 2
    assert "'a cat and a dog' is not of the embedded world's grammar" in capsys.readouterr().err
    assert not (tmp_path / "run" / "round-1").exists()


def test_a_pilot_of_races_is_refused_by_its_own_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "experiment=shapes", "sampler.balance=elbo", "--cfg"]) == 2
    error = capsys.readouterr().err
    assert "calibrate.by=" in error
    assert "sampler.racing" not in error
    assert main(["calibrate", "experiment=shapes", "sampler.balance=uniform", "--cfg"]) == 0


@pytest.mark.parametrize("score", ["grounding", "mi+2*grounding_image"])
def test_a_score_by_maps_does_not_judge_a_training_that_hides_them(
    score: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *SMALL, f"train.keep_best_by={score}", "--cfg"]
    assert main([*words, "train.gradient_checkpointing=true"]) == 2
    assert "looks at attention maps, which train.gradient_checkpointing=true" in capsys.readouterr().err
    assert main(words) == 0
