"""Whether the parts of a pipeline fit together, beyond what its libraries look at."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from mitune.errors import UserError, short
from mitune.families.config_bounds import LARGEST_LATENT
from mitune.reading import is_number, is_whole
from mitune.scheduler_config import is_flow

_SPECIAL = 2  # tokens that stand around a prompt
_LEAST = 4  # of the words a text encoder has, a tokenizer knows at least one in so many
_FILES = "tokenizer.json, vocab.json and merges.txt, spiece.model or tokenizer.model"
_SINGLE = re.compile(r"(.|<0x[0-9A-F]{2}>)(</w>)?", re.DOTALL)  # what needs no merging


def check_whole(pipeline: Any, network: str, encoders: Sequence[str], name: str) -> None:
    """Raise UserError unless ``pipeline`` has its parts, the sides of its latents and its scaling are numbers, its
    scheduler is of a kind known here, and its tokenizers are those of their text encoders. Prompts are bounded, see
    ``_bound``.
    """
    for part in (network, "vae", "scheduler"):
        if getattr(pipeline, part, None) is None:
            raise UserError(
                f"{name} has no {part}: nothing can be drawn; use a folder that has all components its"
                " model_index.json should name"
            )
    _check_scheduler_kind(pipeline.scheduler)
    _check_sides(getattr(pipeline, network).config, network, name)
    check_scaling(pipeline.vae.config, name)
    for encoder_name in encoders:
        encoder = getattr(pipeline, encoder_name, None)
        key = encoder_name.replace("text_encoder", "tokenizer")
        if encoder is None:
            continue
        tokenizer = getattr(pipeline, key, None)
        if tokenizer is None:
            raise UserError(f"{name} has no {key}: prompts cannot be encoded; use a folder that has one")
        _check_tokenizer(tokenizer, encoder, key, name)
        _bound(pipeline, tokenizer, encoder, key)


def _check_scheduler_kind(scheduler: Any) -> None:
    """A configuration may name betas that its scheduler's class does not know."""
    known = inspect.signature(type(scheduler).__init__).parameters
    if "beta_schedule" not in known and not is_flow(scheduler.config):
        raise UserError(
            f"the model's scheduler is a {type(scheduler).__name__}, which has no beta schedule and is no rectified"
            " flow; models of other kinds are not known here"
        )


def _check_sides(config: Any, network: str, name: str) -> None:
    own = getattr(config, "sample_size", None)
    sides = list(own) if isinstance(own, (list, tuple)) else [own, own]
    if own is not None and not (
        len(sides) == 2 and all(is_whole(side) and 0 < side <= LARGEST_LATENT for side in sides)
    ):
        raise UserError(
            f"{name}: the {network}'s config.json says sample_size={short(str(own))}, which is no size of a latent (1"
            f" to {LARGEST_LATENT}); mend it"
        )


def check_scaling(config: Any, name: str) -> None:
    """Raise UserError for an autoencoder's configuration whose scaling makes no latents: a scale that is said to be
    nothing (one that is not said is its class's), or numbers beyond all models.
    """
    for key, least, most in (("scaling_factor", 1e-4, 1e4), ("shift_factor", -1e4, 1e4)):
        value = getattr(config, key, 1.0)
        if value is None and key == "shift_factor":
            continue
        if not is_number(value) or not least <= value <= most:
            raise UserError(
                f"{name}: the autoencoder's config.json says {key}={short(str(value))}, which is no number from"
                f" {least:g} to {most:g}; mend it"
            )


def _check_tokenizer(tokenizer: Any, encoder: Any, key: str, name: str) -> None:
    longest = tokenizer.model_max_length
    if not isinstance(longest, (int, float)) or not longest > _SPECIAL:
        raise UserError(
            f"{name}: its {key} says model_max_length={short(str(longest))}, which leaves no room for a prompt;"
            " mend tokenizer_config.json, or take the key out"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{name}: its {key} has no pad_token, and prompts are padded; add it to tokenizer_config.json"
        )
    embeddings = encoder.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    check_vocabulary(tokenizer, rows, f"{name}: its {key}")
    if rows is not None and len(tokenizer) > rows:
        raise UserError(
            f"{name}: its {key} knows {len(tokenizer)} tokens, and the text encoder beside it has {rows}; they are"
            " not of one model"
        )


def _bound(pipeline: Any, tokenizer: Any, encoder: Any, key: str) -> None:
    """Let the tokenizer of a CLIP cut prompts where its text encoder ends: one whose configuration lacks
    ``model_max_length`` does not cut at all. (T5 and Gemma are told a length with every prompt.)
    """
    positions = getattr(encoder.config, "max_position_embeddings", None)
    is_clip = str(getattr(encoder.config, "model_type", "")).startswith("clip")
    if is_clip and positions is not None and tokenizer.model_max_length > positions:
        tokenizer.model_max_length = positions
        if key == "tokenizer" and hasattr(pipeline, "tokenizer_max_length"):
            pipeline.tokenizer_max_length = positions  # its pipeline's own copy


def check_vocabulary(tokenizer: Any, rows: int | None, what: str) -> None:
    """Raise UserError, beginning with ``what``, for a tokenizer that knows hardly any of the ``rows`` tokens of the
    text encoder beside it (None: not known), or has no merges that make words of letters: without its files,
    transformers makes one of special tokens alone and says nothing.
    """
    words = set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab())
    if len(words) * _LEAST < (rows or _LEAST):
        told = f", of the {rows} of its text encoder" if rows else ""
        raise UserError(
            f"{what} has no vocabulary: it knows {len(words)} words{told}; one of its files ({_FILES}) is missing or"
            " cut short: fetch it again"
        )
    if "merges_file" in (getattr(tokenizer, "vocab_files_names", None) or {}) and _lacks_merges(
        tokenizer, words
    ):
        raise UserError(
            f"{what} has no merges that make words of letters (its merges.txt, or those in tokenizer.json); fetch it"
            " again"
        )


def _lacks_merges(tokenizer: Any, words: set[str]) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    model = json.loads(backend.to_str())["model"]
    whole = any(_SINGLE.fullmatch(word) is None for word in words)
    return model.get("type") == "BPE" and not model.get("merges") and whole
