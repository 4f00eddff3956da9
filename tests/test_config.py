"""The configuration: presets as published, overrides, and what is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from mitune.config import Config, compose, conf_folder, groups, leaves
from mitune.config.checks import INTERVALS
from mitune.errors import UserError


def test_defaults_are_the_demo() -> None:
    config = compose()
    assert config.name == "shapes"
    assert config.run == "runs/shapes"
    assert config.model.path == "shapes"
    assert config.select.by == "z(contrast)+z(elbo)"
    assert config.prompts.split == "train"
    assert config.evaluate.prompts.split == "test"


@pytest.mark.parametrize("name", groups()["experiment"])
def test_every_preset_composes_under_its_own_name(name: str) -> None:
    config = compose([f"experiment={name}"])
    assert config.name == name
    assert config.run == f"runs/{name}"
    assert "oracle" not in (config.select.by, config.train.keep_best_by)


@pytest.mark.parametrize("group", sorted(set(groups()) - {"experiment"}))
def test_every_option_of_every_group_composes(group: str) -> None:
    for option in groups()[group]:
        extra = []
        if group == "select":
            extra = ["scorers=[mi,mi_continuous,llr,elbo,contrast,oracle]"]
        if option == "euler":  # no noise on the path, no ratio of path densities
            extra = ["scorers=[mi,contrast]", "select=contrast"]
        if option == "das":
            extra = ["reward=clip"]
        if option == "dpo":
            extra = ["select.losers=1"]
        compose([f"{group}={option}", *extra])


def test_a_search_has_short_names_for_what_it_always_needs() -> None:
    config = compose(["sampler=das", "reward=aesthetic+20*clip", "alpha=0.2"])
    assert (config.search.by, config.sampler.name, config.sampler.eta) == ("das", "ddim", 1.0)
    assert (config.search.reward, config.search.alpha) == ("aesthetic+20*clip", 0.2)
    assert config.adapter.alpha == 32


def test_a_models_preset_brings_its_steps_and_guidance() -> None:
    config = compose(["experiment=mitune", "model=sd35_medium", "sampler=euler"])
    assert config.model.path == "stabilityai/stable-diffusion-3.5-medium"
    assert (config.sampler.name, config.sampler.steps, config.sampler.guidance) == ("euler", 40, 4.5)
    assert compose(["experiment=mitune", "model=sdxl", "sampler.guidance=3"]).sampler.guidance == 3


def test_the_papers_preset() -> None:
    config = compose(["experiment=mitune_sd21"])
    assert config.model.path == "stabilityai/stable-diffusion-2-1-base"
    assert (config.generate.candidates, config.select.k, config.select.by) == (50, 1, "mi")
    assert (config.sampler.name, config.sampler.steps, config.sampler.guidance) == ("ddpm", 50, 7.5)
    assert (config.prompts.limit, config.rounds) == (700, 1)
    assert (config.adapter.kind, config.adapter.rank, config.adapter.alpha) == ("dora", 32, 32)
    train = config.train
    assert (train.steps, train.batch_size, train.lr, train.lr_schedule) == (300, 400, 1e-4, "constant")
    assert (list(train.betas), train.weight_decay, train.eps) == ([0.9, 0.999], 1e-2, 1e-8)
    assert (train.t_min, train.t_max, train.max_grad_norm) == (500, 1000, 1.0)


@pytest.mark.parametrize(
    ("name", "k", "candidates"), [("k7", 7, 50), ("m30", 1, 30), ("m100", 1, 100), ("m500", 1, 500)]
)
def test_the_papers_ablations_differ_in_nothing_else(name: str, k: int, candidates: int) -> None:
    base, ablation = compose(["experiment=mitune_sd21"]), compose([f"experiment=mitune_sd21_{name}"])
    assert (ablation.select.k, ablation.generate.candidates) == (k, candidates)
    changed = {
        key for key, _, _ in leaves() if OmegaConf.select(base, key) != OmegaConf.select(ablation, key)
    }
    assert changed <= {"name", "run", "select.k", "generate.candidates"}


def test_groups_and_keys_are_overridden_together() -> None:
    config = compose(
        ["select=random", "adapter=lora", "sampler=ddpm", "tracker=[wandb,tensorboard]", "train.betas=[0.8,0.9]",
         "scorers=mi,contrast", "prompts.limit=null", "train.lr=1e-3", "adapter.text_encoder=true", "rounds=3"]
    )  # fmt: skip
    assert config.select.by == "random"
    assert config.adapter.kind == "lora"
    assert config.sampler.name == "ddpm"
    assert config.tracker.wandb
    assert config.tracker.tensorboard
    assert list(config.train.betas) == [0.8, 0.9]
    assert list(config.scorers) == ["mi", "contrast"]
    assert config.prompts.limit is None
    assert config.train.lr == 1e-3
    assert config.adapter.text_encoder is True
    assert config.rounds == 3


def test_a_command_line_group_wins_over_the_presets_own() -> None:
    assert compose(["experiment=mitune_sd21", "adapter=lora", "sampler=ddim"]).adapter.kind == "lora"


@pytest.mark.parametrize(
    "path", ["/a b/c", "/tmp/x[1]{y}=z,w", "~/ünïcode", "a:b#c", "it's", "1e5", "null", "true"]
)
def test_paths_are_taken_as_they_stand(path: str) -> None:
    assert compose([f"run={path}"]).run == path
    assert compose([f"model.path={path}"]).model.path == path


def test_a_text_file_of_ones_own_has_no_split() -> None:
    config = compose(["prompts.source=a.txt", "evaluate.prompts.source=b.csv"])
    assert config.prompts.split is None
    assert config.evaluate.prompts.split == "test"  # a table may have a column that says so
    assert compose(["prompts.source=a.txt", "prompts.split=val"]).prompts.split == "val"


def test_a_guidance_of_ones_own_is_for_the_candidates_too() -> None:
    assert compose().generate.guidance == 4
    assert compose(["sampler.guidance=7.5"]).generate.guidance is None
    assert compose(["sampler.guidance=7.5", "generate.guidance=4"]).generate.guidance == 4


def test_an_optional_text_takes_null() -> None:
    assert compose(["prompts.split=null"]).prompts.split is None


REFUSED = [
    ("train.stepz=3", "train.steps"),
    ("stepz=3", "train.steps"),
    ("adapter.rnk=3", "adapter.rank"),
    ("train.text_encoder=true", "adapter.text_encoder"),
    ("rank=8", "adapter.rank"),
    ("modle=shapes", "model"),
    ("+train.foo=1", "train.foo"),
    ("~train", "key=value"),
    ("train.steps", "train.steps"),
    ("model=shaps", "shapes"),
    ("model=/my/folder", "model.path="),
    ("experiment=shape", "shapes"),
    ("adapter=[dora,lora]", "one option"),
    ("scorer.mi=3", "scorer.mi.t_min"),
    ("train.steps=abc", "whole number"),
    ("train.steps=1.5", "whole number"),
    ("train.steps=", "whole number"),
    ("train.lr=fast", "number"),
    ("train.compile=maybe", "true or false"),
    ("train.betas=x", "list"),
    ("train.betas=[0.9]", "two numbers"),
    ("scorers=[a", "list"),
    ("scorers=[]", "at least one"),
    ("scorers=[mi,contrst]", "contrast"),
    ("sampler.name=ddpn", "ddpm"),
    ("model.dtype=float8", "float"),
    ("sampler.steps=0", "at least 1"),
    ("train.lr=nan", "at least 0 and finite"),
    ("adapter.dropout=1.5", "at most 1"),
    ("train.t_min=1000", "train.t_max"),
    ("select.k=13", "generate.candidates=12"),
    ("select.by=orcle", "oracle"),
    ("select.difficulty=-1", "at least 0"),
    ("select.by=mi_continuous", "scorers=["),
    ("generate.keep=0", "at least 1"),
    ("train.objective=dpo", "select.losers"),
    ("train.keep_best_by=oracle", "only judges"),
    ("train.keep_best_by=contrst", "contrast"),
    ("run=", "empty"),
    ("run=${nothing}", "nothing"),
]


@pytest.mark.parametrize(("override", "hint"), REFUSED)
def test_mistakes_are_named_on_one_line(override: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    message = str(caught.value)
    assert hint in message
    assert "\n" not in message
    assert len(message) < 400


def test_losers_count_against_the_candidates() -> None:
    with pytest.raises(UserError, match=r"select\.losers=4"):
        compose(["select.k=9", "select.losers=4"])


def test_a_threshold_is_for_winners_alone() -> None:
    assert compose(["select.threshold=-0.5"]).select.threshold == -0.5
    with pytest.raises(UserError, match=r"select\.threshold: .* leave out the threshold or select\.losers=1"):
        compose(["select.threshold=0", "select.losers=1"])


@pytest.mark.parametrize("choice", ["random", "oracle"])
@pytest.mark.parametrize(
    "preset",
    [
        "shapes",
        "shapes_full",
        "shapes_real",
        "shapes_both",
        "shapes_attention",
        "shapes_flow",
        "shapes_paper",
        "mitune",
    ],
)
def test_a_control_chooses_in_every_preset(preset: str, choice: str) -> None:
    words = [f"experiment={preset}", f"select={choice}"]
    scorers = [*compose(words[:1]).scorers]
    if "oracle" not in scorers:
        words.append(f"scorers=[{','.join([*scorers, 'oracle'])}]")
    assert compose(words).select.by == choice


def test_soft_labels_are_of_nft_alone() -> None:
    with pytest.raises(UserError, match=r"train\.soft_labels: train\.objective=mse has no labels"):
        compose(["train.soft_labels=2"])
    assert compose(["train.objective=nft", "select.losers=1", "train.soft_labels=2"]).train.soft_labels == 2


def test_the_resolved_configuration_cannot_be_changed() -> None:
    config = compose()
    with pytest.raises(ReadonlyConfigError):
        config.seed = 3


def test_every_checked_name_is_a_key() -> None:
    names = {name for name, _, _ in leaves()}
    assert {name for pair in INTERVALS for name in pair} <= names
    assert all(meaning for _, _, meaning in leaves())


def test_the_groups_are_sections_of_the_configuration() -> None:
    sections = {item.name for item in dataclasses.fields(Config)}
    assert set(groups()) - {"experiment"} <= sections
    assert (conf_folder() / "config.yaml").is_file()


def test_compose_leaves_nothing_behind_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose(["seed=1"]).seed == 1
    assert compose().seed == 0
    assert list(tmp_path.iterdir()) == []
