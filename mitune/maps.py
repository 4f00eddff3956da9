"""Maps of attention over a picture, summed while a forward runs: how its cells look at words and at one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.errors import UserError

LARGEST = 32
"""Cells along the longer side of the grid that maps of a picture to itself are kept on, at most."""

Columns = Mapping[str, tuple[int, ...]]
"""Encoder -> the columns of the condition's text that a word has in it."""
Shape = tuple[int, int]


class Place(Protocol):
    """Says where in a prompt a phrase is: its characters, and those of its noun (``mitune.pixels.phrases.Phrase``)."""

    @property
    def text(self) -> str:
        """The phrase."""

    @property
    def start(self) -> int:
        """Its first character."""

    @property
    def stop(self) -> int:
        """The character behind it."""

    @property
    def noun(self) -> tuple[int, int]:
        """The characters of its head noun."""


class AttentionMaps(NamedTuple):
    """Holds the maps of one forward of n pictures, float32, the mean over the heads.

    Attributes:
        cross: [n, layers, P, H, W]: how each cell looks at each of P words, on the finest grid of these layers.
        own: [n, h·w, h·w]: how each cell looks at the others, rows that sum to 1: the mean over the layers of the
            finest grid of at most ``LARGEST`` cells a side (a finer one is averaged down to it where the network has
            no other). None where the family has no such maps.
        late: the same of the last layers in a row on that grid: in a UNet those behind its narrow middle.
        grid: (h, w).
        sides: the longer side of each cross layer's own grid.
        places: each cross layer's name in the network.
    """

    cross: Tensor
    own: Tensor | None
    late: Tensor | None
    grid: Shape | None
    sides: tuple[int, ...]
    places: tuple[str, ...]


class Parts(NamedTuple):
    """Tells which queries of a layer are the picture's, and which keys are the text's and the picture's."""

    rows: slice
    text: slice | None
    picture: slice | None


class Sums:
    """Adds up the maps of a forward: handed to ``predict`` as its ``tap``.

    Nothing of the size of a map is held but sums: heads are averaged some rows at a time, and of a text only the words
    that were asked for are kept. The output is computed as ever.

    Args:
        parts: of (kind, queries, keys) of a layer.
        grid: (H, W) of the picture's tokens at the network's door.
        words: weights [n, P, tokens] that average the columns of each word; None: every token by itself.
        one_grid: whether all layers look at that grid, so that maps of a fine one have to be averaged down.
        own: whether the maps of the picture to itself are wanted.

    Where the batch has more rows than ``words``, the last ones are looked at: of a guided step those that are told the
    prompt.
    """

    def __init__(
        self,
        parts: Callable[[str, int, int], Parts],
        grid: Shape,
        words: Tensor | None = None,
        one_grid: bool = False,
        own: bool = True,
    ) -> None:
        self._parts, self._grid, self._words, self._one_grid = parts, grid, words, one_grid
        self._wants_own = own
        self._cross: list[tuple[str, Tensor]] = []
        self._own = _Mean()
        self._late = _Mean()
        self._at: Shape | None = None
        self._left = False  # coarser layers came since the last one that counts

    @property
    def batch(self) -> slice:
        """The rows of the batch that are looked at."""
        return slice(None) if self._words is None else slice(-len(self._words), None)

    def take(self, place: str, kind: str, size: Shape, maps: Callable[[slice], Iterator[Tensor]]) -> None:
        """Look at a layer of ``size`` (queries, keys).

        ``maps``: gives [n, rows, keys], the mean over the heads, of some of the queries, in parts.
        """
        parts = self._parts(kind, *size)
        queries = len(range(*parts.rows.indices(size[0])))
        shape = shape_of(queries, self._grid)
        target = self._target(shape) if parts.picture is not None and self._wants_own else None
        if parts.text is None and target is None:
            return
        text, own = [], []
        for chunk in maps(parts.rows):
            if parts.text is not None:
                text.append(self._read(chunk[..., parts.text]))
            if target is not None:
                own.append(_coarser(chunk[..., parts.picture], shape, target))
        if text:
            self._cross.append((place, torch.cat(text, -1).unflatten(-1, shape)))
        if target is not None:
            self._add(torch.cat(own, 1), shape, target)

    def _read(self, chunk: Tensor) -> Tensor:
        """The look at each word [n, P, rows] of [n, rows, tokens]."""
        if self._words is None:
            return chunk.transpose(1, 2)
        return self._words.to(chunk) @ chunk.transpose(1, 2)

    def _target(self, shape: Shape) -> Shape | None:
        """The grid that a layer's map of the picture to itself is added on; None where it does not count."""
        target = shape
        while max(target) > LARGEST:
            if not self._one_grid:
                return None
            target = _half(target)
        if self._at is not None and math.prod(target) < math.prod(self._at):
            self._left = True
            return None
        return target

    def _add(self, own: Tensor, shape: Shape, target: Shape) -> None:
        if shape != target:
            own = _coarser(own.transpose(1, 2), shape, target).transpose(1, 2)
        if target != self._at:
            self._own, self._late, self._at = _Mean(), _Mean(), target
        if self._left:
            self._late = _Mean()
        self._left = False
        own = own / own.sum(-1, keepdim=True)
        self._own.add(own)
        self._late.add(own)

    def result(self) -> AttentionMaps:
        """Give the maps of the forward. UserError where no layer read a text."""
        if not self._cross:
            raise UserError(
                "no layer of the network looks from the picture at a text, so there are no maps of words"
            )
        finest = max((maps.shape[-2:] for _, maps in self._cross), key=math.prod)
        cross = torch.stack([resized(maps, finest) for _, maps in self._cross], 1)
        sides = tuple(max(maps.shape[-2:]) for _, maps in self._cross)
        places = tuple(place for place, _ in self._cross)
        return AttentionMaps(cross, self._own.value, self._late.value, self._at, sides, places)


