"""The parts of a diffusers pipeline: which have weights, of which class, and each loaded with a look at its report."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mitune.errors import UserError
from mitune.families.config_bounds import check_bounds, check_there
from mitune.families.source import ModelSource, checked_index
from mitune.families.weight_files import (
    BESIDE_TEXTS,
    check_finite,
    check_known_fields,
    check_loaded,
    check_settings,
    check_stem,
    check_stored,
    config_is_quantized,
    read_config,
    variant_of,
    weight_files,
)
from mitune.reading import check_regular, loading, read_json
from mitune.scheduler_config import check_scheduler, check_scheduler_class

LIBRARIES = ("diffusers", "transformers")
# Components of pipelines that no text-to-image forward needs: neither fetched nor loaded.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def pipeline_class(source: ModelSource) -> Any:
    """Find the class that ``model_index.json`` names. Raises UserError if this diffusers has none."""
    import diffusers

    found = getattr(diffusers, source.pipeline, None)
    if found is None:
        raise UserError(
            f"{source.name} is a {source.pipeline}, which diffusers {diffusers.__version__} does not have; "
            "pip install -U diffusers"
        )
    return found


def read_index(folder: Path) -> dict[str, Any]:
    """Read ``model_index.json`` of a folder. Raises UserError for one that is none."""
    return checked_index(read_json(folder / "model_index.json"), folder)


def scheduler_file(folder: Path, index: Mapping[str, Any]) -> Path:
    """Find the configuration of a folder's scheduler, of the class that ``model_index.json`` says.

    Raises UserError: none, one that cannot be followed, one of another kind of class.
    """
    import diffusers

    file = folder / "scheduler" / "scheduler_config.json"
    check_there(file)
    check_regular(file)
    config = read_config(file)
    check_scheduler(config, whole=False)
    named = index.get("scheduler")
    name = str(named[1]) if isinstance(named, list) and len(named) == 2 else ""
    made_by = getattr(diffusers, name, None)
    if isinstance(made_by, type):
        check_scheduler_class(config, name, inspect.signature(made_by).parameters, file)
    return file


def model_classes(index: Mapping[str, Any]) -> dict[str, type]:
    """Find the components of ``model_index.json`` that have weights and are needed, and their classes.

    Raises UserError for a class of another library than diffusers and transformers: naming one is no reason to import
    it.
    """
    found = {}
    for name, value in index.items():
        if not isinstance(value, list) or value[0] is None or name in UNUSED:
            continue
        library, kind = value
        if library not in LIBRARIES:
            raise UserError(
                f"model_index.json says that its {name} is a {kind} of {library}; only parts of"
                f" {' and '.join(LIBRARIES)} are loaded, never code that comes with a model"
            )
        made_by = getattr(importlib.import_module(library), kind, None)
        if not isinstance(made_by, type) or not hasattr(made_by, "from_pretrained"):
            raise UserError(
                f"model_index.json says that its {name} is a {kind}, which the installed {library} does not have;"
                f" pip install -U {library}"
            )
        if issubclass(made_by, torch.nn.Module):
            found[name] = made_by
    return found


def load_component(
    folder: Path,
    name: str,
    made_by: Any,
    variant: str | None,
    dtype: torch.dtype,
    quantized: Any = None,
) -> tuple[Any, list[Path]]:
    """Load a component with weights as the pipeline would load it; gives it, and the files they were in.

    Args:
        folder: of the pipeline.
        name: of the component, and of its folder.
        made_by: its class.
        variant: of the weights, where it has files of it.
        dtype: of the weights.
        quantized: how they are stored in fewer bits, as its library takes it.

    Raises UserError: it cannot be loaded, or weights of it are missing, left over or of another shape.
    """
    part = folder / name
    headers = weight_files(folder, name, variant)
    check_settings(part)
    check_stored(headers, name, config_is_quantized(part))
    check_bounds(part, headers)
    text = made_by.__module__.startswith("transformers.")
    check_stem(headers, part, text)
    more: dict[str, Any] = {"use_safetensors": True, "low_cpu_mem_usage": True}
    more["variant"] = variant_of(folder, name, variant)
    if quantized is not None:
        more["quantization_config"] = quantized
    elif not config_is_quantized(part):
        more["ignore_mismatched_sizes"] = True  # then the report lists them, and they are refused
    more = {key: value for key, value in more.items() if value is not None}
    more["dtype" if text else "torch_dtype"] = dtype
    with loading(f"the {name} in {part} cannot be loaded"):
        module, report = made_by.from_pretrained(
            str(part), local_files_only=True, output_loading_info=True, **more
        )
    check_loaded(name, report, part, BESIDE_TEXTS if text else None)
    check_finite(name, module, part)
    if not text:
        check_known_fields(module, part)
    return module, list(headers)


def check_tokenizers(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise UserError for a tokenizer that does not say how it pads and ends prompts: its class would guess."""
    for name, value in index.items():
        if name.startswith("tokenizer") and isinstance(value, list) and value[0] is not None:
            check_settings(folder / name)
            check_there(folder / name / "tokenizer_config.json")


def without(components: Iterable[str]) -> list[str]:
    """List those of the components that are not loaded."""
    return [part for part in components if part in UNUSED]
