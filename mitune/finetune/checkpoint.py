"""Checkpoints that resume bit for bit: adapter, optimizer, schedule, position and history, without pickle.

``checkpoints/step-000100/`` holds ``adapter/`` (a diffusers LoRA folder, usable as it is),
``optimizer.safetensors``, ``history.safetensors`` and ``state.json``, which carries the digests of the others. No
generator state is in it: all randomness is a function of (seed, step). A folder appears whole, by a rename, or not at
all; one that was harmed later is seen (``harmed``), and training goes on from the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn

from mitune import digests
from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.files import PARTIAL, atomic_folder, read_json, write_json, write_tensors

_NAME = re.compile(r"step-(\d{6,})")
_BEST = "best_sha256"
STATE, OPTIMIZER, HISTORY, ADAPTER = "state.json", "optimizer.safetensors", "history.safetensors", "adapter"


def path_of(folder: str | Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps is."""
    return Path(folder) / f"step-{step:06d}"


def steps(folder: str | Path) -> list[int]:
    """The steps of all whole checkpoints in ``folder``, ascending."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(int(match[1]) for match, path in found if (path / STATE).is_file())


def latest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, or None. What a killed process left half-written is not
    looked at.
    """
    found = steps(folder)
    return path_of(folder, found[-1]) if found else None


def save(
    folder: str | Path,
    step: int,
    denoiser: Adapted,
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    history: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint after ``step`` steps, atomically. UserError on a full or closed disk."""
    path = path_of(folder, step)
    with atomic_folder(path) as partial:
        denoiser.save_adapter(partial / ADAPTER)
        write_tensors(partial / OPTIMIZER, _optimizer_tensors(optimizer, names))
        write_tensors(partial / HISTORY, history)
        whole: dict[str, Any] = {"schema": 1, "step": step} | dict(state)
        if whole.get("best"):
            whole[_BEST] = _note(best_path(folder, whole["best"]["step"]))
        write_json(partial / STATE, digests.seal({**whole, digests.FILES: _note(partial)}))
    return path


def _note(folder: Path) -> dict[str, str]:
    return digests.note((path for path in folder.rglob("*") if path.is_file()), folder)


def harmed(path: Path) -> Path | None:
    """A file of the checkpoint, or of the best adapter that goes with it, that is gone or not as it was written; None
    where all are, or where it is of a version that noted no digests."""
    try:
        state = read_json(path / STATE)
    except UserError:
        return path / STATE
    if not digests.intact(state):
        return path / STATE
    found = digests.changed(state.get(digests.FILES, {}), path)
    if not found and _BEST in state:
        found = digests.changed(state[_BEST], best_path(path.parent, state["best"]["step"]))
    return found[0] if found else None


def remove(path: Path) -> None:
    """Delete a checkpoint: half a deletion does not look like one."""
    aside = path.with_name(PARTIAL + path.name)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def latest_whole(folder: str | Path) -> tuple[Path | None, Path | None]:
    """(the newest checkpoint that is as it was written, or None; the first file found that is not). Those that are not
    are deleted."""
    first = None
    while (path := latest(folder)) is not None and (file := harmed(path)) is not None:
        first = first or file
        remove(path)
    return path, first


def prune(folder: str | Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for step in steps(folder)[:-keep]:
        remove(path_of(folder, step))


def best_path(folder: str | Path, step: int) -> Path:
    """Where the adapter of ``step`` is while it is the best so far: its own place, as the checkpoint that says so is
    written after it, and a kill may come between the two."""
    return Path(folder) / f"best-{step:06d}"


def prune_best(folder: str | Path, step: int) -> None:
    """Delete the adapters that were the best before that of ``step``."""
    for path in Path(folder).glob("best-*"):
        if path != best_path(folder, step):
            shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint. Raises UserError if it is damaged."""
    state = read_json(path / STATE)
    if not isinstance(state, dict) or "step" not in state:
        raise UserError(f"{path / STATE} is damaged; delete {path} to go on from the checkpoint before")
    return state


def restore(
    path: Path,
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    history: Mapping[str, Tensor],
) -> None:
    """Put adapter, optimizer and history back, in place. Raises UserError if a file is damaged or of another
    make.
    """
    restore_adapter(path / ADAPTER, names)
    tensors = _read(path / OPTIMIZER)
    packed = optimizer.state_dict()
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_parameter = {id(parameter): name for name, parameter in names.items()}
    entries: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(".")
        entries.setdefault(name, {})[entry] = value
    if not entries.keys() <= names.keys():
        raise UserError(f"{path} is of another adapter; use another run= or delete it")
    packed["state"] = {
        number: entries[by_parameter[id(parameter)]]
        for number, parameter in enumerate(order)
        if by_parameter[id(parameter)] in entries
    }
    optimizer.load_state_dict(packed)
    for name, value in _read(path / HISTORY).items():
        if name not in history or len(value) > len(history[name]):
            raise UserError(f"{path} is of another run ({name}); use another run= or delete it")
        history[name][: len(value)] = value


@torch.no_grad()
def restore_adapter(folder: Path, names: Mapping[str, nn.Parameter]) -> None:
    """Set the adapter's parameters to those saved in ``folder``. Raises UserError if they do not fit."""
    from mitune.families import lora

    saved = lora.read_adapter(folder)
    tensors = {
        f"{component}.{name.removeprefix('text_model.')}": value
        for component, values in saved.tensors.items()
        for name, value in values.items()
    }
    plain = {name.replace(".text_model.", ".", 1): parameter for name, parameter in names.items()}
    if tensors.keys() != plain.keys() or any(tensors[name].shape != plain[name].shape for name in plain):
        raise UserError(f"{folder} is of another adapter; use another run= or delete it")
    for name, parameter in plain.items():
        parameter.copy_(tensors[name])


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state as ``<parameter>.<entry>``."""
    return {
        f"{name}.{entry}": value
        for name, parameter in names.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load(file.read_bytes())
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise UserError(
            f"{file} is damaged ({error}); delete {file.parent} to go on from the checkpoint before"
        ) from error
