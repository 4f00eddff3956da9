"""``model.adapter``: what was exported is where the next command starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mitune.cli import main
from mitune.families import lora
from mitune.files import read_json
from tests.hub.server import Hub

Refused = Callable[[list[str]], str]


def start(run: Path, folder: Path, *more: str) -> list[str]:
    """The run's own command in another folder, starting from an adapter."""
    from omegaconf import OmegaConf

    config = OmegaConf.load(run / "config.yaml")
    return [
        "run",
        f"run={folder}",
        f"model.path={config.model.path}",
        "model.device=cpu",
        "prompts=file",
        f"prompts.source={config.prompts.source}",
        "evaluate=file",
        f"evaluate.prompts.source={config.evaluate.prompts.source}",
        "scorers=[mi]",
        "evaluate.scorers=[mi]",
        "select=mi",
        "select.k=1",
        "sampler.steps=2",
        "generate.candidates=2",
        "adapter.rank=2",
        "adapter.alpha=3",
        "train.steps=1",
        "train.batch_size=2",
        "train.lr=1e-9",
        "train.weight_decay=0",
        "evaluate.candidates=1",
        *more,
    ]


def test_a_run_goes_on_from_an_adapter(finished_run: Path, tmp_path: Path) -> None:
    adapter = finished_run / "round-1/adapter"
    assert main(start(finished_run, tmp_path / "next", f"model.adapter={adapter}")) == 0
    summary = read_json(tmp_path / "next/summary.json")
    assert summary["model"].endswith(f"+{lora.read_adapter(adapter).digest}")
    before, after = lora.read_adapter(adapter), lora.read_adapter(tmp_path / "next/round-1/adapter")
    for name, value in before.tensors["unet"].items():
        assert torch.allclose(after.tensors["unet"][name], value, atol=1e-7)
    difference = summary["rounds"][0]["evaluate"]["difference"]["all"]["mi"]["difference"]
    assert abs(difference) < 1e-3  # compared with where it began, not with the model without an adapter


def test_training_does_not_go_on_from_a_stack(finished_run: Path, tmp_path: Path, refused: Refused) -> None:
    adapter = finished_run / "round-1/adapter"
    more = [f"model.adapter=[{adapter},{adapter}]", "model.adapter_weights=[0.5,0.25]"]
    assert "one adapter" in refused(start(finished_run, tmp_path / "next", *more))


def test_settings_that_do_not_go_together(finished_run: Path, tmp_path: Path, refused: Refused) -> None:
    command = start(finished_run, tmp_path / "next", "model.adapter=[a,b]")
    assert "1 weights for 2 adapters" in refused([*command, "model.adapter_weights=[1]"])
    missing = tmp_path / "nowhere"
    line = refused(start(finished_run, tmp_path / "next", f"model.adapter={missing}"))
    assert f"no adapter at {missing}" in line


def test_an_adapter_of_the_hub(
    finished_run: Path, tiny_pipeline_folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from mitune.errors import UserError
    from mitune.families import load_denoiser

    asked = []

    def fetch(name: str, file: str, revision: str | None) -> str:
        asked.append((name, file, revision))
        return str(finished_run / "round-1/adapter" / file)

    model = {"path": str(tiny_pipeline_folder), "device": "cpu"}
    with pytest.raises(UserError, match="someone/adapter") as caught:
        load_denoiser(model, adapter="someone/adapter@v1")  # this Hub has none
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    found = load_denoiser(model | {"adapter": ["someone/adapter@v1"]})
    assert asked == [("someone/adapter", lora.FILE, "v1")]
    assert found.identity == load_denoiser(model, adapter=finished_run / "round-1/adapter").identity
