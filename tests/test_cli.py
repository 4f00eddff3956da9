"""The command line: help, exit codes, one line for a mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import mitune
from mitune import cli
from mitune.cli import STAGES, main
from mitune.config import leaves
from mitune.errors import UserError


def test_help_names_every_stage_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*STAGES, "mitune_sd21", "shapes_full"):
        assert word in shown


@pytest.mark.parametrize("stage", STAGES)
def test_stage_help_lists_every_key_with_its_default(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage, "--help"]) == 0
    shown = capsys.readouterr().out
    assert STAGES[stage] in shown
    for name, _, meaning in leaves():
        assert f"  {name}=" in shown
        assert meaning in shown
    assert "adapter.kind=dora" in shown
    assert "contrast, contrast_elbo, contrast_half_elbo, elbo" in shown


def test_cfg_prints_the_resolved_configuration_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

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
        (["seed=3"], "the stage comes first"),
        (["run", "--cgf"], "did you mean '--cfg'"),
        (["run", "train.stepz=3"], "did you mean 'train.steps'"),
        (["run", "tracker.wandbb=true"], "tracker.wandb"),
        (["generate", "select.k=99"], "generate.candidates=12"),
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

    monkeypatch.setattr(cli, "_work", interrupt)
    assert main(["run"]) == 130
    assert "goes on" in capsys.readouterr().err


def test_a_message_of_several_lines_is_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(stage: str, config: object) -> int:
        raise UserError("first\n  second")

    monkeypatch.setattr(cli, "_work", fail)
    assert main(["run"]) == 2
    assert capsys.readouterr().err == "mitune: first second\n"


def test_faults_of_our_own_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stage: str, config: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_work", fail)
    with pytest.raises(ZeroDivisionError):
        main(["run"])


def test_python_m_mitune_answers_without_loading_torch() -> None:
    code = (
        "import sys; from mitune.cli import main; main(['run', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    module = subprocess.run(
        [sys.executable, "-m", "mitune", "nonsense"], capture_output=True, text=True, check=False
    )
    assert module.returncode == 2
    assert module.stderr.count("\n") == 1
