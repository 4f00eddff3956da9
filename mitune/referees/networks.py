"""The networks of judges, opened from transformers folders: whole, frozen, and of the class that was meant."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch

from mitune.errors import UserError
from mitune.families.weight_files import POSITIONS, check_finite, check_loaded
from mitune.families.wholeness import check_vocabulary
from mitune.reading import reading
from mitune.referees.judge_files import JudgeSource
from mitune.referees.preprocess import Preprocess, read_preprocess


def check_model_type(source: JudgeSource, known: Collection[str], title: str) -> str:
    """Give the ``model_type`` that ``config.json`` says. Raises UserError unless it is one of ``known``.

    ``title``: what such a model is called, in messages.
    """
    kind = source.configuration().get("model_type")
    if kind not in known:
        raise UserError(f"{source.key}={source.name} is no {title}: its config.json says model_type={kind}")
    return str(kind)


def open_network(
    kind: Any,
    source: JudgeSource,
    title: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    missing: re.Pattern[str] = POSITIONS,
) -> Any:
    """Open a network by its transformers class, frozen and in evaluation; gradients still flow through it.

    Args:
        kind: the class (or Auto class) that opens it.
        source: where it is.
        title: what a model of this kind is called, in messages.
        device, dtype: where it computes, and in which numbers.
        missing: names of weights that need not be in the file.

    Raises UserError: weights that are missing, of other shapes, of another class, or no finite numbers.
    """
    what = f"{source.key}={source.name}"
    folder = source.open()
    with reading(what, f"give a whole {title} folder"):
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # the report lists them, and they are refused
            output_loading_info=True,
        )
    check_loaded(title, report, what, missing)
    check_finite(title, model, what)
    return model.to(device).eval().requires_grad_(False)


def open_tokenizer(kind: Any, source: JudgeSource, vocabulary: int) -> Any:
    """Open a tokenizer by its transformers class. Raises UserError where its words are more than the ``vocabulary`` of
    the network.
    """
    what = f"{source.key}={source.name}: its tokenizer"
    with reading(what, "fetch it again"):
        tokenizer = kind.from_pretrained(source.open())
    check_vocabulary(tokenizer, vocabulary, what)
    return tokenizer


def preprocess_of(source: JudgeSource) -> Preprocess:
    """Read how a judge's pictures are prepared, from ``preprocessor_config.json``. Raises UserError for a form that is
    not known here.
    """
    where = f"{source.key}={source.name}"
    settings = source.preprocessing()
    with reading(f"{where}: preprocessor_config.json", "fetch it again"):
        return read_preprocess(settings, where)
