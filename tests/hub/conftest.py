"""A run with one trained round on the tiny pipeline, made once a session, and copies that tests may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli import main
from tests.hub.server import Hub

HOSTILE = (
    'a </td><script>alert(1)</script> [x](javascript:1) | `b` \\ "q" ---\t!![](http://e.org/p.png) &amp; *b* ‮'
)


@pytest.fixture(scope="session")
def finished_run(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round with a DoRA, evaluated on prompts of which one is hostile."""
    folder = tmp_path_factory.mktemp("runs")
    train, held_out = folder / "prompts.txt", folder / "held out.txt"
    train.write_text("a red circle and a blue square\na green star\n")
    held_out.write_text(f"{HOSTILE}\na yellow star\n")
    command = [
        "run",
        f"run={folder / 'mine'}",
        f"model.path={tiny_pipeline_folder}",
        "model.device=cpu",
        "prompts=file",
        f"prompts.source={train}",
        "evaluate=file",
        "evaluate.scorers=[mi]",
        f"evaluate.prompts.source={held_out}",
        "scorers=[mi]",
        "evaluate.scorers=[mi,elbo]",
        "select=mi",
        "sampler.steps=2",
        "generate.candidates=2",
        "select.k=1",
        "adapter.rank=2",
        "adapter.alpha=3",
        "train.steps=3",
        "train.batch_size=2",
        "train.lr=0.05",
        "evaluate.candidates=1",
        "evaluate.examples=2",
    ]
    assert main(command) == 0
    return folder / "mine"


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "mine"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub on this machine that the client of this process talks to, without waits between its retries."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import _http, close_session

    with Hub() as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: server.waits.append(seconds))
        close_session()
        yield server
        close_session()
