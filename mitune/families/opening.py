"""Open the pipeline of a model source: fetch what is needed of it, load it in one number type."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mitune.errors import UserError
from mitune.families.components import (
    UNUSED,
    check_tokenizers,
    load_component,
    model_classes,
    pipeline_class,
    read_index,
    scheduler_file,
    without,
)
from mitune.families.single_file import open_checkpoint
from mitune.families.source import ModelSource
from mitune.families.weight_files import check_settings, check_variant
from mitune.reading import loading


def open_folder(source: ModelSource, variant: str | None) -> Path:
    """Give the folder of ``source``, fetched from the Hub where it is not here. Raises UserError if that fails."""
    if source.folder is not None or source.file is not None:
        return source.folder or Path()
    made_by = pipeline_class(source)
    with loading(f"{source.name} could not be fetched from the Hub"):
        return Path(
            made_by.download(
                source.name,
                revision=source.revision,
                variant=variant,
                use_safetensors=True,
                **dict.fromkeys(without(source.components)),
            )
        )


def open_pipeline(
    source: ModelSource,
    folder: Path,
    variant: str | None,
    dtype: torch.dtype,
    quantization: Mapping[str, Any] | None = None,
) -> tuple[Any, list[Path]]:
    """Open the diffusers pipeline in ``folder``, on the CPU; gives it, and the files its weights and its scheduler were
    read from.

    Args:
        source: the model that was found.
        folder: where its files are by now.
        variant: of the weights.
        dtype: of the weights.
        quantization: component -> how it is loaded in fewer bits.

    Raises UserError: it cannot be loaded, or weights of it are missing, left over or of another shape.
    """
    if source.file is not None:
        if quantization:
            raise UserError(
                f"model.quantization: {source.file} is a single file, which is not loaded in fewer bits; give its"
                " diffusers folder, or say model.quantization=none"
            )
        return open_checkpoint(source, source.file, variant, dtype)
    index = read_index(folder)
    models = model_classes(index)
    check_variant(folder, models, variant)
    loaded, files = {}, []
    for name, made_by in sorted(models.items(), key=_place):
        quantized = (quantization or {}).get(name)
        loaded[name], own = load_component(folder, name, made_by, variant, dtype, quantized)
        files += own
    more: dict[str, Any] = {"requires_safety_checker": False} if "requires_safety_checker" in index else {}
    for name, value in index.items():
        if isinstance(value, list) and name not in models and name not in UNUSED and value[0] is not None:
            check_settings(folder / name)
    check_tokenizers(folder, index)
    # A component that the pipeline's class asks for and the model does not have must be named as absent.
    absent = [key for key, value in index.items() if isinstance(value, list) and value[:1] == [None]]
    schedule = scheduler_file(folder, index)
    made = pipeline_class(source)
    with loading(f"the model in {folder} cannot be loaded"):
        pipeline = made.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **dict.fromkeys([*absent, *without(index)]),
            **loaded,
            **more,
        )
    return pipeline, [*files, schedule]


def _place(part: tuple[str, type]) -> tuple[int, str]:
    """Where a part's files come in what identifies a model: the network, the text encoders, the rest."""
    name = part[0]
    return (0 if name in ("unet", "transformer") else 1 if name.startswith("text_encoder") else 2), name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show the libraries' loading bars only on a terminal, and their advice on modules that are not there never."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    shown = [
        library for library in libraries if library.is_progress_bar_enabled() and not sys.stderr.isatty()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # diffusers is renaming torch_dtype to dtype; only the old name is known to all versions we allow.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in shown:
            library.enable_progress_bar()
