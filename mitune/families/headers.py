"""The header of a safetensors file: which tensors there are, and what else it says. No tensor is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.reading import check_regular, reading


@dataclass(frozen=True)
class Header:
    """Name -> shape and name -> type of the tensors, and the text fields."""

    shapes: dict[str, list[int]]
    types: dict[str, str]
    texts: dict[str, str]


def read_header(file: Path, way_out: str) -> Header:
    """The header as the library reads it. Raises UserError for a damaged file, ending with ``way_out``."""
    from safetensors import safe_open

    check_regular(file)
    with reading(file, way_out), safe_open(str(file), framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        shapes = {name: found.get_shape() for name, found in slices.items()}
        types = {name: found.get_dtype() for name, found in slices.items()}
        return Header(shapes, types, dict(opened.metadata() or {}))


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file whose bytes are at hand, as the JSON object it is, and the bytes of the tensors behind it.
    Raises ValueError for one that is damaged.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def header_text(header: dict[str, Any]) -> bytes:
    """The header as it is written, its keys in order: the library leaves that to chance."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
