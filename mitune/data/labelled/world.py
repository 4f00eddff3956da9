"""The embedded world as labelled pictures: scenes of its prompts, whose masks the renderer knows to the pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from mitune.data.dataset import encode_png
from mitune.worlds.shapes import CATEGORIES, PromptSpec, parse_prompt, random_scene, render, split
from mitune.worlds.shapes.scenes import Scene

SCENES = 100
"""Scenes where no limit is given."""


def world_scenes(part: str, count: int, seed: int) -> list[tuple[str, tuple[str, ...], Scene]]:
    """Draw (prompt, its phrases, a scene of which it is true) by ``seed``, the categories in turn; ``part``: "train" or
    "test" of the prompts. In none is a phrase true of another object, too: either place would be right."""
    turns = [_of(category, part, seed) for category in CATEGORIES]
    found: list[tuple[str, tuple[str, ...], Scene]] = []
    while len(found) < count and turns:
        for turn in list(turns):
            one = next(turn, None)
            if one is None:
                turns.remove(turn)
            elif len(found) < count:
                found.append(one)
    return found


def _of(category: str, part: str, seed: int) -> Iterator[tuple[str, tuple[str, ...], Scene]]:
    texts = split(category, part)
    rng = np.random.default_rng([seed, CATEGORIES.index(category), part == "test"])
    for number in rng.permutation(len(texts)).tolist():
        spec = parse_prompt(texts[number])
        scene = random_scene(rng, spec)
        if not _ambiguous(spec, scene):
            yield texts[number], tuple(str(one) for one in spec.objects), scene


def _ambiguous(spec: PromptSpec, scene: Scene) -> bool:
    return any(
        all(getattr(thing, name) == value for name, value in one.stated().items())
        for i, one in enumerate(spec.objects)
        for j, thing in enumerate(scene.objects)
        if i != j
    )


def scene_png(scene: Scene) -> bytes:
    """Draw a scene as a PNG file."""
    return encode_png(Image.fromarray(render(scene)[0]))


def scene_label(scene: Scene) -> Any:
    """Give the number (from 1) of the object at each pixel [H, W], 0 for none."""
    _, inside = render(scene)
    return np.where(inside.any(0), inside.argmax(0) + 1, 0).astype(np.int64)
