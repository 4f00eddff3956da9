"""Heatmaps: for each phrase of a prompt, where in a picture it is, from 0 to 1.

    found = heatmaps(denoiser, z0, [Asked(text, find(text, ["a red circle", "a blue square"]))], [seed])

A map is the attention of the picture's cells to the words of a phrase, averaged over noise levels, layers and heads,
refined by the picture's attention to itself, times the gap that the phrase makes in the prediction (see
``collecting`` and ``information``), and pressed down where the phrase explains the picture badly (``calibration``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.maps import AttentionMaps, resized
from mitune.pixels.calibration import calibrated, strengths
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.collecting import Collector, Found
from mitune.pixels.phrases import Asked
from mitune.pixels.upsample import upsampled

_CELLS = 0.4  # a cell whose stretched map is above this looks at the phrase (DiffPNG's β)
_BELL = 3.0  # deviation of the weights of the layers, in layers
_BY_SIDE = {8: 15.0, 16: 10.0, 32: 1.0, 64: 1.0}  # of the latent of 64 cells a side that they were chosen on
_STRETCHED = {8: 0.3, 16: 0.5, 32: 0.1, 64: 0.1}  # likewise


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Holds the heatmaps of one picture.

    Attributes:
        maps: [P, h, w] in [0, 1], of the latent's cells, or of the picture's pixels where a picture was given.
        losses: [P] float64, how badly each phrase explains the picture; NaN where that was not measured.
        scores: [P] float64, S: 1 for the phrase that explains it best, less for others (γ at least).
        forwards: network rows that it took.
        refined: whether attention was refined by the picture's attention to itself: a family may have none (linear
            attention), and its maps are then left as they are.
    """

    maps: Tensor
    losses: Tensor
    scores: Tensor
    forwards: int
    refined: bool


def heatmaps(
    denoiser: Denoiser,
    z0: Tensor,
    asked: Sequence[Asked],
    seeds: Sequence[int],
    settings: HeatmapConfig | None = None,
    batch_size: int = 64,
    pictures: Tensor | None = None,
) -> list[Heatmaps]:
    """Find where in each picture each phrase of its prompt is.

    Args:
        denoiser: of the network.
        z0: latents [n, C, H, W].
        asked: n prompts with their phrases.
        seeds: n; the noise of a picture follows from its own.
        settings: null keys are as the method has them.
        batch_size: rows of a forward; what is found does not depend on it, but for rounding.
        pictures: [n, 3, height, width] in [0, 1], to whose size the maps are brought.

    UserError for a prompt without phrases or with one that is not read, and for a network without maps.
    """
    if not len(z0) == len(asked) == len(seeds):
        raise ValueError(f"{len(z0)} latents need as many prompts and seeds")
    chosen = (settings or HeatmapConfig()).filled()
    found = Collector(denoiser, chosen, batch_size).collect(z0, asked, seeds)
    return [
        made(one, chosen, tuple(z0.shape[-2:]), None if pictures is None else pictures[i])
        for i, one in enumerate(found)
    ]


def made(found: Found, settings: HeatmapConfig, grid: tuple[int, ...], picture: Tensor | None) -> Heatmaps:
    """Make the heatmaps of one picture of what was measured; ``settings``: without nulls, and of what was measured."""
    count = len(found.losses[0]) if found.losses is not None else _count(found)
    losses = torch.full((count,), torch.nan, dtype=torch.float64)
    table = torch.zeros(1, count)
    if found.losses is not None:
        losses, table = found.losses.mean(0), found.losses
    scores = strengths(table, settings)
    maps = _maps(found, settings, grid, scores)
    if picture is not None:
        size = (int(picture.shape[-2]), int(picture.shape[-1]))
        maps = stretched(upsampled(maps, size, str(settings.upsample), picture.to(maps.device)))
    known = settings.refine != "none" and any(seen.own is not None for _, seen in found.looks)
    return Heatmaps(maps, losses, scores, found.forwards, known)


def _count(found: Found) -> int:
    return len(found.gaps) if found.gaps is not None else sum(len(numbers) for numbers, _ in found.looks)


