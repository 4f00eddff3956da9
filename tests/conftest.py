"""Fixtures every test may use: tiny random pipelines as diffusers lays them out, built once a session; refusals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.cli import main
from tests.families import tiny

os.environ.setdefault("MITUNE_LOG_EVERY", "0")  # what a command says of an error is all that it says


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--everything``: the tests marked exhaustive too."""
    parser.addoption("--everything", action="store_true", help="run the tests marked exhaustive too")


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do its children: tests of it need it heard."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow test shows a thing once in every run; the other ways to it are tried on request.

    Chance alone fails a test of fresh draws once in 10,000, and such tests are many: an alarm is believed when a
    second draw raises it again, as it does where something is wrong.
    """
    for item in items:
        if "fresh_draws" in item.keywords:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=["AssertionError"]))
    if config.getoption("--everything"):
        return
    for item in items:
        if "exhaustive" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="exhaustive: run with --everything"))


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion folder that predicts the noise."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny_v"), prediction_type="v_prediction", seed=1)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A benchmark that is tried here sets the number of threads: the next test has the one before."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """``refused(arguments)``: the one line, warnings apart, that a refused command prints."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        lines = [line for line in shown.splitlines() if not line.startswith("mitune: warning:")]
        assert len(lines) == 1, shown
        assert lines[0].startswith("mitune: ")
        assert "Traceback" not in shown
        return lines[0]

    return run


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client asks nobody: it would try for half a minute where there is no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
