"""Views of a picture, as an image-text judge may be shown it: turned, tilted, tinted, partly hidden and noisy.

A judge of one view is easily pleased by a pattern that no person sees; a pattern that pleases it in many views at once
is harder to find (Referee Can Play, arXiv 2402.16305, section 3). What a view is follows from numbers that are drawn
first (``draw``), so that the same numbers give the same views whatever is in the batch; all of it is differentiable.

No flips: they would exchange left and right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mitune.search.catalogue import ViewsConfig

_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
_LONGEST = 3.3  # of an erased rectangle, side to side
# Where the numbers of a view lie: angle, two shifts, perspective or not and its eight moves, colours or not and four.
_NUMBERS = 17
_SIGNED = slice(0, 3)


@dataclass(frozen=True, eq=False)
class Draw:
    """The numbers behind V views of each of n pictures, on the CPU.

    Attributes:
        uniforms: [n, V, 18] in [0, 1); the last is the size of the view's noise.
        erased: [n, 4] in [0, 1): area, shape, and place of the rectangle.
        noise: [n, V, 3, H, W].
    """

    uniforms: Tensor
    erased: Tensor
    noise: Tensor


def draw(generators: Sequence[torch.Generator], settings: ViewsConfig, size: tuple[int, int]) -> Draw:
    """Draw the numbers of the views of each picture from its own generator; ``size``: of a view."""
    parts = [
        (
            torch.rand(settings.number, _NUMBERS + 1, generator=generator),
            torch.rand(4, generator=generator),
            torch.randn(settings.number, 3, *size, generator=generator),
        )
        for generator in generators
    ]
    uniforms, erased, noise = (torch.stack(each) for each in zip(*parts, strict=True))
    return Draw(uniforms, erased, noise)


def size_of(settings: ViewsConfig, pictures: tuple[int, int]) -> tuple[int, int]:
    """Tell (height, width) of the views of pictures of that size."""
    return pictures if settings.size is None else (settings.size, settings.size)


def views(pictures: Tensor, numbers: Draw, settings: ViewsConfig) -> Tensor:
    """Show ``pictures`` [n, 3, H, W]: V views of each [n·V, 3, h, w], picture by picture.

    Pooled, turned and shifted, tilted, tinted, erased, noisy: in this order.
    """
    v = numbers.uniforms.shape[1]
    height, width = numbers.noise.shape[-2:]
    shown = pooled(pictures, (height, width))
    u = numbers.uniforms.flatten(0, 1).to(pictures.device, pictures.dtype)
    angle, across, down = (2 * u[:, _SIGNED] - 1).unbind(1)
    back = turned(
        angle * math.radians(settings.rotate),
        across * settings.shift * width,
        down * settings.shift * height,
        (height, width),
    )
    moves = 0.5 * settings.perspective * u[:, 4:12].unflatten(1, (4, 2))
    moves = moves * (u[:, 3] < settings.perspective_share)[:, None, None]
    back = back @ tilted(moves, (height, width))
    shown = looked_up(shown.repeat_interleave(v, 0), back)
    change = settings.colour * (2 * u[:, 13:17] - 1) * (u[:, 12:13] < settings.colour_share)
    shown = tinted(shown, change)
    hidden = rectangles(numbers.erased.to(u), settings.erase, (height, width))
    shown = shown * (1 - hidden).repeat_interleave(v, 0)
    # A view's own noise and the noise on all: the sum of two Gaussians is one.
    size = ((settings.noise * u[:, 17]).square() + settings.more_noise**2).sqrt()
    return shown + size[:, None, None, None] * numbers.noise.flatten(0, 1).to(shown)


def pooled(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pool to ``size``, half by the mean and half by the maximum."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return 0.5 * (
        functional.adaptive_avg_pool2d(pictures, size) + functional.adaptive_max_pool2d(pictures, size)
    )


def turned(angle: Tensor, across: Tensor, down: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell where each point of a turned and shifted picture came from: [m, 3, 3] on (x, y, 1) in pixels.

    Args:
        angle: [m], in radians, clockwise as y points down: about the middle.
        across, down: [m] shifts after that, in pixels.
        size: (height, width).
    """
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    x, y = size[1] / 2, size[0] / 2
    left, top = x + across, y + down  # where the middle went
    rows = [
        torch.stack([cos, sin, x - cos * left - sin * top], 1),
        torch.stack([-sin, cos, y + sin * left - cos * top], 1),
        torch.stack([zero, zero, one], 1),
    ]
    return torch.stack(rows, 1)


