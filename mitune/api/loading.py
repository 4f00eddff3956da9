"""What a model is loaded from: a path, or a pipeline that is loaded already; prompts from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mitune.api.model import Model
from mitune.api.weights import Adapter, Weights
from mitune.data.prompts import load_prompts
from mitune.errors import UserError, nearest, short
from mitune.families import load_denoiser, wrap_pipeline
from mitune.families.opening import quiet
from mitune.families.settings import ModelConfig
from mitune.scores import ScorerConfig
from mitune.tasks import Task

_OF_PIPELINES = {"resolution", "max_tokens", "guidance_embedding", "picture_guidance"}
_SETTINGS = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in ("path", "adapter")]


def load(
    model: Any,
    adapter: str | Path | Sequence[str | Path] = (),
    *,
    scorer: ScorerConfig | None = None,
    **settings: Any,
) -> Model:
    """Load a model.

        model = mitune.load("stabilityai/stable-diffusion-2-1-base", dtype="bfloat16")
        model = mitune.load(pipeline)

    Args:
        model: a diffusers folder, a Hub id, a ``.safetensors`` checkpoint, ``"shapes"`` (in the package), a
            :class:`mitune.ModelConfig`, or a diffusers pipeline that you have loaded.
        adapter: put this LoRA or DoRA on it (a folder, file or Hub id), or several.
        scorer: the settings of the scores; all calls of this model and of those trained from it go by them.
        settings: fields of :class:`mitune.ModelConfig`: device, dtype, resolution, offload, ….

    A loaded pipeline is used where it is, in its number type, without a copy: device, dtype and memory are chosen
    before. Its networks are set to ``requires_grad_(False).eval()`` and stay so, and a CLIP tokenizer without a length
    is told that of its text encoder. Nothing else is changed: an adapter is in the networks only while a method of the
    model runs. Do not use the pipeline from another thread meanwhile, and load it again after you have moved it, or
    changed its weights or its scheduler.

    Raises UserError: nothing there, a kind of pipeline not known here, a setting out of its bounds; a loaded pipeline
    with an adapter in it, or with quantized, compiled or offloaded parts (give its path instead).
    """
    scorer = scorer or ScorerConfig()
    scorer.check("scorer.")
    for name in settings:
        if name not in _SETTINGS:
            raise UserError(
                f"mitune.load: there is no setting '{short(name)}'{nearest(name, _SETTINGS)} (there are"
                f" {', '.join(_SETTINGS)})"
            )
    with quiet():  # the libraries' levels are the caller's again afterwards
        return _load(model, adapter, scorer, settings)


def _load(
    model: Any, adapter: str | Path | Sequence[str | Path], scorer: ScorerConfig, settings: dict[str, Any]
) -> Model:
    config, dtype = _config(model, settings), settings.get("dtype")
    files = [adapter] if isinstance(adapter, (str, Path)) else list(adapter or config.adapter)
    if isinstance(model, (str, Path, ModelConfig)):
        plain = dataclasses.replace(config, adapter=[], adapter_weights=[])
        opened = load_denoiser(plain, dtype=dtype if isinstance(dtype, torch.dtype) else None)
        weights = Weights(opened, plain)
    else:
        weights = Weights(wrap_pipeline(model, config))
    base = Model(weights, scorer)
    if not files:
        return base
    found = Model(weights, scorer, Adapter(tuple(files), tuple(config.adapter_weights)), base)
    with found.active():  # whether the adapter fits is found out now
        return found


def _config(model: Any, settings: dict[str, Any]) -> ModelConfig:
    """The keys of a model. Raises UserError for those that a loaded pipeline has decided already."""
    given = {name: value for name, value in settings.items() if not isinstance(value, torch.dtype)}
    if isinstance(given.get("device"), torch.device):
        given["device"] = str(given["device"])
    if isinstance(model, ModelConfig):
        config = dataclasses.replace(model, **given)
    elif isinstance(model, (str, Path)):
        config = ModelConfig(path=str(model), **given)
    else:
        _check_pipeline(model, settings)
        config = ModelConfig(path=type(model).__name__, **given)
    config.check("model.")
    return config


def _check_pipeline(model: Any, settings: dict[str, Any]) -> None:
    if not all(hasattr(model, part) for part in ("components", "config", "scheduler")):
        raise UserError(
            f"mitune.load: a {type(model).__name__} is no model; give a path, a Hub id or a diffusers pipeline"
        )
    decided = sorted({*settings} - _OF_PIPELINES)
    if decided:
        raise UserError(
            f"mitune.load: {decided[0]} is the loaded pipeline's own to say; set it there, or give the model's path"
        )


def read_prompts(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    per_category: int | None = None,
    held_out: bool = False,
    picture_column: str | None = None,
) -> list[Task]:
    """Read prompts from a file, a folder, a Hub dataset, or ``"shapes"``, the embedded world.

    Args:
        source: .txt (a prompt a line), .csv, .tsv, .json, .jsonl, .parquet, a folder of them, or a Hub id.
        split: of a source that has several (default: train).
        limit: at most so many, spread evenly over the categories.
        per_category: at most so many of each category.
        held_out: take a held-out split where none is named.
        picture_column: of a table for a model that edits pictures: it names the picture.

    >>> len(read_prompts("shapes", limit=2))
    2

    Raises UserError: no such source, nothing in it, an unknown split.
    """
    return load_prompts(source, split, limit, per_category, held_out=held_out, picture_column=picture_column)
