"""The command line: help, exit codes, one line for a mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import mitune
from mitune import command, completion, manual
from mitune.config import groups
from mitune.config.keys import keys
from mitune.config.schema import schema
from mitune.errors import UserError
from mitune.stages.catalogue import STAGES
from tests.cli import compose, main


def test_help_names_every_stage_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*STAGES, "paper_sd21", "shapes_full"):
        assert word in shown


def test_help_of_a_name_that_is_a_stage_and_a_key_tells_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "run"]) == 0
    shown = capsys.readouterr().out
    assert STAGES["run"].meaning in shown
    assert f"run: {keys()['run'].meaning}" in shown


@pytest.mark.parametrize("stage", STAGES)
def test_stage_help_is_a_page_of_what_the_stage_reads(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage, "--help"]) == 0
    page = capsys.readouterr().out
    assert main([stage, "--help", "--all"]) == 0
    whole = capsys.readouterr().out
    assert main([stage, "--all"]) == 0  # asks for help, too, and never starts the stage
    assert capsys.readouterr().out == whole
    assert page.count("\n") <= 60
    for shown in (page, whole):
        assert STAGES[stage].meaning in shown
        listed = re.findall(r"^  ([a-z_.]+)=", shown, re.MULTILINE)
        assert all(STAGES[stage].shows(name) for name in listed)
    assert {*re.findall(r"^  ([a-z_.]+)=", page, re.MULTILINE)} >= {
        name for name, key in keys().items() if key.basic and STAGES[stage].shows(name)
    }
    for name, key in keys().items():
        assert (f"  {name}=" in whole) == STAGES[stage].shows(name)
        assert key.meaning in " ".join(whole.split()) or not STAGES[stage].shows(name)
    assert max(map(len, (page + whole).splitlines())) <= 120


def test_the_help_of_run_begins_with_what_a_user_meets_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    page = capsys.readouterr().out
    for word in (
        "model.path=",
        "prompts.source=",
        "sampler.steps=",
        "generate.candidates=",
        "train.steps=",
        "reward",
    ):
        assert word in page
    assert "adapter.kind" not in page
    assert main(["run", "--help", "--all"]) == 0
    whole = capsys.readouterr().out
    assert "adapter.kind=dora" in whole
    assert "contrast, contrast_elbo, contrast_half_elbo, elbo" in whole


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sampler.steps", ["type: whole number", "allowed: 1 to 1000", "default: 20", "read by: generate"]),
        ("model.offload", ["encoders layer by layer", "choices:"]),
        ("reward", ["search.reward:", "short: reward="]),
        ("evaluate.scorers", ["list of texts", "read by: evaluate, run"]),
        ("ddim", ["sampler.name=ddim", "sampler=ddim sets sampler.name=ddim"]),
        ("elbo", ["score elbo:", "scorer.elbo.times", "select=elbo sets select.by=elbo"]),
        ("sampler", ["sampler= is a group", "sampler.eta"]),
        ("experiment", ["mitune_sd21"]),
        ("agree", ["mitune agree:"]),
        ("eta", ["sampler.eta: ddim: 0 = deterministic"]),
        ("rank", ["adapter.rank:", "allowed: 1 to 4096"]),
        ("none", ["tracker=none sets nothing"]),
        ("tracker", ["none                 nothing"]),
    ],
)  # fmt: skip
def test_help_tells_all_of_one_name(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", name]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert word in shown


def test_help_knows_every_key_and_option_of_a_group() -> None:
    for name in (*keys(), *groups(), *(option for names in groups().values() for option in names)):
        assert manual.explain(name)
        assert name in manual.topics()
    assert all(map(manual.explain, manual.topics()))


def test_help_shows_the_values_of_the_words_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "experiment=mitune_sd21", "select.k=2", "--help"]) == 0
    page = capsys.readouterr().out
    assert "keys, with the values of experiment=mitune_sd21 select.k=2\n" in page
    for word in (
        "  model.path=stabilityai/stable-diffusion-2-1-base ",
        "  select.k=2 ",
        "  run=runs/mitune_sd21 ",
    ):
        assert word in page
    # What is not whole yet is what help is asked for.
    assert main(["sample", "sampler=das", "--help"]) == 0
    assert "search.reward=null" in capsys.readouterr().out
    assert main(["run", "select.kk=2", "--help"]) == 2


def test_cfg_prints_the_resolved_configuration_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "experiment=mitune_sd21", "seed=5", "--cfg"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.seed == 5
    assert shown.run == "runs/mitune_sd21"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mitune {mitune.__version__}\n"


def test_no_stage_shows_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: mitune STAGE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["rnu"], "did you mean 'run'"),
        (["shema"], "did you mean 'schema'"),
        (["help", "sampler.stepz"], "did you mean 'sampler.steps'"),
        (["completion", "fsh"], "did you mean 'fish'"),
        (["seed=3"], "the stage comes first"),
        (["run", "--cgf"], "did you mean '--cfg'"),
        (["run", "train.stepz=3"], "did you mean 'train.steps'"),
        (["run", "tracker.wandbb=true"], "tracker.wandb"),
        (["generate", "select.k=99"], "generate.candidates=10"),
        (["run", "sampler.eta=0"], "llr needs a stochastic sampler"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mitune: ")
    assert shown.err.count("\n") == 1
    assert hint in shown.err


def test_ctrl_c_says_that_the_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(stage: str, config: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "work", interrupt)
    assert main(["run"]) == 130
    assert "goes on" in capsys.readouterr().err


def test_a_message_of_several_lines_is_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(stage: str, config: object) -> int:
        raise UserError("first\n  second")

    monkeypatch.setattr(command, "work", fail)
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "mitune: first second\n"


def test_faults_of_our_own_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stage: str, config: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "work", fail)
    with pytest.raises(ZeroDivisionError):
        main(["run"])


@pytest.mark.parametrize(
    "words",
    [
        ["--help"], ["run", "--help"], ["run", "--help", "--all"], ["help", "ddim"], ["help", "elbo"], ["schema"],
        ["completion", "bash"], ["complete", "run", "sampler.name="], ["agree", "experiment=shapes", "--cfg"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_only_tells_answers_without_loading_torch(words: list[str]) -> None:
    code = f"import sys; from mitune.cli import main; code = main({words}); sys.exit(code or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_python_m_mitune_refuses_in_a_line() -> None:
    module = subprocess.run(
        [sys.executable, "-m", "mitune", "nonsense"], capture_output=True, text=True, check=False
    )
    assert module.returncode == 2
    assert module.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([""], ["generate", "schema", "--help"]),
        (["sa"], ["sample"]),
        (["run", "sampler.n"], ["sampler.name="]),
        (["run", "sampler.name=d"], ["sampler.name=ddpm", "sampler.name=ddim"]),
        (["run", "sampler="], ["sampler=das", "sampler=ddim"]),
        (["run", "scorer.contrast.kinds=swap,d"], ["scorer.contrast.kinds=swap,drop"]),
        (["evaluate", "evaluate.scorers=["], ["evaluate.scorers=[mi", "evaluate.scorers=[exact"]),
        (["agree", "agree.scorers=[mi,el"], ["agree.scorers=[mi,elbo"]),
        (["run", "select.by=r"], ["select.by=rfmi", "select.by=random"]),
        (["run", "select.by=con"], ["select.by=contrast"]),
        (["run", "sampler.racing.by=c"], ["sampler.racing.by=contrast"]),
        (["run", "reward="], ["reward=clip", "reward=llr"]),
        (["run", "train.fr"], ["train.fresh="]),
        (["run", "train.fresh=t"], ["train.fresh=true"]),
        (["run", "--c"], ["--cfg"]),
        (["help", "train.fr"], ["train.fresh"]),
        (["help", "da"], ["das"]),
        (["help", "dpm"], ["dpmpp_2m"]),
        (["help", "el"], ["elbo"]),
        (["help", "sc"], ["score", "scorer", "scorer.contrast"]),
        (["completion", "z"], ["zsh"]),
        (["nonsense", ""], []),
    ],
)
def test_completion_offers_what_fits(
    words: list[str], wanted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", *words]) == 0
    found = capsys.readouterr().out.split()
    assert set(wanted) <= set(found)
    assert all(word.startswith(words[-1]) for word in found)
    assert wanted or not found


def test_completion_of_a_stage_offers_only_keys_that_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "agree", ""]) == 0
    found = capsys.readouterr().out.split()
    assert "agree.scorers=" in found
    assert "select.by=" not in found


def test_completion_of_a_list_offers_no_score_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "run", "scorers=[mi,"]) == 0
    found = capsys.readouterr().out.split()
    assert "scorers=[mi,llr" in found
    assert "scorers=[mi,mi" not in found


def test_bash_completes_a_command_line(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "try.sh"
    script.write_text(
        f'mitune() {{ {sys.executable} -m mitune "$@"; }}\ncompopt() {{ :; }}\n{completion.script("bash")}'
        "COMP_LINE='mitune run sampler.name=dd'; COMP_POINT=${#COMP_LINE}; _mitune; echo \"${COMPREPLY[@]}\"\n"
        "COMP_LINE='mitune run train.fr'; COMP_POINT=${#COMP_LINE}; _mitune; echo \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run([bash, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ddpm ddim", "train.fresh="]


def test_the_schema_has_every_key_with_its_bounds() -> None:
    found: dict[str, Any] = schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, key in keys().items():
        place = found
        for part in name.split("."):
            assert place.get("additionalProperties", False) is False
            place = place["properties"][part]
        assert place["description"] == key.meaning
        assert ("null" in place["type"]) == key.optional
        inner = place["items"] if key.many else place
        assert tuple(inner.get("enum", ()))[: len(key.limits.choices)] == key.limits.choices
        assert inner.get("minimum") == key.limits.low
        assert inner.get("exclusiveMaximum") == key.limits.below
    assert found["properties"]["train"]["properties"]["betas"]["maxItems"] == 2
    assert "${" not in str(found)


def test_the_schema_takes_what_compose_gives_and_refuses_what_it_refuses() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for preset in groups()["experiment"]:
        validator.validate(OmegaConf.to_container(compose([f"experiment={preset}"])))
    for section, name, value in (
        ("sampler", "eta", 2), ("sampler", "name", "ddpn"), ("train", "betas", [0.9]), ("train", "stepz", 3),
        ("adapter", "dropout", 1.0), ("search", "alpha", 0),
    ):  # fmt: skip
        wrong: Any = OmegaConf.to_container(compose())
        wrong[section][name] = value
        assert not validator.is_valid(wrong), f"{section}.{name}={value}"
