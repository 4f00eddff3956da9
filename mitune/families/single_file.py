"""A pipeline of one checkpoint file: its layers renamed by diffusers, and every weight of it accounted for."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mitune.errors import UserError, first_line
from mitune.families.components import (
    check_tokenizers,
    load_component,
    model_classes,
    pipeline_class,
    scheduler_file,
    without,
)
from mitune.families.headers import read_header
from mitune.families.marks import apply_marks, read_marks
from mitune.families.single_file_names import check_names
from mitune.families.single_file_report import compare_clip, diagnose, left_over
from mitune.families.source import ModelSource
from mitune.families.weight_files import check_finite, check_loaded, check_stored
from mitune.reading import loading

# Where a checkpoint file keeps the network and the autoencoder.
_GROUPS = {"network": "model.diffusion_model.", "vae": "first_stage_model."}
_CLIPS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.clip_")
_T5 = ("text_encoders.t5xxl.",)
_UNUSED = re.compile(r"were not used when initializing (\w+): \n \[(.*)\]", re.DOTALL)


def open_checkpoint(
    source: ModelSource, file: Path, variant: str | None, dtype: torch.dtype
) -> tuple[Any, list[Path]]:
    """Open the pipeline whose weights are in ``file``, built as ``source`` says, and the files it was read from.

    Raises UserError: it cannot be loaded, weights are missing, left over or of another shape, marks that do not fit.
    """
    made_by = pipeline_class(source)
    if not hasattr(made_by, "from_single_file"):
        raise UserError(f"{file}: a {source.pipeline} cannot be made of one file; give its diffusers folder")
    header = read_header(file, "it is damaged, fetch it again")
    marks = read_marks(file, header)
    check_stored({file: header}, "model")
    layers = header.layers()
    check_names(file, layers, source.pipeline, "unet" in source.index)
    lent, files = _lent(source, file, layers, variant, dtype)
    if source.folder is not None:
        check_tokenizers(source.folder, source.index)
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    with loading(f"{file} cannot be loaded as a {source.pipeline}"), _report() as unused:
        try:
            pipeline = made_by.from_single_file(
                str(file),
                config=str(source.folder or source.built_as),
                torch_dtype=dtype,
                local_files_only=source.folder is not None,
                **dict.fromkeys(without(source.components)),
                **lent,
            )
        except SingleFileComponentError as error:  # it says in many lines how to call diffusers
            raise UserError(f"{file} cannot be loaded as a {source.pipeline}: {first_line(error)}") from error
        except Exception:
            diagnose(source, file, layers)
            raise
    _check(pipeline, file, layers, unused, set(lent))
    apply_marks(pipeline, marks, file)
    if source.folder is not None:
        files.append(scheduler_file(source.folder, source.index))
    return pipeline, [file, *files]


def _lent(
    source: ModelSource, file: Path, layers: Mapping[str, Any], variant: str | None, dtype: torch.dtype
) -> tuple[dict[str, Any], list[Path]]:
    """The text encoders that the file does not hold, from the folder it is built by: diffusers would take them from
    there without a look at what they are. Raises UserError: not there, or a part of one in the file.
    """
    from diffusers.loaders import single_file_utils as theirs

    lent, files = {}, []
    for name, made_by in model_classes(source.index).items():
        large = "T5" in made_by.__name__
        held = theirs.is_clip_model_in_single_file(made_by, layers) or (
            large and theirs.is_t5_in_single_file(layers)
        )
        if not name.startswith("text_encoder") or held:
            continue
        rest = [key for key in layers if key.startswith(_T5 if large else _CLIPS)]
        if rest:
            raise UserError(
                f"{file}: its {name} is incomplete: of its weights there are {len(rest)}, and not those that diffusers"
                f" knows it by; fetch the model again"
            )
        if source.folder is None:
            raise UserError(f"{file} holds no {name}; say model.config=FOLDER of a model that has one")
        with _lacks(file, name):
            lent[name], own = load_component(source.folder, name, made_by, variant, dtype)
        files += own
    return lent, files


@contextlib.contextmanager
def _lacks(file: Path, name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{file} holds no {name}, and in the place of it: {error}") from error


@contextlib.contextmanager
def _report() -> Iterator[dict[str, list[str]]]:
    """Class -> weights that diffusers says it did not use: of a single file it tells nobody but its log."""
    found: dict[str, list[str]] = {}

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            match = _UNUSED.search(record.getMessage())
            if match is not None:
                found[match[1]] = re.findall(r"[\w.]+", match[2])

    log, reader = logging.getLogger("diffusers.loaders.single_file_model"), Reader()
    level, propagates = log.level, log.propagate
    log.addHandler(reader)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        yield found
    finally:
        log.removeHandler(reader)
        log.setLevel(level)
        log.propagate = propagates


def _check(
    pipeline: Any, file: Path, layers: Mapping[str, Any], unused: Mapping[str, list[str]], lent: set[str]
) -> None:
    """Raises UserError for parts whose weights were not all in the file, and for weights that no part took."""
    for name, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module) or name in lent:
            continue
        network = name in ("unet", "transformer")
        missing = [key for key, value in module.state_dict().items() if value.is_meta]
        extra = unused.get(type(module).__name__, [])
        if name == "text_encoder":
            extra = compare_clip(module, layers)["unexpected_keys"]
        if not missing and not extra and (network or name == "vae"):
            extra = left_over(module, layers, _GROUPS["network" if network else "vae"])
        check_loaded(name, {"missing_keys": missing, "unexpected_keys": extra}, file)
        check_finite(name, module, file)
