"""The whole loop on a rectified flow: a small Stable Diffusion 3 with a single text encoder, every stage unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.families import load_denoiser
from tests.cli import main
from tests.families.test_sd3 import build

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("flow"), "1", wide=False)


@pytest.mark.parametrize(
    "settings",
    [
        ["scorers=[mi,llr,elbo,contrast]", "select=llr", "train.density=logit_normal", "train.t_min=0"],
        ["sampler=euler", "scorers=[mi,elbo]", "evaluate.scorers=[mi]"],
    ],
    ids=["stochastic", "euler"],
)
def test_a_run(settings: list[str], flow_folder: Path, arguments: Arguments, tmp_path: Path) -> None:
    assert main(arguments("run", f"model.path={flow_folder}", *settings)) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"]
    adapter = tmp_path / "run" / "round-1" / "adapter"
    tuned = load_denoiser({"path": str(flow_folder), "device": "cpu"}, adapter=adapter)
    assert tuned.schedule.kind == "flow"
    assert "+" in tuned.identity
