"""Heatmaps and masks as pictures: grey levels, colours over the picture, and palette files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

HOTTEST = 255
"""The grey level of heat 1."""
Levels = NDArray[np.uint8]
_SHARE = 0.55  # of the colour over a picture, at full heat
# From cold to hot, even in lightness steps: dark blue, violet, red, orange, pale yellow.
_HEAT = ((13, 8, 60), (110, 20, 120), (200, 50, 80), (250, 140, 30), (252, 245, 165))


def levels(heat: ArrayLike) -> Levels:
    """Give heat in [0, 1] as grey levels, the nearest of 256: what is on the disk, and what masks are made of."""
    return np.rint(np.clip(np.nan_to_num(np.asarray(heat, dtype=np.float64)), 0, 1) * HOTTEST).astype(
        np.uint8
    )


def grey_png(grey: Levels) -> bytes:
    """Write grey levels [H, W] as a PNG file."""
    return _png(Image.fromarray(grey))


def read_grey(data: bytes) -> Levels:
    """Read a PNG file of ours back as levels [H, W]."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def palette(count: int = 256) -> list[tuple[int, int, int]]:
    """Give the colours that PASCAL VOC's label pictures have: the bits of the number, highest first, over the channels.

    >>> palette(3)
    [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    """
    return [_colour(number) for number in range(count)]


def _colour(number: int) -> tuple[int, int, int]:
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def mask_png(mask: ArrayLike) -> bytes:
    """Write a mask of numbers [H, W] (0: background) as a palette PNG."""
    picture = Image.fromarray(np.asarray(mask, dtype=np.uint8))
    picture.putpalette([level for colour in palette() for level in colour])  # its mode becomes P
    return _png(picture)


def heat_over(picture: Image.Image, grey: Levels) -> Image.Image:
    """Lay a heatmap over a picture of the same size, from dark blue to pale yellow."""
    points = np.linspace(0, HOTTEST, len(_HEAT))
    colours = np.stack([np.interp(grey, points, channel) for channel in zip(*_HEAT, strict=True)], axis=-1)
    return _mixed(picture, colours, np.full(grey.shape, _SHARE))


def mask_over(picture: Image.Image, mask: ArrayLike) -> Image.Image:
    """Lay the masks over a picture of the same size, each in its palette colour; the background stays."""
    numbers = np.asarray(mask, dtype=np.int64)
    colours = np.asarray(palette(), dtype=np.float64)[numbers]
    return _mixed(picture, colours, np.where(numbers > 0, _SHARE, 0.0))


def _mixed(picture: Image.Image, colours: NDArray[np.float64], share: NDArray[np.float64]) -> Image.Image:
    # The picture without its colours: those that are laid over it would be other ones.
    under = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    return Image.fromarray(np.rint(under + share[..., None] * (colours - under)).astype(np.uint8))


def picture_png(picture: Image.Image) -> bytes:
    """Write a picture as a PNG file."""
    return _png(picture)


def resized(heat: Sequence[ArrayLike], size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Bring heatmaps [h, w] to ``size`` (H, W), bilinearly."""
    height, width = size
    found = []
    for one in heat:
        own = Image.fromarray(np.asarray(one, dtype=np.float32))
        fit = own if own.size == (width, height) else own.resize((width, height), Image.Resampling.BILINEAR)
        found.append(np.asarray(fit))
    return found


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
