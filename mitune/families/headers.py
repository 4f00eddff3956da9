"""The header of a safetensors file: which tensors there are, and what else it says. No tensor is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.reading import check_regular, reading


@dataclass(frozen=True)
class Header:
    """The header holds name -> shape and name -> type of the tensors, and the text fields."""

    shapes: dict[str, list[int]]
    types: dict[str, str]
    texts: dict[str, str]

    def layers(self) -> dict[str, Any]:
        """Give name -> a tensor of its shape without contents."""
        import torch

        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}


def read_header(file: Path, way_out: str = "fetch the model again") -> Header:
    """Read the header as the library does. Raises UserError for a damaged file, ending with ``way_out``."""
    from safetensors import safe_open

    check_regular(file)
    with reading(file, way_out), safe_open(str(file), framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        shapes = {name: found.get_shape() for name, found in slices.items()}
        types = {name: found.get_dtype() for name, found in slices.items()}
        return Header(shapes, types, dict(opened.metadata() or {}))


def read_headers(files: Iterable[Path]) -> dict[Path, Header]:
    """Read the headers of a model's weight files. Raises UserError for a damaged one."""
    return {file: read_header(file) for file in files}


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a file's bytes apart: its header, as the JSON object it is, and the bytes of the tensors behind it.

    Raises ValueError for one that is damaged.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def header_text(header: dict[str, Any]) -> bytes:
    """Write a header with its keys in order, which the library leaves to chance."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
