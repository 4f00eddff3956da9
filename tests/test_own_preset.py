"""A preset of one's own, ``experiment=FILE.yaml``: data, checked like words, changed by words."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mitune.config import compose
from mitune.config.own_preset import own_preset
from mitune.errors import UserError
from tests.cli import main


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``write(text)``: the file mine.yaml of the current folder."""
    monkeypatch.chdir(tmp_path)

    def put(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return put


def test_its_keys_stand_over_its_base_and_words_over_both(write: Callable[[str], Path]) -> None:
    write(
        "experiment: shapes\nselect: elbo\ntrain:\n  steps: 12\n  lr: 1e-4\n  # warmup: 3\n"
        "scorers: [elbo, mi]\nsearch:\n"
    )
    config = compose(["experiment=mine.yaml", "train.steps=13"])
    assert (config.name, config.run) == ("mine", "runs/mine")
    assert (config.train.steps, config.train.lr) == (13, 1e-4)
    assert list(config.scorers) == ["elbo", "mi"]
    assert config.select.by == "elbo"
    assert config.generate == compose(["experiment=shapes"]).generate
    assert compose(["experiment=mine.yaml", "select=mi"]).select.by == "mi"
    assert compose(["experiment=shapes", "experiment=mine.yaml"]).name == "mine"
    assert compose(["experiment=mine.yaml", "experiment=shapes"]).name == "shapes"


def test_it_goes_on_from_the_recipe_where_it_names_no_base(write: Callable[[str], Path]) -> None:
    write("name: other\nprompts.source: x.txt\nevaluate: {prompts: {source: y.txt}}\n")
    config = compose(["experiment=mine.yaml"])
    assert config.name == "other"
    assert config.prompts.split is None  # as of a file named on the command line
    assert config.evaluate.prompts.split is None
    assert config.select == compose(["experiment=mitune"]).select


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {stps: 3}", "there is no key 'train.stps', did you mean 'train.steps'?"),
        ("train: {steps: 0}", "train.steps=0: must be at least 1"),
        ("train: {steps: many}", "train.steps=many: this key takes a whole number"),
        ("scorers: mi", "scorers=mi: this key takes a list"),
        ("experiment: mitun", "did you mean 'mitune'?"),
        ("experiment: other.yaml", "goes on from one that is shipped"),
        ("experiment: [mitune]", "give the name of one option"),
        ("sampler: dddim", "did you mean 'ddim'?"),
        ("defaults: [a]", "for presets inside the package"),
        ("model: {path: '${oc.env:HOME}'}", "nothing in it is looked up"),
        ("a: &b 1", "YAML's &b is not read"),
        ("model: !!python/name:os.system", "is not read"),
        ("- a", "holds no configuration"),
        ("", "holds no configuration"),
        ("{", "cannot be read"),
        pytest.param("train: " + "[" * 50, "nested too deeply", id="deep"),
    ],
)
def test_a_mistake_in_it_names_file_and_key_on_a_line(
    text: str, line: str, write: Callable[[str], Path], refused: Callable[[list[str]], str]
) -> None:
    write(text)
    said = refused(["run", "experiment=mine.yaml", "--cfg"])
    assert line in said
    assert "mine.yaml" in said


def test_a_file_that_is_not_there_is_refused(refused: Callable[[list[str]], str], tmp_path: Path) -> None:
    assert "none.yaml does not exist" in refused(["run", "experiment=none.yaml"])
    with pytest.raises(UserError, match="does not exist"):
        own_preset(tmp_path / "none.yaml", {"experiment": ["mitune"]})


def test_a_sweep_and_the_help_take_it(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write("experiment: shapes\ntrain: {steps: 12}\n")
    assert main(["run", "-m", "--cfg", "experiment=mine.yaml", "select.k=1,2"]) == 0
    assert "sweeps/mine/select.k=1" in capsys.readouterr().out
    assert main(["run", "--help", "experiment=mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "train.steps=12" in shown
    assert "keys, with the values of experiment=mine.yaml" in shown


def test_the_jobs_of_a_sweep_go_by_it(write: Callable[[str], Path], tiny_pipeline_folder: Path) -> None:
    Path("prompts.txt").write_text("a red circle\na blue square\n")
    text = f"""
        experiment: shapes
        select: elbo
        scorers: [mi, elbo]
        model: {{path: {tiny_pipeline_folder}, device: cpu}}
        sampler: {{steps: 2}}
        prompts: {{source: prompts.txt}}
        generate: {{guidance: null, keep: null}}
        select.k: 1
    """
    write(textwrap.dedent(text))
    assert (
        main(["generate", "-m", "experiment=mine.yaml", "generate.candidates=1,2", "scorer.elbo.times=1"])
        == 0
    )
    for count in (1, 2):
        config = OmegaConf.load(f"sweeps/mine/generate.candidates={count}/config.yaml")
        assert (config.generate.candidates, config.select.by, config.name) == (count, "elbo", "mine")
        assert config.model.path == str(tiny_pipeline_folder)


def test_a_sweep_may_sweep_a_group_that_it_names(
    write: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write("experiment: shapes\nselect: elbo\n")
    assert main(["run", "-m", "--cfg", "experiment=mine.yaml", "select=mi,elbo"]) == 0
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.split()] == [
        "select=mi",
        "select=elbo",
    ]