def _maps(found: Found, settings: HeatmapConfig, grid: Sequence[int], scores: Tensor) -> Tensor:
    """Attention, gap or both [P, H, W], calibrated."""
    late = settings.order == "refine" or settings.refine == "none"
    maps = raw = None
    if found.looks:
        parts: dict[int, Tensor] = {}
        plain: dict[int, Tensor] = {}
        for numbers, seen in found.looks:
            own = stretched(weighted(seen, str(settings.layers)))
            own = own if late else calibrated(own, scores[list(numbers)])
            refined_maps = refined(own, seen, str(settings.refine), int(settings.power or 0))
            parts |= dict(zip(numbers, refined_maps, strict=True))
            plain |= dict(zip(numbers, own, strict=True))
        maps, raw = (
            stretched(resized(torch.stack([own[i] for i in range(len(own))])[None], grid)[0])
            for own in (parts, plain)
        )
    if found.gaps is not None:
        gaps = stretched(found.gaps.float().clamp_min(0))
        # Refining spreads a map over the whole of a thing, and a little beyond: the attention itself holds it there.
        maps = gaps if maps is None or raw is None else stretched((maps * raw * gaps) ** (1 / 3))
    assert maps is not None
    return calibrated(maps, scores) if late else maps


def stretched(maps: Tensor) -> Tensor:
    """Each map [P, h, w] from 0 to 1; a flat one is 0, and one with values that are no numbers stays none."""
    low, high = maps.flatten(1).aminmax(dim=1)
    low, spread = low.reshape(-1, 1, 1), (high - low).reshape(-1, 1, 1)
    return torch.where(spread == 0, 0.0, (maps - low) / spread.clamp_min(torch.finfo(maps.dtype).tiny))


def weighted(maps: AttentionMaps, layers: str) -> Tensor:
    """The mean [P, H, W] over the layers of the cross maps of one row, weighted as ``layers`` says."""
    cross = maps.cross[0]
    if layers in ("stretched", "grids"):
        sides = sorted(set(maps.sides))
        of = {
            side: stretched(cross[[i for i, own in enumerate(maps.sides) if own == side]].mean(0))
            for side in sides
        }
        if layers == "grids":
            # The coarse grid knows which thing, the fine one where: a cell has to be warm in both.
            return torch.stack([*of.values()]).prod(0) ** (1 / len(of))
        weights = _by_side(sides, _STRETCHED)
        return sum(of[side] * weight for side, weight in zip(sides, weights, strict=True)) / sum(weights)  # type: ignore[return-value]
    weight = torch.tensor(_layer_weights(maps, layers)).to(cross)
    return torch.einsum("l,lphw->phw", weight / weight.sum(), cross)


def _layer_weights(maps: AttentionMaps, layers: str) -> list[float]:
    count = len(maps.places)
    if layers == "inner" and count > 1:
        return [1.0] * (count - 1) + [0.0]
    if layers == "outer":
        outer = [float("mid_block" not in place) for place in maps.places]
        return outer if any(outer) else [1.0] * count
    if layers == "gaussian":
        steps = torch.arange(count) - (count - 1) / 2
        return torch.exp(-steps.square() / (2 * _BELL**2)).tolist()
    if layers == "paper":
        return _by_side(maps.sides, _BY_SIDE)
    return [1.0] * count


def _by_side(sides: Sequence[int], weights: dict[int, float]) -> list[float]:
    """The weight of each grid, the finest of which stands for one of 64 cells a side."""
    finest = max(sides)
    return [weights[min(weights, key=lambda known: abs(known - 64 * side / finest))] for side in sides]


def refined(maps: Tensor, seen: AttentionMaps, how: str, power: int) -> Tensor:
    """Maps [P, H, W] refined by the picture's attention to itself, on its grid; as they are where it has none."""
    if how == "none" or seen.own is None or seen.late is None or seen.grid is None:
        return maps
    own, late = seen.own[0], seen.late[0]
    cells = resized(maps[None], seen.grid)[0].flatten(1)
    if how == "cells":
        chosen = (stretched(cells[:, None])[:, 0] > _CELLS).to(own)
        cells = chosen @ own / chosen.sum(1, keepdim=True).clamp_min(1)
    elif how == "twice":
        cells = cells @ own.T @ late.T
    else:
        by = own + own.T if how == "mutual" else own
        by = by / by.sum(1, keepdim=True)
        for _ in range(power):
            cells = cells @ by.T
    return cells.unflatten(1, seen.grid)
