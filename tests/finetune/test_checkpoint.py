"""Checkpoints: whole or absent, never pickled, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.files import PARTIAL
from mitune.finetune import checkpoint
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.catalogue import AdapterConfig


@pytest.fixture
def trained(tiny_pipeline_folder: Path):
    """(denoiser, optimizer, names, history) after one step."""
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    parameters = attach(denoiser, AdapterConfig(rank=2, text_encoder=True), seed=1)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, fused=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return denoiser, optimizer, trainable_parameters(denoiser), {"loss": torch.arange(4.0)}


def _save(folder: Path, trained, step: int = 3) -> Path:
    denoiser, optimizer, names, history = trained
    return checkpoint.save(
        folder, step, denoiser, optimizer, names, {"loss": history["loss"][:step]}, {"best": None}
    )


def test_everything_comes_back(tmp_path: Path, trained) -> None:
    _, optimizer, names, _ = trained
    path = _save(tmp_path, trained)
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter",
        "history.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    weights = {name: parameter.detach().clone() for name, parameter in names.items()}
    moments = {
        name: {key: value.clone() for key, value in optimizer.state[p].items()} for name, p in names.items()
    }

    fresh = torch.optim.AdamW(names.values(), lr=1e-2, fused=True)
    with torch.no_grad():
        for parameter in names.values():
            parameter.zero_()
    history = {"loss": torch.zeros(6)}
    checkpoint.restore(path, fresh, names, history)
    assert all(torch.equal(weights[name], parameter) for name, parameter in names.items())
    for name, parameter in names.items():
        assert set(fresh.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(fresh.state[parameter][key], value) for key, value in moments[name].items())
    assert history["loss"].tolist() == [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]
    state = checkpoint.read_state(path)
    assert (state["step"], state["schema"], state["best"]) == (3, 1, None)


def test_only_whole_checkpoints_are_seen(tmp_path: Path, trained) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    _save(tmp_path, trained, 1)
    _save(tmp_path, trained, 2)
    (tmp_path / f"{PARTIAL}step-000009").mkdir()  # a process killed while writing
    (tmp_path / "step-000008").mkdir()  # a folder without its state
    (tmp_path / "step-000007.txt").write_text("")
    (tmp_path / "best").mkdir()
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000002"
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [2]
    assert not (tmp_path / "step-000001").exists()


def test_damaged_and_foreign_checkpoints_are_refused(
    tmp_path: Path, trained, tiny_pipeline_folder: Path
) -> None:
    _, optimizer, names, history = trained
    path = _save(tmp_path, trained)
    other = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    attach(other, AdapterConfig(rank=3), seed=1)
    theirs = trainable_parameters(other)
    with pytest.raises(UserError, match="of another adapter"):
        checkpoint.restore(path, torch.optim.AdamW(theirs.values()), theirs, history)
    with pytest.raises(UserError, match="of another run"):
        checkpoint.restore(path, optimizer, names, {"loss": torch.zeros(1)})
    file = path / checkpoint.OPTIMIZER
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"optimizer.safetensors is damaged .*delete .*step-000003"):
        checkpoint.restore(path, optimizer, names, history)
    (path / checkpoint.STATE).write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.read_state(path)


def test_no_pickle_is_written(tmp_path: Path, trained) -> None:
    path = _save(tmp_path, trained)
    for file in path.rglob("*"):
        assert file.is_dir() or file.suffix in (".safetensors", ".json")


def test_whatever_is_harmed_in_a_checkpoint_is_seen(tmp_path: Path, trained) -> None:
    _save(tmp_path, trained, 1)
    for place in sorted(path for path in _save(tmp_path, trained, 2).rglob("*") if path.is_file()):
        path = _save(tmp_path, trained, 2)
        assert checkpoint.harmed(path) is None
        data = place.read_bytes()
        for harmed in (data[:-1], data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], data + b" ", None):
            place.unlink() if harmed is None else place.write_bytes(harmed)
            if place.name == checkpoint.STATE and harmed in (None, data[:-1], data + b" "):
                continue  # what is not there is no checkpoint, and JSON ends as it likes
            assert checkpoint.harmed(path) == place
        if place.name != checkpoint.STATE:
            assert checkpoint.latest_whole(tmp_path) == (tmp_path / "step-000001", place)
            assert checkpoint.steps(tmp_path) == [1]


def test_the_best_adapter_goes_with_its_checkpoint(tmp_path: Path, trained) -> None:
    denoiser, optimizer, names, history = trained
    best = checkpoint.best_path(tmp_path, 1)
    denoiser.save_adapter(best)
    state = {"best": {"step": 1, "value": 0.5}}
    path = checkpoint.save(tmp_path, 2, denoiser, optimizer, names, history, state)
    assert checkpoint.harmed(path) is None
    (file,) = best.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoint.harmed(path) == file
