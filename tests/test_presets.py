"""The presets: the best recipe for any model, the paper's own under its names and their aliases, the sizes of cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mitune.config import compose, conf_folder, flatten, groups
from mitune.information.catalogue import SCORES
from mitune.runs import dependencies
from mitune.sampling.catalogue import is_deterministic
from mitune.scores import NEEDS_NOISE, columns, scorers_of
from mitune.stages.catalogue import ROUND
from mitune.stages.generate import say_what_was_measured
from tests.cli import compose as on_shapes
from tests.cli import main

ABLATIONS = ("", "_k7", "_m30", "_m100", "_m500")
# What the paper's preset set under its first name: it is the paper's, so it stays.
PAPER = {
    "model.path": "stabilityai/stable-diffusion-2-1-base", "prompts.source": "T2I-CompBench/examples/dataset",
    "prompts.split": "train", "evaluate.prompts.split": "val", "prompts.limit": 700, "rounds": 1,
    "scorers": ["mi", "llr"], "sampler.name": "ddpm", "sampler.steps": 50, "sampler.guidance": 7.5, "select.by": "mi",
    "select.k": 1, "generate.candidates": 50, "generate.batch_size": 50, "generate.rows_per_unit": 400,
    "generate.guidance": None, "evaluate.candidates": 10, "evaluate.batch_size": 50, "evaluate.scorers": ["mi"],
    "adapter.kind": "dora", "adapter.rank": 32, "train.objective": "mse", "train.steps": 300, "train.batch_size": 400,
    "train.micro_batch": 20, "train.lr": 1e-4, "train.mixed_precision": "bf16", "scorer.mi.form": None,
}  # fmt: skip


def values(*words: str) -> dict[str, Any]:
    return flatten(compose(words))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_earlier_name_gives_the_same_configuration(ablation: str) -> None:
    old, new = values(f"experiment=mitune_sd21{ablation}"), values(f"experiment=paper_sd21{ablation}")
    assert {key for key in new if old[key] != new[key]} == {"name", "run"}
    assert old["run"] == f"runs/mitune_sd21{ablation}"


def test_the_papers_preset_is_what_it_was() -> None:
    found = values("experiment=paper_sd21")
    assert {key: found[key] for key in PAPER} == PAPER


def test_the_papers_recipe_for_any_model_chooses_and_trains_alike() -> None:
    paper, whole = values("experiment=paper"), values("experiment=paper_sd21")
    same = ("sampler.name", "sampler.steps", "sampler.guidance", "select.", "adapter.", "generate.candidates")
    for key in whole:
        if key.startswith((*same, "train.")) and key != "train.micro_batch":
            assert paper[key] == whole[key], key


@pytest.mark.parametrize("preset", ["mitune", "paper"])
def test_a_preset_for_any_model_names_no_model_and_no_prompts(preset: str) -> None:
    said = yaml.safe_load((conf_folder() / "experiment" / f"{preset}.yaml").read_text())
    overridden = {
        key: value for item in said["defaults"] if isinstance(item, dict) for key, value in item.items()
    }
    assert overridden["override /model"] == "own"  # steps and guidance, no path
    assert "path" not in yaml.safe_load((conf_folder() / "model" / "own.yaml").read_text()).get("model", {})
    assert not {"override /prompts", "override /evaluate"} & {*overridden}
    assert "source" not in said.get("prompts", {}) | said["evaluate"].get("prompts", {})


def test_the_best_recipe_is_that_of_the_embedded_world() -> None:
    ours, measured = values("experiment=mitune"), values("experiment=shapes_full")
    for key in ("select.by", "select.k", "select.losers", "train.objective", "train.beta_nft", "train.soft_labels",
                "train.t_min", "generate.guidance", "generate.candidates", "train.steps", "train.batch_size",
                "adapter.targets", "train.layout_weight", "train.lr_schedule",
                *(key for key in ours if key.startswith(("scorer.elbo.", "scorer.contrast.")))):  # fmt: skip
        assert ours[key] == measured[key], key
    assert ours["prompts.limit"] == measured["prompts.limit"]


def test_the_best_recipe_is_judged_by_a_score_that_chose_nothing() -> None:
    found = values("experiment=mitune")
    judges = scorers_of(found["evaluate.scorers"])
    assert judges
    assert not {*judges} & {*columns([found["select.by"]])}
    assert "oracle" not in judges + found["scorers"]


def test_who_names_a_model_has_its_steps_and_guidance() -> None:
    assert values("experiment=mitune", "model.path=/m")["sampler.guidance"] == 7.5
    assert values("experiment=mitune", "model=sdxl")["sampler.guidance"] == 5.0
    # The comparison's guidance may be changed without that of the candidates.
    assert values("experiment=mitune", "evaluate.guidance=3")["generate.guidance"] == 1


@pytest.mark.parametrize("preset", groups()["experiment"])
def test_no_preset_asks_for_a_score_that_its_sampler_cannot_give(preset: str) -> None:
    found = values(f"experiment={preset}")
    keys = (
        "scorers",
        "evaluate.scorers",
        "sample.scorers",
        "select.by",
        "train.keep_best_by",
        "sampler.racing.by",
    )
    asked = [
        name for key in keys for name in ([found[key]] if isinstance(found[key], str) else found[key] or [])
    ]
    wanted = {*scorers_of(asked, found["scorer.combined"])} - {"random"}
    still = is_deterministic(found["sampler.name"], found["sampler.eta"])
    assert not (still and wanted & {*NEEDS_NOISE})


@pytest.mark.parametrize(
    "preset", [f"{name}{own}" for name in ("paper_sd21", "mitune_sd21") for own in ABLATIONS]
)
def test_the_papers_presets_keep_the_papers_sampler(preset: str) -> None:
    found = values(f"experiment={preset}")
    assert (found["sampler.name"], found["sampler.steps"], found["sampler.guidance"]) == ("ddpm", 50, 7.5)
    assert found["sampler.guidance_interval"] is None


@pytest.mark.parametrize(
    "preset", ["shapes_full", "shapes_real", "shapes_both", "shapes_attention", "shapes_flow"]
)
def test_a_preset_whose_record_is_of_twenty_steps_of_ddim_still_draws_so(preset: str) -> None:
    found = values(f"experiment={preset}")
    assert (found["sampler.name"], found["sampler.eta"], found["sampler.steps"]) == ("ddim", 1.0, 20)


@pytest.mark.parametrize("card", groups()["card"])
@pytest.mark.parametrize("preset", ["mitune", "paper_sd21", "shapes_full"])
def test_a_card_changes_sizes_and_nothing_that_is_made(preset: str, card: str) -> None:
    plain, sized = compose([f"experiment={preset}"]), compose([f"experiment={preset}", f"card={card}"])
    before, after = flatten(plain), flatten(sized)
    changed = {key for key in before if before[key] != after[key]}
    assert changed or (preset, card) == ("mitune", "24gb")
    for stage in ROUND:  # so that a run folder may go on on another card
        assert dependencies(plain, stage) == dependencies(sized, stage), stage


def test_a_card_wins_over_the_preset_and_a_key_over_the_card() -> None:
    assert values("experiment=paper_sd21", "card=12gb")["train.micro_batch"] == 4
    assert values("card=12gb", "experiment=paper_sd21")["train.micro_batch"] == 4
    assert values("card=12gb", "train.micro_batch=7")["train.micro_batch"] == 7


def test_the_best_recipe_is_sized_for_a_card_of_24_gb() -> None:
    assert values("experiment=mitune") == values("experiment=mitune", "card=24gb")
    assert values("experiment=mitune", "card=80gb")["generate.batch_size"] == 128


def test_what_is_said_of_mi_is_what_was_measured() -> None:
    study = json.loads(Path("benchmarks/agreement/results/guided.json").read_text())
    tau, interval = study["scores"]["mi"]["tau"], study["scores"]["mi"]["tau_ci95"]
    assert f"τ {tau:.2f} " in SCORES["mi"].note
    assert interval[0] < 0 < interval[1]  # chance
    assert study["scores"]["z(contrast)+z(elbo)"]["tau_ci95"][0] > interval[1]


def test_a_run_that_chooses_by_mi_says_so_once(
    commands_on_tiny: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands_on_tiny("run", "rounds=2", "train.steps=1", "evaluate.candidates=1")) == 0
    said = capsys.readouterr().out
    assert said.count("note: select.by=mi: mi ranks at chance on the embedded world") == 1
    assert main(commands_on_tiny("generate", "select.by=llr", "run=RUN2")) == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(("form", "said"), [("null", 1), ("square", 1), ("orthogonal", 0), ("guided", 0)])
def test_what_was_measured_of_a_form_is_said_of_that_form_alone(
    form: str, said: int, capsys: pytest.CaptureFixture[str]
) -> None:
    say_what_was_measured(on_shapes(["select.by=mi", f"scorer.mi.form={form}"]))
    assert capsys.readouterr().out.count("ranks at chance") == said


def test_the_guided_form_is_refused_of_a_diffusion_before_anything_is_drawn(
    commands_on_tiny: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(commands_on_tiny("run", "scorer.mi.form=guided")) == 2
    assert "say scorer.mi.form=orthogonal or square" in capsys.readouterr().err
    assert not [*tmp_path.glob("run/round-1/candidates/unit-*")]


@pytest.fixture
def commands_on_tiny(tiny_pipeline_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    from tests.end_to_end.conftest import commands

    make = commands(tiny_pipeline_folder, tmp_path)

    def named(stage: str, *words: str) -> list[str]:
        return make(stage, *(word.replace("run=RUN2", f"run={tmp_path / 'second'}") for word in words))

    return named
