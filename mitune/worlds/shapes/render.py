"""The renderer: a scene as a 64x64 RGB picture, with the exact mask of every object."""

from __future__ import annotations

import math

import numpy as np

from mitune.worlds.shapes.geometry import Array, inside
from mitune.worlds.shapes.scenes import Object, Scene
from mitune.worlds.shapes.vocabulary import COLOURS, DARK, DOT_RADIUS, PERIOD, PICTURE_SIZE

SUPERSAMPLE = 4  # samples per pixel and axis


def _dark(texture: str, dx: Array, dy: Array) -> Array | None:
    """Where the darker shade goes, from the offsets to the object's centre in px; None for a solid object."""
    if texture == "solid":
        return None
    row = np.mod(dy + PERIOD / 4, PERIOD)  # a light stripe, or a row of dots, lies on the centre
    if texture == "striped":
        return row >= PERIOD / 2
    u, v = np.mod(dx + PERIOD / 2, PERIOD) - PERIOD / 2, np.mod(dy + PERIOD / 2, PERIOD) - PERIOD / 2
    return u * u + v * v <= DOT_RADIUS * DOT_RADIUS


def _pixels(samples: Array) -> Array:
    """Boolean samples [H*S, W*S] averaged to [H, W] coverages in [0, 1]."""
    height, width = samples.shape[0] // SUPERSAMPLE, samples.shape[1] // SUPERSAMPLE
    blocks = samples.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE)
    return blocks.sum(axis=(1, 3), dtype=np.uint8).astype(np.float32) / SUPERSAMPLE**2


def _offsets(centre: float, low: int, high: int, samples: int) -> Array:
    """Offsets in px from an object's centre to the samples of pixels `low` to `high` − 1 on one axis."""
    return (low + (np.arange((high - low) * samples) + 0.5) / samples - centre).astype(np.float32)


def _draw(canvas: Array, thing: Object) -> Array:
    """Blend an object into a float canvas [H, W, 3] in place; returns its mask [H, W]."""
    (left, right), (top, bottom) = (
        (max(math.floor(c - thing.radius), 0), min(math.ceil(c + thing.radius), PICTURE_SIZE))
        for c in (thing.x, thing.y)
    )
    dx = _offsets(thing.x, left, right, SUPERSAMPLE)[None, :]
    dy = _offsets(thing.y, top, bottom, SUPERSAMPLE)[:, None]
    filled = inside(thing.shape, dx / thing.radius, dy / thing.radius)
    coverage = _pixels(filled)
    shade = coverage
    if (dark := _dark(thing.texture, dx, dy)) is not None:
        shade = coverage - (1.0 - DARK) * _pixels(filled & dark)
    box = canvas[top:bottom, left:right]
    box *= (1.0 - coverage)[..., None]
    box += shade[..., None] * np.asarray(COLOURS[thing.colour], dtype=np.float32)
    mask = np.zeros(canvas.shape[:2], dtype=bool)
    u = _offsets(thing.x, left, right, 1)[None, :] / thing.radius
    v = _offsets(thing.y, top, bottom, 1)[:, None] / thing.radius
    mask[top:bottom, left:right] = inside(thing.shape, u, v)
    return mask


def render(scene: Scene) -> tuple[Array, Array]:
    """Give the picture, uint8 [64, 64, 3], and one boolean mask per object, [N, 64, 64], in the scene's order.

    A pixel belongs to the object that its centre lies in.
    """
    canvas = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), scene.background, dtype=np.float32)
    masks = np.stack([_draw(canvas, thing) for thing in scene.objects])
    return (canvas + 0.5).astype(np.uint8), masks
