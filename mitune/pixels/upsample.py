"""From the cells of a latent to the pixels of a picture, with the picture's edges (joint bilateral filter)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.maps import resized

CELL = 8
"""Pixels a cell of the map at which a picture guides: a larger picture is made smaller first."""
_REACH = 16  # pixels to each side that are averaged: two cells
_STEP = 2  # every other one of them
_NEAR = 12.0  # deviation of the weight of a distance, in pixels
_ALIKE = 25 / 255  # and of a difference of colours


def upsampled(maps: Tensor, size: tuple[int, int], how: str, picture: Tensor | None = None) -> Tensor:
    """Bring maps [P, h, w] to ``size`` (height, width); "guided" by a ``picture`` [3, H, W] in [0, 1].

    The guided map of a pixel is the mean of the smooth one around it, of pixels that are near and of like colour.
    """
    mode = "bicubic" if how == "bicubic" else "bilinear"
    if how != "guided" or picture is None:
        return resized(maps[None], size, mode)[0].clamp_min(0)
    working = tuple(min(full, CELL * cells) for full, cells in zip(size, maps.shape[-2:], strict=True))
    colours = F.interpolate(picture[None].float(), working, mode="area")[0]
    return resized(_guided(resized(maps[None], working)[0], colours)[None], size)[0]


def _guided(maps: Tensor, colours: Tensor) -> Tensor:
    """Σ_q w(p, q) map(q) / Σ_q w(p, q) over a window, w = exp(−|p − q|²/2σ² − ‖colour difference‖²/2σ_c²)."""
    height, width = colours.shape[-2:]
    pad = (_REACH,) * 4
    around, there = F.pad(maps, pad), F.pad(colours, pad)
    inside = F.pad(torch.ones_like(colours[:1]), pad)
    total, weights = torch.zeros_like(maps), torch.zeros_like(colours[0])
    for down in range(0, 2 * _REACH + 1, _STEP):
        for right in range(0, 2 * _REACH + 1, _STEP):
            part = slice(down, down + height), slice(right, right + width)
            distance = (down - _REACH) ** 2 + (right - _REACH) ** 2
            unlike = (there[(slice(None), *part)] - colours).square().sum(0)
            weight = torch.exp(-distance / (2 * _NEAR**2) - unlike / (2 * _ALIKE**2)) * inside[(0, *part)]
            total += weight * around[(slice(None), *part)]
            weights += weight
    return total / weights
