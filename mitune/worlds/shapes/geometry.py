"""Shapes as plane geometry, and the relations between two of them: defined once, for sampler and oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np

from mitune.worlds.shapes.vocabulary import RELATIONS

Array = np.ndarray[Any, Any]

ARM = 0.38  # half the width of a cross's arms, in radii

# Corners in units of the radius, y downwards. A circle is a point with a rim of one radius around it.
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "circle": [(0, 0)],
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "cross": [
        (-ARM, -1), (ARM, -1), (ARM, -ARM), (1, -ARM), (1, ARM), (ARM, ARM),
        (ARM, 1), (-ARM, 1), (-ARM, ARM), (-1, ARM), (-1, -ARM), (-ARM, -ARM),
    ],
}  # fmt: skip


class Placed(Protocol):
    """Anything with a centre and a radius, in px."""

    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def radius(self) -> float: ...


class PlacedShape(Placed, Protocol):
    """A placed shape has an outline that is known."""

    @property
    def shape(self) -> str: ...


def inside(shape: str, u: Array, v: Array) -> Array:
    """Tell whether points lie inside the unit shape; `u` (right) and `v` (down) broadcast, in radii. Boolean."""
    if shape == "circle":
        return u * u + v * v <= 1.0
    if shape == "square":
        return (np.abs(u) <= 1.0) & (np.abs(v) <= 1.0)
    if shape == "triangle":
        return (np.abs(u) <= 0.5 * (v + 1.0)) & (v <= 1.0)
    if shape == "cross":
        au, av = np.abs(u), np.abs(v)
        return ((au <= ARM) & (av <= 1.0)) | ((av <= ARM) & (au <= 1.0))
    raise ValueError(f"unknown shape {shape!r}")


@cache
def _unit_corners(shape: str) -> Array:
    return np.asarray(_CORNERS[shape], dtype=np.float64)


@cache
def _unit_outline(shape: str) -> Array:
    """Some 96 points on the outline, [K, 2], to detect overlap with."""
    if shape == "circle":
        angle = np.linspace(0.0, 2 * math.pi, 96, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    corners = _unit_corners(shape)
    step = np.linspace(0.0, 1.0, 96 // len(corners), endpoint=False)[None, :, None]
    return (corners[:, None] * (1 - step) + np.roll(corners, -1, axis=0)[:, None] * step).reshape(-1, 2)


@cache
def _unit_edges(shape: str) -> tuple[Array, Array]:
    """The edges that leave the corners, [K, 2], and their squared lengths, [K] (1 for a point)."""
    edges = np.roll(_unit_corners(shape), -1, axis=0) - _unit_corners(shape)
    lengths = (edges * edges).sum(-1)
    return edges, np.where(lengths > 0, lengths, 1.0)


def _corners_to_edges(a: PlacedShape, b: PlacedShape) -> float:
    """Smallest distance in px from the corners of `a` to the edges of `b`."""
    edges, lengths = _unit_edges(b.shape)
    shift = np.array([(a.x - b.x) / b.radius, (a.y - b.y) / b.radius])
    corners = _unit_corners(a.shape) * (a.radius / b.radius) + shift
    offset = corners[:, None] - _unit_corners(b.shape)
    along = np.minimum(np.maximum(np.einsum("ijk,jk->ij", offset, edges) / lengths, 0.0), 1.0)
    nearest = offset - along[..., None] * edges
    return b.radius * math.sqrt(np.einsum("ijk,ijk->ij", nearest, nearest).min())


def _reaches_into(a: PlacedShape, b: PlacedShape) -> bool:
    points = _unit_outline(a.shape) * (a.radius / b.radius)
    u = points[:, 0] + (a.x - b.x) / b.radius
    v = points[:, 1] + (a.y - b.y) / b.radius
    return bool(inside(b.shape, u, v).any())


def shape_gap(a: PlacedShape, b: PlacedShape) -> float:
    """Distance between two outlines in px; −1 where they overlap."""
    reach = a.radius + b.radius
    boxes_meet = abs(a.x - b.x) < reach and abs(a.y - b.y) < reach
    if boxes_meet and (_reaches_into(a, b) or _reaches_into(b, a)):
        return -1.0
    distance = min(_corners_to_edges(a, b), _corners_to_edges(b, a))
    rim = (a.radius if a.shape == "circle" else 0.0) + (b.radius if b.shape == "circle" else 0.0)
    return max(distance - rim, 0.0)


# Each threshold: (what the oracle asks, what the sampler keeps to, so that a small error does not matter).
_DOMINANCE = (1.0, 1.4)  # centre difference along the axis, as a multiple of the one across
_SHIFT = (5.0, 10.0)  # px, centre difference along the axis
_TOUCHING = (2.5, 1.0)  # px, largest gap
_FAR = (12.0, 14.0)  # px, smallest gap
_RATIO = (1.15, 1.4)  # of the radii

CLEAR_RATIO = _RATIO[1]
TOUCHING_GAP = _TOUCHING[1]


def relation_holds(
    relation: str, a: Placed, b: Placed, gap: Callable[[Any, Any], float], clear: bool = False
) -> bool:
    """Tell whether `a RELATION b` holds.

    Args:
        relation: ValueError for an unknown one; `a`, `b`: the shapes.
        gap: `gap(a, b)` in px is called only if the relation is about it.
        clear: ask for the sampler's margin.
    """
    if relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}; known: {', '.join(RELATIONS)}")
    level = 1 if clear else 0
    if relation == "touching":
        return gap(a, b) <= _TOUCHING[level]
    if relation == "far from":
        return gap(a, b) >= _FAR[level]
    if relation == "bigger than":
        return a.radius >= _RATIO[level] * b.radius
    if relation == "smaller than":
        return b.radius >= _RATIO[level] * a.radius
    right, down = b.x - a.x, b.y - a.y
    along, across = {
        "left of": (right, down),
        "right of": (-right, down),
        "above": (down, right),
        "below": (-down, right),
    }[relation]
    return along >= _SHIFT[level] and along > _DOMINANCE[level] * abs(across)
