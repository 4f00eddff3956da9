"""What the shapes world's CLIP learns from: pictures, true captions, near misses, and what is where in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mitune.worlds.shapes.captions import CORRUPTIONS, corrupt, describe
from mitune.worlds.shapes.geometry import Array, shape_gap
from mitune.worlds.shapes.grammar import MAX_OBJECTS, is_test_prompt
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import Scene, random_scene
from mitune.worlds.shapes.vocabulary import COLOURS, PICTURE_SIZE, SHAPES, SIZES, TEXTURES

PATCH = 8  # px, a side of what the network sees as one token
# What a patch shows, a class each; the last class of each is "background".
SEEN: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
}
FACTS_OF_OBJECT = 1 + sum(map(len, SEEN.values())) + 3  # there or not, the classes, then x, y and radius
_COVERED = 0.2  # share of a patch that an object must cover to be what the patch shows
_FAR = 32.0  # px, the length that distances are measured in
# Near misses: which errors are tried first. Relations and swaps are what a bag of words does not see.
NEAR_MISSES: dict[str, float] = {"add": 0.05, "swap": 0.35, "change": 0.2, "relation": 0.35, "drop": 0.05}


@dataclass(frozen=True)
class Views:
    """Rendered scenes with what is said of them.

    ``pictures`` uint8 [n, 64, 64, 3]; ``seen`` int64 [n, patches, len(SEEN)]: class numbers; ``objects`` float32
    [n, MAX_OBJECTS, FACTS_OF_OBJECT] and ``gaps`` [n, MAX_OBJECTS, MAX_OBJECTS]: the scenes as numbers; ``texts``
    [n][captions][1 + misses]: a true caption, then near misses of it.
    """

    pictures: Array
    seen: Array
    objects: Array
    gaps: Array
    texts: list[list[list[str]]]


def what_is_seen(scene: Scene, masks: Array) -> Array:
    """Class numbers [patches, len(SEEN)] of the object that covers most of each patch; masks [objects, 64, 64]."""
    side = PICTURE_SIZE // PATCH
    shares = masks.reshape(len(masks), side, PATCH, side, PATCH).mean((2, 4)).reshape(len(masks), -1)
    classes = np.asarray(
        [[words.index(getattr(thing, name)) for name, words in SEEN.items()] for thing in scene.objects]
    )
    background = np.asarray([len(words) for words in SEEN.values()])
    return np.where((shares.max(0) >= _COVERED)[:, None], classes[shares.argmax(0)], background)


def as_numbers(scene: Scene) -> tuple[Array, Array]:
    """A scene's objects [MAX_OBJECTS, FACTS_OF_OBJECT], all zero where there is none, and the gaps between them
    [MAX_OBJECTS, MAX_OBJECTS], in units of half a picture.
    """
    objects = np.zeros((MAX_OBJECTS, FACTS_OF_OBJECT), dtype=np.float32)
    gaps = np.zeros((MAX_OBJECTS, MAX_OBJECTS), dtype=np.float32)
    for row, thing in enumerate(scene.objects):
        one_hot = [getattr(thing, name) == word for name, words in SEEN.items() for word in words]
        place = ((thing.x - _FAR) / _FAR, (thing.y - _FAR) / _FAR, (thing.radius - 10.0) / 3.0)
        objects[row] = [1.0, *map(float, one_hot), *place]
        for column, other in enumerate(scene.objects[:row]):
            gaps[row, column] = gaps[column, row] = shape_gap(thing, other) / _FAR
    return objects, gaps


def mirrored(views: Views, rows: Array, flip: Array) -> tuple[Array, Array, Array]:
    """(pictures, seen, objects) of ``rows``, those with ``flip`` left to right: every shape is its own mirror image."""
    pictures, seen, objects = views.pictures[rows], views.seen[rows], views.objects[rows].copy()
    side = PICTURE_SIZE // PATCH
    board = seen.reshape(len(rows), side, side, -1)
    pictures = np.where(flip[:, None, None, None], pictures[:, :, ::-1], pictures)
    seen = np.where(flip[:, None, None, None], board[:, :, ::-1], board).reshape(seen.shape)
    objects[flip, :, -3] *= -1
    return pictures, seen, objects


def say(scene: Scene, rng: np.random.Generator, misses: int) -> list[str] | None:
    """A true caption of a scene and ``misses`` captions wrong by one error; none is a test prompt, and None is given
    where the scene has hardly any other description.
    """
    for _ in range(20):
        spec = describe(scene, rng)
        if is_test_prompt(str(spec)):
            continue
        texts = [str(spec)]
        for _ in range(10 * misses):
            if len(texts) > misses:
                return texts
            wrong = str(corrupt(spec, scene, rng, NEAR_MISSES))
            if not is_test_prompt(wrong):
                texts.append(wrong)
        if len(texts) > misses:
            return texts
    return None


def draw_views(n: int, captions: int, misses: int, seed: int) -> Views:
    """``n`` random scenes, rendered, with ``captions`` true captions each and ``misses`` near misses of each."""
    rng = np.random.default_rng([seed, 0])
    scenes: list[Scene] = []
    texts: list[list[list[str]]] = []
    while len(scenes) < n:
        scene = random_scene(rng)
        said = [said for _ in range(captions) if (said := say(scene, rng, misses)) is not None]
        if len(said) == captions:
            scenes.append(scene)
            texts.append(said)
    drawn = [render(scene) for scene in scenes]
    seen = [what_is_seen(scene, masks) for scene, (_, masks) in zip(scenes, drawn, strict=True)]
    numbers = [as_numbers(scene) for scene in scenes]
    return Views(
        np.stack([picture for picture, _ in drawn]),
        np.stack(seen),
        np.stack([objects for objects, _ in numbers]),
        np.stack([gaps for _, gaps in numbers]),
        texts,
    )


@dataclass(frozen=True)
class Question:
    """A fresh scene to test a judge on: its true caption, and one that is wrong by one error of a kind."""

    kind: str
    scene: Scene
    true: str
    wrong: str


def questions(n: int, seed: int) -> list[Question]:
    """``n`` questions of each kind of error; captions that a kind of error does not fit are left out."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for kind in CORRUPTIONS:
        there = 0
        while there < n:
            scene = random_scene(rng)
            spec = describe(scene, rng)
            if len(spec.objects) < 2 or (kind == "relation" and spec.relation is None):
                continue
            wrong = corrupt(spec, scene, rng, {kind: 1.0})
            if kind == "relation" and wrong.objects != spec.objects:
                continue
            found.append(Question(kind, scene, str(spec), str(wrong)))
            there += 1
    return found
