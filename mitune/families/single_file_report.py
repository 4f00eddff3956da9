"""Which weights of a checkpoint file are missing, left over or of another shape: diffusers tells it of folders only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mitune.families.components import model_classes
from mitune.families.source import ModelSource
from mitune.families.weight_files import POSITIONS, check_loaded

# Where the names of a CLIP's weights are those of transformers.
_PLAIN_CLIPS = (
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "text_encoders.clip_l.transformer.text_model.",
)
# What training left in the autoencoder's place, and no autoencoder has.
_LEFT_OVER = re.compile(r"^first_stage_model\.(loss|model_ema|logvar)\b")


def diagnose(source: ModelSource, file: Path, layers: Mapping[str, Any]) -> None:
    """After a checkpoint could not be loaded: raise UserError that says which weights of which part are at fault, where
    it can be found out. ``layers``: name -> a tensor of its shape without contents.
    """
    for name, made_by in model_classes(source.index).items():
        try:
            report = _compare(source, name, made_by, layers)
        except Exception:  # then what diffusers said has to do
            continue
        check_loaded(name, report, file)


def _compare(
    source: ModelSource, name: str, made_by: Any, layers: Mapping[str, Any]
) -> Mapping[str, list[Any]]:
    """The loading report of a part, from shapes alone: its layers renamed as diffusers does it."""
    from accelerate import init_empty_weights
    from diffusers.loaders import single_file_model as theirs

    # Of a Hub id, what was fetched for the loading lies in the cache.
    place = str(source.folder or source.built_as)
    if name.startswith("text_encoder"):
        if name != "text_encoder":
            return {}
        with init_empty_weights():
            own = made_by.config_class.from_pretrained(place, subfolder=name, local_files_only=True)
            module = made_by(own)
        return compare_clip(module, layers)
    config = made_by.load_config(place, subfolder=name, local_files_only=True)
    with init_empty_weights():
        module = made_by.from_config(config)
    kind = theirs._get_single_file_loadable_mapping_class(made_by)
    rename = theirs.SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
    return _differences(module, rename(config=dict(config), checkpoint=dict(layers)))


def compare_clip(module: torch.nn.Module, layers: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Give the loading report of a CLIP whose weights have the names of transformers in the file; empty for another."""
    prefix = next((one for one in _PLAIN_CLIPS if any(key.startswith(one) for key in layers)), None)
    if prefix is None:
        return {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    wrapped = "text_model." if any(key.startswith("text_model.") for key in module.state_dict()) else ""
    found = {
        wrapped + key.removeprefix(prefix): value
        for key, value in layers.items()
        if key.startswith(prefix) and not POSITIONS.search(key)
    }
    own = {key for key in module.state_dict() if not key.startswith(wrapped)}  # its projection is elsewhere
    report = _differences(module, found)
    return report | {"missing_keys": [key for key in report["missing_keys"] if key not in own]}


def _differences(module: torch.nn.Module, found: Mapping[str, Any]) -> dict[str, list[Any]]:
    wanted = module.state_dict()
    return {
        "missing_keys": [key for key in wanted if key not in found],
        "unexpected_keys": [key for key in found if key not in wanted],
        "mismatched_keys": [
            (key, value.shape, wanted[key].shape)
            for key, value in found.items()
            if key in wanted and value.shape != wanted[key].shape
        ],
    }


def left_over(module: torch.nn.Module, layers: Mapping[str, Any], prefix: str) -> list[str]:
    """Weights below ``prefix`` that are more than a part has. Diffusers drops those it has no name for, so numbers are
    counted: renaming, cutting and reshaping keep them.
    """
    own = {
        key: value for key, value in layers.items() if key.startswith(prefix) and not _LEFT_OVER.match(key)
    }
    there = sum(value.numel() for value in module.state_dict().values())
    more = sum(value.numel() for value in own.values()) - there
    if not own or more <= 0:
        return []
    single = [key for key, value in own.items() if value.numel() == more]
    return single[-1:] or _strangers(module, own)


def _strangers(module: torch.nn.Module, own: Mapping[str, Any]) -> list[str]:
    """Of weights in a file those whose sizes the module has not, or not so often."""
    sizes: dict[int, int] = {}
    for value in module.state_dict().values():
        sizes[value.numel()] = sizes.get(value.numel(), 0) + 1
    found = []
    for key, value in own.items():
        sizes[value.numel()] = sizes.get(value.numel(), 0) - 1
        if sizes[value.numel()] < 0:
            found.append(key)
    return found or sorted(own)[-1:]
