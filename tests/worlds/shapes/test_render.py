"""The renderer: its masks and its pixels agree."""

from __future__ import annotations

import numpy as np
import pytest

from mitune.worlds.shapes.geometry import inside
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import Object, Scene, random_scene
from mitune.worlds.shapes.vocabulary import COLOURS, DARK, PICTURE_SIZE, SHAPES, TEXTURES

AREAS = {"circle": np.pi, "square": 4.0, "triangle": 2.0}


def test_masks_and_pixels_agree() -> None:
    rng = np.random.default_rng(21)
    for _ in range(60):
        scene = random_scene(rng)
        picture, masks = render(scene)
        assert picture.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
        assert picture.dtype == np.uint8
        assert masks.shape == (len(scene.objects), PICTURE_SIZE, PICTURE_SIZE)
        assert masks.dtype == bool
        assert masks.sum(axis=0).max() == 1  # no pixel belongs to two objects
        for thing, mask in zip(scene.objects, masks, strict=True):
            centres = np.arange(PICTURE_SIZE) + 0.5
            u, v = (centres[None] - thing.x) / thing.radius, (centres[:, None] - thing.y) / thing.radius
            assert np.array_equal(inside(thing.shape, u, v), mask)
            colour = np.asarray(COLOURS[thing.colour], dtype=float)
            # Inside, every pixel lies between the colour and its dark shade; half of 1/255 for rounding.
            deep = inside(thing.shape, u * 1.25, v * 1.25) & mask
            shade = picture[deep] @ colour / (colour @ colour)
            assert shade.min() >= DARK - 0.01
            assert shade.max() <= 1.01
        # What no mask comes near is background.
        near = np.zeros(masks.shape[1:], dtype=bool)
        for row, column in np.argwhere(masks.any(axis=0)):
            near[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        assert (picture[~near] == scene.background).all()


@pytest.mark.parametrize("shape", list(AREAS))
def test_areas(shape: str) -> None:
    picture, masks = render(Scene((Object(shape, "blue", "solid", 31.3, 32.8, 13.2),), 240))
    assert masks[0].sum() == pytest.approx(AREAS[shape] * 13.2**2, rel=0.04)
    # Anti-aliasing keeps the area too: the background's light that is missing, over that of a covered pixel.
    red = picture[..., 0].astype(float)
    assert ((240 - red) / (240 - COLOURS["blue"][0])).sum() == pytest.approx(AREAS[shape] * 13.2**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_textures(shape: str) -> None:
    dark = {}
    for texture in TEXTURES:
        picture, (filled,) = render(Scene((Object(shape, "green", texture, 32, 32, 12),), 220))
        dark[texture] = (picture[..., 1] < 0.75 * COLOURS["green"][1]) & filled
    assert not dark["solid"].any()
    assert 0.3 < dark["striped"].sum() / filled.sum() < 0.6
    assert 0.1 < dark["dotted"].sum() / filled.sum() < 0.4
    rows = dark["striped"].any(axis=1)
    assert (dark["striped"][rows] == filled[rows]).mean() > 0.9  # a stripe spans the object


def test_same_scene_same_picture() -> None:
    scene = random_scene(np.random.default_rng(3))
    for first, again in zip(render(scene), render(scene), strict=True):
        assert np.array_equal(first, again)
