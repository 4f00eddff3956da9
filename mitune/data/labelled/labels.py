"""Label pictures: of every pixel the number of what is there. Palette and grey PNG files, never colours."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mitune.errors import UserError
from mitune.reading import reading

IGNORED = 255
"""The label of pixels that nobody judged: they count neither for nor against."""
Label = NDArray[np.int64]
_MODES = ("P", "L", "1", "I", "I;16")  # of which a pixel is one number


def decode_label(data: bytes, what: str) -> Label:
    """Give the numbers [H, W] of a label picture. Raises UserError naming ``what``: no picture, or one of colours."""
    with reading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Image.open(io.BytesIO(data))
        mode = picture.mode
        numbers = np.asarray(picture) if mode in _MODES else None
    if numbers is None:
        raise UserError(
            f"{what} has colours (mode {mode}), not a number a pixel; save it as a palette or grey PNG of class numbers"
        )
    return numbers.astype(np.int64)


def check_label(label: Label, size: tuple[int, int], most: int, what: str) -> None:
    """Raise UserError for a label of another size than its picture (H, W), or with a number above ``most`` that is not
    255."""
    if label.shape != size:
        raise UserError(
            f"{what} has {label.shape[1]} x {label.shape[0]} pixels, its picture {size[1]} x {size[0]}; give the label"
            " of this picture, at its size"
        )
    wrong = label[(label > most) & (label != IGNORED) | (label < 0)]
    if wrong.size:
        raise UserError(
            f"{what} has the number {wrong[0]} in {wrong.size} pixels; it is 0 for the background, 1 to {most}, or"
            f" {IGNORED} for what is not judged"
        )