def tilted(moves: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell where each point came from once corners have moved inwards: homographies [m, 3, 3] on (x, y, 1) in pixels.

    ``moves`` [m, 4, 2]: of the corners (top left, top right, bottom right, bottom left), as shares of width and height.
    """
    corners = moves.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    inwards = 1 - 2 * corners
    scale = moves.new_tensor([size[1], size[0]])
    start = (corners * scale).expand_as(moves)
    return homography((corners + inwards * moves) * scale, start)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """Find the plane maps [m, 3, 3] that take the four points ``source`` [m, 4, 2] to ``target`` [m, 4, 2]."""
    x, y = source.double().unbind(-1)
    u, v = target.double().unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    first = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    second = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    entries = torch.linalg.solve(torch.cat([first, second], 1), torch.cat([u, v], 1))
    whole = torch.cat([entries, torch.ones_like(entries[:, :1])], 1)
    return whole.view(-1, 3, 3).to(source.dtype)


def looked_up(pictures: Tensor, back: Tensor) -> Tensor:
    """Draw pictures [m, 3, H, W] anew, each point from where ``back`` [m, 3, 3] sends it; black from outside."""
    height, width = pictures.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=back.device, dtype=back.dtype) + 0.5,
        torch.arange(width, device=back.device, dtype=back.dtype) + 0.5,
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)
    found = points @ back.transpose(1, 2)
    found = found[..., :2] / found[..., 2:]
    grid = 2 * found / found.new_tensor([width, height]) - 1
    return functional.grid_sample(
        pictures, grid.view(-1, height, width, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def tinted(pictures: Tensor, change: Tensor) -> Tensor:
    """Change colours of pictures [m, 3, H, W] in [0, 1] by ``change`` [m, 4]; all 0 changes nothing.

    Brightness times 1 + b; contrast: away from the mean grey by 1 + c; saturation: away from each point's grey by
    1 + s; hue: by h turns of the colour circle.
    """
    touched = (change != 0).any(1).nonzero().flatten()
    if not len(touched):
        return pictures
    own = pictures[touched]
    b, c, s, h = (each[:, None, None, None] for each in change[touched].unbind(1))
    own = (own * (1 + b)).clamp(0, 1)
    mean = _grey(own).mean((-2, -1), keepdim=True)
    own = (mean + (1 + c) * (own - mean)).clamp(0, 1)
    grey = _grey(own)
    own = (grey + (1 + s) * (own - grey)).clamp(0, 1)
    return pictures.index_copy(0, touched, hue_turned(own, h))


def hue_turned(pictures: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of pictures [m, 3, H, W] by ``turns`` [m, 1, 1, 1] of the colour circle, as in HSV."""
    red, green, blue = pictures.unbind(1)
    top, low = pictures.amax(1), pictures.amin(1)
    span = top - low
    coloured = span > 0
    whole = torch.where(coloured, span, torch.ones_like(span))
    # Sixths of the circle; grey has no hue, and no span to show it.
    sixths = torch.where(
        top == red,
        (green - blue) / whole,
        torch.where(top == green, 2 + (blue - red) / whole, 4 + (red - green) / whole),
    )
    sixths = sixths + 6 * turns.squeeze(1)
    # Each channel is the top less span times a trapezium of the hue, two sixths apart.
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sixths).remainder(6)
        channels.append(top - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def rectangles(uniforms: Tensor, area: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Mask [n, 1, H, W] of a rectangle in each picture: 1 inside.

    Args:
        uniforms: [n, 4]: area, shape, place.
        area: the least and the largest share of the picture.
        size: (height, width).
    """
    height, width = size
    share, shape, down, across = uniforms.unbind(1)
    covered = (area[0] + (area[1] - area[0]) * share) * height * width
    ratio = ((2 * shape - 1) * math.log(_LONGEST)).exp()
    tall = (covered * ratio).sqrt().round().clamp(max=height)
    wide = (covered / ratio).sqrt().round().clamp(max=width)
    top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
    y = torch.arange(height, device=uniforms.device).view(1, -1, 1)
    x = torch.arange(width, device=uniforms.device).view(1, 1, -1)
    top, left, tall, wide = (each.view(-1, 1, 1) for each in (top, left, tall, wide))
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return inside.unsqueeze(1).to(uniforms.dtype)


def _grey(pictures: Tensor) -> Tensor:
    weights = pictures.new_tensor(_GREY).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)
