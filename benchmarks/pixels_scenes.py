"""Scenes whose masks are known to the pixel: the pictures of the benchmarks about where things are.

Prompts are held-out ones of the embedded world. Those of the dev part and those of the fresh part are different texts,
so nothing that is chosen on the first has been seen in the second.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mitune.pixels.phrases import Asked, find
from mitune.worlds.shapes import CATEGORIES, PromptSpec, parse_prompt, random_scene, render, split
from mitune.worlds.shapes.grammar import ObjectSpec
from mitune.worlds.shapes.scenes import Object, Scene
from mitune.worlds.shapes.vocabulary import COLOURS, SHAPES, SIZES, TEXTURES

PARTS = {"dev": 1, "fresh": 2}
"""Of the prompts, and the seed of their scenes."""
_WORDS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": tuple(SIZES),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pictured:
    """A drawn scene, what is asked about it, and where it is.

    Attributes:
        category: of its prompt.
        asked: the prompt and the phrases of its objects, in text order.
        picture: uint8 [64, 64, 3].
        label: the number of the phrase (from 1) at each pixel [64, 64]; 0: none.
        seed: of the noise.
        absent: how many of the phrases, the last ones, are not in the picture.
    """

    category: str
    asked: Asked
    picture: NDArray[np.uint8]
    label: NDArray[np.int64]
    seed: int
    absent: int = 0


def scenes(part: str, count: int, absent: bool = False) -> list[Pictured]:
    """Draw ``count`` scenes, the categories in turn while they have prompts, none ambiguous.

    ``absent``: of two objects, and with a third in the prompt that is not in the picture.
    """
    turns = [_of(category, part, absent) for category in CATEGORIES if not (absent and category == "complex")]
    every = (scene for row in itertools.zip_longest(*turns) for scene in row if scene is not None)
    found = list(itertools.islice(every, count))
    if len(found) < count:
        raise ValueError(f"the {part} part has {len(found)} scenes, not {count}")
    return found


def tensors(pictured: list[Pictured]) -> Tensor:
    """Give the pictures [n, 3, 64, 64] in [0, 1]."""
    return torch.stack([torch.from_numpy(one.picture).permute(2, 0, 1) / 255 for one in pictured])


def _of(category: str, part: str, absent: bool) -> Iterator[Pictured]:
    """The scenes of a category's prompts of a part, one a prompt."""
    of_part = sorted(text for text in split(category, "test") if _part(text) == part)
    rng = np.random.default_rng([PARTS[part], CATEGORIES.index(category), int(absent)])
    for number in rng.permutation(len(of_part)).tolist():
        spec = parse_prompt(of_part[number])
        if absent and len(spec.objects) != 2:
            continue
        scene = random_scene(rng, spec)
        if _ambiguous(spec, scene):
            continue
        third = _other(rng, spec, scene) if absent else None
        if absent and third is None:
            continue
        told = spec if third is None else PromptSpec((*spec.objects, third), spec.relation)
        picture, inside = render(scene)
        label = np.where(inside.any(0), inside.argmax(0) + 1, 0)
        text = str(told)
        phrases = find(text, [str(one) for one in told.objects])
        seed = int.from_bytes(hashlib.sha256(f"{part} {text}".encode()).digest()[:6], "big")
        yield Pictured(category, Asked(text, phrases), picture, label, seed, int(absent))


def _part(text: str) -> str:
    """The part that a prompt belongs to: by a hash of its own, even or odd."""
    return "fresh" if hashlib.sha256(f"d{text}".encode()).digest()[0] % 2 else "dev"


def _true(spec: ObjectSpec, thing: Object) -> bool:
    return all(getattr(thing, name) == value for name, value in spec.stated().items())


def _ambiguous(spec: PromptSpec, scene: Scene) -> bool:
    """Whether a phrase is true of another object too, so that either place would be right."""
    return any(
        _true(one, thing)
        for i, one in enumerate(spec.objects)
        for j, thing in enumerate(scene.objects)
        if i != j
    )


def _other(rng: np.random.Generator, spec: PromptSpec, scene: Scene) -> ObjectSpec | None:
    """An object that is not in the scene, told of in the attributes of one that is."""
    for _ in range(50):
        like = spec.objects[int(rng.integers(len(spec.objects)))]
        words = {name: _WORDS[name][int(rng.integers(len(_WORDS[name])))] for name in like.stated()}
        made = ObjectSpec(**words)
        if not any(_true(made, thing) for thing in scene.objects):
            return made
    return None