class Together(Sums):
    """Lets several look at one forward, all at the same rows of it."""

    def __init__(self, each: Sequence[Sums]) -> None:
        self._each = each

    @property
    def batch(self) -> slice:
        """The rows of the batch that all of them look at."""
        return self._each[0].batch

    def take(self, place: str, kind: str, size: Shape, maps: Callable[[slice], Iterator[Tensor]]) -> None:
        """Let each look at a layer."""
        for sums in self._each:
            sums.take(place, kind, size, maps)


class _Mean:
    """The mean of what was added, of which only the sum is held."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, value: Tensor) -> None:
        self._total = value.clone() if self._total is None else self._total.add_(value)
        self._count += 1

    @property
    def value(self) -> Tensor | None:
        return None if self._total is None else self._total / self._count


def _half(shape: Shape) -> Shape:
    return (shape[0] + 1) // 2, (shape[1] + 1) // 2


def shape_of(cells: int, grid: Shape) -> Shape:
    """(h, w) of a layer of so many cells: ``grid``, halved as often as a network halves it. UserError for none."""
    shape = grid
    while math.prod(shape) > cells and max(shape) > 1:
        shape = _half(shape)
    if math.prod(shape) != cells:
        raise UserError(
            f"attention on {cells} cells of a picture of {grid[0]} x {grid[1]} is no map that can be read; take another"
            " model"
        )
    return shape


def resized(maps: Tensor, shape: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Maps [n, P, h, w] brought to another grid."""
    if maps.shape[-2:] == tuple(shape):
        return maps
    return F.interpolate(maps, tuple(shape), mode=mode, align_corners=False)


def _coarser(maps: Tensor, shape: Shape, target: Shape) -> Tensor:
    """Mean [..., h·w] over the cells of a coarser grid."""
    if shape == target:
        return maps
    cells = maps.reshape(-1, 1, *shape)
    return F.adaptive_avg_pool2d(cells, target).reshape(*maps.shape[:-1], -1)


def words_of(columns: Sequence[Sequence[Columns]], tokens: int) -> Tensor:
    """Weights [n, P, tokens] that average the columns of each phrase, over its tokens and then over the encoders.

    Pictures of fewer than P phrases have rows of zeros at the end.

    >>> words_of([[{"a": (1, 2), "b": (3,)}]], 5)
    tensor([[[0.0000, 0.2500, 0.2500, 0.5000, 0.0000]]])
    """
    words = torch.zeros(len(columns), max(map(len, columns), default=0), tokens)
    for row, phrases in zip(words, columns, strict=True):
        for weights, encoders in zip(row, phrases, strict=False):
            for places in encoders.values():
                weights[list(places)] += 1 / (len(places) * len(encoders))
    return words
