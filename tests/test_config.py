"""The configuration: presets as published, overrides, and what is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from mitune.config import Config, conf_folder, flatten, groups
from mitune.config.keys import keys
from mitune.errors import UserError
from mitune.sampling.catalogue import SAMPLERS
from mitune.settings import check_value
from tests.cli import compose, main


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
        if option in SAMPLERS.where(lambda part: part.noise == "never"):  # no ratio of path densities
            extra = ["scorers=[mi,contrast]", "select=contrast"]
        if option == "das":
            extra = ["reward=clip"]
        if group == "sampler" and option.startswith(
            "inversion"
        ):  # a path is left, and no scores of it are had
            extra = ["reward=clip", "scorers=[contrast,elbo]"]
        if option == "dpo":
            extra = ["select.losers=1"]
        compose([f"{group}={option}", *extra])


def test_a_search_has_short_names_for_what_it_always_needs() -> None:
    config = compose(["sampler=das", "reward=aesthetic+20*clip", "alpha=0.2"])
    assert (config.search.by, config.sampler.name, config.sampler.eta) == ("das", "ddim", 1.0)
    assert (config.search.reward, config.search.alpha) == ("aesthetic+20*clip", 0.2)
    assert config.adapter.alpha == 32


def test_a_models_preset_brings_its_steps_and_guidance() -> None:
    config = compose(["experiment=paper", "model=sd35_medium", "sampler=euler"])
    assert config.model.path == "stabilityai/stable-diffusion-3.5-medium"
    assert (config.sampler.name, config.sampler.steps, config.sampler.guidance) == ("euler", 40, 4.5)
    own = compose(
        ["experiment=mitune", "model=sd35_medium"]
    )  # whose sampler needs fewer steps than the cards name
    assert (own.sampler.name, own.sampler.steps, own.sampler.guidance) == ("dpmpp_2m_sde", 25, 4.5)
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
    changed = {key for key in keys() if OmegaConf.select(base, key) != OmegaConf.select(ablation, key)}
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
    # A path that may be left out can be called null nowhere but in a folder: ./null
    assert compose([f"model.path={path}"]).model.path == (None if path == "null" else path)


@pytest.mark.parametrize("suffix", ["txt", "csv", "TSV", "json", "jsonl", "ndjson", "parquet"])
def test_the_split_of_a_preset_is_not_that_of_a_file_of_ones_own(suffix: str) -> None:
    config = compose([f"prompts.source=a.{suffix}", f"evaluate.prompts.source=b.{suffix}"])
    assert config.prompts.split is None
    assert config.evaluate.prompts.split is None
    folder = compose(["prompts.source=a", "evaluate.prompts.source=v1.5"])
    assert folder.prompts.split == "train"
    assert folder.evaluate.prompts.split == "test"
    assert compose(["prompts.source=a.txt", "prompts.split=val"]).prompts.split == "val"


def test_a_guidance_of_ones_own_is_for_the_candidates_too() -> None:
    assert compose().generate.guidance == 3.5
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
    ("select.k=11", "generate.candidates=10"),
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


def test_every_key_has_a_meaning() -> None:
    assert all(key.meaning for key in keys().values())


def test_the_groups_are_sections_of_the_configuration() -> None:
    sections = {item.name for item in dataclasses.fields(Config)}
    assert set(groups()) - {"experiment", "card"} <= sections
    assert (conf_folder() / "config.yaml").is_file()


def test_compose_leaves_nothing_behind_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose(["seed=1"]).seed == 1
    assert compose().seed == 0
    assert list(tmp_path.iterdir()) == []


ODD_VALUES = [
    # what YAML, Python or int() would have read as something else, or choked on
    *(("train.steps=010", "whole number"), ("train.steps=0x10", "whole number")),
    ("train.steps=1:30", "whole number"),
    *(("train.steps=1e3", "whole number"), ("train.steps=１", "whole number"), ("seed=1e30", "whole number")),
    *((f"seed={'9' * 5000}", "whole number"), ("train.steps=true", "whole number"), ("train.lr=12:30", "a number")),
    *(("train.compile=2", "true or false"), ("train.micro_batch=", "or null"), ("prompts.split=", "or null")),
    # numbers checked against what they count
    *(("seed=-1", "at least 0"), (f"seed={2**63}", "at most 9223372036854775807")),
    ("evaluate.seed=-1", "at least 0"),
    *(("generate.candidates=2147483648", "at most 100000"), ("train.t_max=2147483648", "at most 1000")),
    *(("adapter.rank=99999999", "at most 4096"), ("sampler.steps=1001", "at most 1000")),
    ("adapter.dropout=1", "below 1"),
    *(("train.eps=0", "at least 1e-30"), ("train.betas=[0.9,1]", "below 1"), ("agree.resamples=1e9", "whole number")),
    *(("sampler.eta=1.5", "at most 1"), ("scorer.cas.probes=2147483648", "at most")),
    ("rounds=2147483648", "at most"),
    # finite, in lists too
    *(("train.lr=.inf", "finite"), ("train.lr=-inf", "finite"), ("train.lr=1e400", "finite")),
    ("select.threshold=.nan", "finite"),
    *(("train.betas=[0.9,.nan]", "finite"), ("model.adapter_weights=[inf]", "finite")),
    ("sampler.racing.at=[.inf]", "finite"),
    *(("agree.fractions=[nan]", "finite"), ("search.alpha=inf", "finite"), ("sampler.guidance=nan", "finite")),
    # lists hold plain items
    *(("scorers=[[mi]]", "lists are written"), ("scorers=[&a mi,*a]", "lists are written")),
    ("scorers=[mi,]x", "lists"),
    *(("scorers=[!!python/name:os.system x]", "lists"), (f"scorers={'[' * 100_000}", "lists")),
    ("scorers={a: b}", "a list"),
    *(("scorers=null", "a list"), ("scorers=[a: b]", "lists"), ("scorers=mi,,llr", "a list")),
    ("agree.positions=[1.5]", "whole numbers"),
    # texts are data
    *(("run=${oc.env:HOME}", "nothing in it is looked up"), ("run=${name}", "nothing in it")),
    ("name=???", "nothing in it"),
    *(("scorers=['${oc.env:HOME}']", "${oc.env:HOME}"), ("sample.prompt=a ${x} b", "nothing in it")),
    *(("name=a\nb", "a\\nb"), ("name=\x1b[31m", "\\x1b[31m"), ("run=\udcff", "\\udcff")),
    ("name=a\u2028b", "control"),
    *((f"sample.prompt={'x' * 20_000}", "20000 characters"), (f"run={'x' * 300}", "too long")),
    (f"run={'a/' * 3000}", "too long"),
    *(("run=~nobody-at-all/x", "no such user"), ("score.out=~nobody-at-all", "score.out")),
    ("sweep.share=a\0b", "control"),
    # words
    *(("=x", "no key ''"), ("", "key=value"), ("tracker=[]", "no such option")),
    ("tracker=[wandb,", "no such option"),
    *((f"{'x' * 100_000}=1", "there is no key"), ("x" * 100_000, "not understood"), ("model=shapes}", "shapes")),
]  # fmt: skip


@pytest.mark.parametrize(("override", "hint"), ODD_VALUES, ids=[ascii(word[:40]) for word, _ in ODD_VALUES])
def test_values_that_no_key_can_mean_are_named_on_one_line(
    override: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--cfg", override]) == 2
    line = capsys.readouterr().err
    assert hint in line
    assert line.count("\n") == 1
    assert len(line) < 600
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=1e-3", 1e-3), ("train.lr=.5", 0.5), ("train.lr=1", 1.0), ("train.steps=1_000", 1000),
        ("train.steps=+5", 5), ("train.micro_batch=null", None), ("train.micro_batch=~", None),
        ("train.compile=yes", True), ("train.compile=OFF", False), ("scorers=mi,contrast", ["mi", "contrast"]),
        ("scorers=[mi, 'contrast']", ["mi", "contrast"]), ("model.adapter=['a,b',c]", ["a,b", "c"]),
        ("model.adapter=a #b", ["a #b"]), ("model.adapter=[]", []), ("agree.positions=3", [3]),
        ("scorer.clip.prefix=", ""), ("scorer.pickscore.processor=null", None), ("adapter.targets=[010]", ["010"]),
        ("sample.prompt=null and void", "null and void"), ("seed=0", 0), (f"seed={2**63 - 1}", 2**63 - 1),
    ],
)  # fmt: skip
def test_a_value_is_read_as_it_is_written(override: str, value: object) -> None:
    name = override.partition("=")[0]
    extra = ["select=contrast"] if name == "scorers" else []
    found = flatten(compose([override, *extra]))[name]
    assert found == value
    assert type(found) is type(value)


def test_every_number_has_bounds_that_its_default_keeps() -> None:
    for key in keys().values():
        if key.kind in (int, float):
            limits = key.limits
            unbounded = key.name == "select.threshold"  # a score: any finite number
            assert unbounded or limits.high is not None or limits.below is not None, key.name
        if key.name != "run":  # made of the name
            check_value(key, key.default)


@pytest.mark.parametrize("name", [key.name for key in keys().values() if key.kind is float and not key.many])
def test_no_number_is_infinite_or_none(name: str) -> None:
    for text in ("nan", ".nan", "inf", "-inf", ".inf", "1e999"):
        with pytest.raises(UserError, match="finite"):
            compose([f"{name}={text}"])


def test_of_two_words_of_a_group_the_later_counts() -> None:
    assert compose(["adapter=dora", "adapter=lora"]).adapter.kind == "lora"
    assert compose(["experiment=[shapes]"]).name == "shapes"


@pytest.mark.parametrize("name", ["prompts.source", "evaluate.prompts.source"])
def test_a_preset_s_source_can_be_taken_away(name: str) -> None:
    """What is asked of a stage without it is said by the stage; composition looked at the file's name, and fell."""
    assert flatten(compose([f"{name}=null"]))[name] is None
