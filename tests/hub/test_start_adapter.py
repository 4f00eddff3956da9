"""``model.adapter``: what was exported is where the next command starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mitune.families import lora
from mitune.files import read_json
from tests.cli import main
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
        "evaluate.scorers=[mi]",
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


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[tuple[str, str | None]]]:
    """``repository(folder)``: the Hub's client gives the files of ``folder``; gives what was asked for."""

    def serve(folder: Path) -> list[tuple[str, str | None]]:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError

        asked: list[tuple[str, str | None]] = []

        def fetch(name: str, file: str, revision: str | None) -> str:
            asked.append((file, revision))
            if not (folder / file).is_file():
                raise EntryNotFoundError(f"no {file}")
            return str(folder / file)

        def listed(self: object, name: str, revision: str | None) -> list[str]:
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
        return asked

    return serve


def test_an_adapter_of_the_hub_by_another_name(
    tmp_path: Path, repository: Callable[[Path], list[tuple[str, str | None]]]
) -> None:
    from mitune.errors import UserError
    from mitune.families.source import find_adapter

    asked = repository(tmp_path)
    for name in ("README.md", "pictures/a.safetensors", "style.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_adapter("someone/adapter@v1") == tmp_path / "style.safetensors"
    assert asked == [(lora.FILE, "v1"), ("style.safetensors", "v1")]
    assert find_adapter("someone/adapter/pictures/a.safetensors") == tmp_path / "pictures/a.safetensors"
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"other.safetensors, style.safetensors.*say which: someone/adapter/FILE"
    ):
        find_adapter("someone/adapter")
    with pytest.raises(UserError, match=r"someone/adapter on the Hub has no none.safetensors"):
        find_adapter("someone/adapter/none.safetensors")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_bytes(b"")
    assert find_adapter("someone/adapter") == tmp_path / "adapter_model.safetensors"
    assert ("adapter_config.json", None) in asked  # peft's settings come with it


def test_a_run_folder_is_no_adapter_but_has_some(
    finished_run: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(start(finished_run, tmp_path / "next", f"model.adapter={finished_run}"))
    assert f"{finished_run}: it is a run folder" in line
    assert "round-1/adapter" in line
    assert "train stage" not in line
