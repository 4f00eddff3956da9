"""Pictures as a user of Python has them: a tensor, PIL images, files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mitune.data.dataset import encode_png
from mitune.data.decoding import decode_picture, open_picture
from mitune.errors import UserError
from mitune.reading import home, read_bytes

_MEND = "give another picture"
_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # what a PNG holds as it is


def several(pictures: Any) -> Any:
    """Give the pictures as several, where there may be one alone: a file, its bytes, a PIL image, a tensor [3, H, W].

    >>> several("picture.png"), several(["one.png", "two.png"])
    (['picture.png'], ['one.png', 'two.png'])
    """
    if isinstance(pictures, Tensor):
        return pictures[None] if pictures.ndim == 3 else pictures
    return [pictures] if isinstance(pictures, (str, Path, bytes, Image.Image)) else pictures


def open_pictures(pictures: Tensor | Sequence[Any], size: tuple[int, int]) -> Tensor:
    """Give pictures [n, 3, H, W] in [0, 1] of ``size`` (H, W).

    Files, their bytes and PIL images are scaled to cover that size and cut to their middle, as ``mitune score`` does; a
    tensor is taken as it is. Raises UserError for a file that is not there or no picture, and for a tensor of another
    shape or range.
    """
    if isinstance(pictures, Tensor):
        return _checked(pictures, size)
    found = [
        _checked(one[None], size)[0] if isinstance(one, Tensor) else _decoded(one, place, size)
        for place, one in enumerate(pictures)
    ]
    return torch.stack(found) if found else torch.empty(0, 3, *size)


def open_images(pictures: Tensor | Sequence[Any]) -> list[Image.Image]:
    """Give pictures as RGB images of their own sizes: files, their bytes, PIL images, tensors [3, H, W] in [0, 1].

    Raises UserError for a file that is not there or no picture.
    """
    return [
        images([one])[0] if isinstance(one, Tensor) else open_picture(*_contents(one, place), _MEND)
        for place, one in enumerate(pictures)
    ]


def _decoded(picture: Any, place: int, size: tuple[int, int]) -> Tensor:
    data, what = _contents(picture, place)
    return decode_picture(data, size, what, _MEND)[0]


def _contents(picture: Any, place: int) -> tuple[bytes, str]:
    """The contents of a picture's file, and what it is in messages."""
    what = f"pictures[{place}]"
    if isinstance(picture, (str, Path)):
        what = str(picture)
        picture = read_bytes(home(picture))
    if not isinstance(picture, (Image.Image, bytes)):
        raise UserError(
            f"{what} is a {type(picture).__name__}; give a path, a PIL image or a tensor [3, H, W] in [0, 1]"
        )
    if isinstance(picture, Image.Image) and picture.mode not in _OF_PNG:
        picture = picture.convert("RGB")
    return encode_png(picture), what


def _checked(given: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(given.shape[1:]) != (3, *size):
        raise UserError(
            f"pictures: a tensor of this model's pictures is [n, 3, {size[0]}, {size[1]}], not"
            f" {list(given.shape)}; give PIL images, which are scaled"
        )
    if not given.is_floating_point() or not bool(((given >= 0) & (given <= 1)).all()):
        raise UserError("pictures: a tensor of pictures has floats from 0 to 1; divide bytes by 255")
    return given.float()


def images(pictures: Sequence[Tensor] | Tensor) -> list[Image.Image]:
    """Give pictures [3, H, W] in [0, 1] as PIL images."""
    return [Image.open(io.BytesIO(encode_png(picture))) for picture in pictures]
