"""Numbers in a part's ``config.json`` that no model has: refused before a network of that size is built."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mitune.errors import UserError, short
from mitune.families.headers import Header
from mitune.families.weight_files import read_config
from mitune.reading import is_number, is_there

LARGEST_LATENT = 1024  # cells a side: 8192 pixels where an autoencoder makes them eight times smaller
_LARGEST_PICTURE = 8192
_WIDEST = 65_536
_LONGEST = 2**20  # rows of a table of tokens or places
_COUNT = re.compile(r"(^|_)(layers|blocks|depth)(_per_block)?$|layers_per_block$|^n_layer$")
_SIDE = re.compile(r"^(sample_size|pos_embed_max_size)$")
_TABLE = re.compile(r"^(vocab_size|max_position_embeddings)$")
_WIDTH = re.compile(
    r"(channels|dims?|heads|groups|d_model|d_kv|d_ff|(hidden|intermediate|patch|mlp)_size|_embeds)$"
)
_TEXT_WIDTHS = ("hidden_size", "intermediate_size", "d_model", "d_ff")


def check_there(file: Path) -> None:
    """Raise UserError where a file of settings is not there: its library would go by what is usual, or say nothing of
    use.
    """
    if not is_there(file):
        raise UserError(
            f"{file.parent} has no {file.name}, which says how the {file.parent.name} is built; fetch the model again"
        )


def check_bounds(part: Path, headers: Mapping[Path, Header]) -> None:
    """Raise UserError where ``part`` has no configuration (transformers would take its class's own), or one that asks
    for more layers than its weights, of these ``headers``, have tensors, or for widths and sizes beyond all models.
    """
    file = part / "config.json"
    check_there(file)
    config = read_config(file)
    shapes = [shape for header in headers.values() for shape in header.shapes.values()]
    tensors = len(shapes)
    _check_sizes(config, {size for shape in shapes for size in shape}, file)
    side = LARGEST_LATENT if part.name in ("unet", "transformer") else _LARGEST_PICTURE
    layers = 1.0
    for key, numbers in _numbers(config):
        most = max(numbers)
        limits = ((_COUNT, tensors), (_SIDE, side), (_TABLE, _LONGEST), (_WIDTH, _WIDEST))
        limit = next((limit for pattern, limit in limits if pattern.search(key)), None)
        layers *= max(most, 1) if key.endswith("layers_per_block") and "coder" not in key else 1
        if limit is not None and (most > limit or layers > max(tensors, 1)):
            has = f"its weight file has {tensors} tensors" if limit == tensors else f"the most is {limit}"
            raise UserError(
                f"{file} says {key}={short(f'{most:g}')}, and {has}; mend it, or fetch the model again"
            )


def _check_sizes(config: dict[str, Any], sizes: set[int], file: Path) -> None:
    """Raise UserError for a text encoder of another width than its weights: transformers would make random ones of that
    width before it says so.
    """
    if config.get("quantization_config"):  # whose tensors have other shapes
        return
    for key in _TEXT_WIDTHS:
        value = config.get(key)
        if is_number(value) and value not in sizes:
            raise UserError(
                f"{file} says {key}={short(f'{value:g}')}, and no tensor of its weight file has this size; mend it, or"
                " fetch the model again"
            )


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    """Each key, of configurations inside too, and the numbers under it (NaN and infinities count as too large)."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        else:
            found = [*_flat(value)]
            if found:
                yield key, found


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif is_number(value):
        yield value
    elif isinstance(value, float):
        yield math.inf
