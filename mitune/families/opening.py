"""Open the pipeline of a model source: fetch what is needed of it, load it in one number type."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from mitune.errors import UserError, first_line
from mitune.families.source import ModelSource
from mitune.files import read_json

# Of files that do not fit, and of a package that reading them takes (sentencepiece, for some tokenizers).
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)
# Components of pipelines that no text-to-image forward needs: neither fetched nor loaded.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def open_folder(source: ModelSource, variant: str | None) -> Path:
    """The folder of ``source``, fetched from the Hub where it is not here. Raises UserError if that fails."""
    if source.folder is not None or source.file is not None:
        return source.folder or Path()
    try:
        return Path(
            pipeline_class(source).download(
                source.name,
                revision=source.revision,
                variant=variant,
                use_safetensors=True,
                **dict.fromkeys(_without(source.components)),
            )
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{source.name} could not be fetched from the Hub: {first_line(error)}") from error


def open_pipeline(
    source: ModelSource, folder: Path, variant: str | None, dtype: torch.dtype, **more: Any
) -> Any:
    """The diffusers pipeline in ``folder``, on the CPU. Raises UserError if it cannot be loaded."""
    if source.file is not None:
        return _open_file(source, source.file, dtype, **more)
    index = read_json(folder / "model_index.json")
    if "requires_safety_checker" in index:
        more["requires_safety_checker"] = False
    # A component that the pipeline's class asks for and the model does not have must be named as absent.
    absent = [key for key, value in index.items() if isinstance(value, list) and value[:1] == [None]]
    try:
        return pipeline_class(source).from_pretrained(
            str(folder),
            variant=variant,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **dict.fromkeys([*absent, *_without(index)]),
            **more,
        )
    except _FAULTS as error:
        raise UserError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error


def _open_file(source: ModelSource, file: Path, dtype: torch.dtype, **more: Any) -> Any:
    """The pipeline whose weights are all in one checkpoint file, built as ``source`` says."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    made_by = pipeline_class(source)
    if not hasattr(made_by, "from_single_file"):
        raise UserError(f"{file}: a {source.pipeline} cannot be made of one file; give its diffusers folder")
    try:
        return made_by.from_single_file(
            str(file),
            config=str(source.folder or source.built_as),
            torch_dtype=dtype,
            local_files_only=source.folder is not None,
            **dict.fromkeys(_without(source.components)),
            **more,
        )
    except (SingleFileComponentError, *_FAULTS) as error:
        raise UserError(f"{file} cannot be loaded as a {source.pipeline}: {first_line(error)}") from error


def pipeline_class(source: ModelSource) -> Any:
    """The class that ``model_index.json`` names. Raises UserError if this diffusers has none."""
    import diffusers

    found = getattr(diffusers, source.pipeline, None)
    if found is None:
        raise UserError(
            f"{source.name} is a {source.pipeline}, which diffusers {diffusers.__version__} does not have; "
            "pip install -U diffusers"
        )
    return found


def _without(components: Iterable[str]) -> list[str]:
    return [part for part in components if part in UNUSED]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries' loading bars only where somebody watches, and their advice on modules that are left out
    on purpose never.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    libraries = (diffusers_logging, transformers_logging)
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
        diffusers_logging.set_verbosity(level)
        for library in shown:
            library.enable_progress_bar()
