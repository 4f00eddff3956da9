"""Scenes: what is in a picture, and how to draw one at random for a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mitune.worlds.shapes.chance import choose
from mitune.worlds.shapes.geometry import CLEAR_RATIO, TOUCHING_GAP, relation_holds, shape_gap
from mitune.worlds.shapes.grammar import ObjectSpec, PromptSpec
from mitune.worlds.shapes.vocabulary import (
    ANY_SIZE,
    COLOURS,
    PICTURE_SIZE,
    SHAPES,
    SIZES,
    TEXTURES,
    size_word,
)

BORDER = 1.0  # px kept free along the picture's edge
MIN_GAP = 4.0  # px between objects that do not touch
MIN_GAP_SAME_COLOUR = 5.0  # px: objects of one colour must stay apart when the picture is blurred
BACKGROUNDS = (200, 245)  # lowest and highest grey level
OBJECT_COUNTS = (0.15, 0.54, 0.31)  # share of scenes with one, two and three objects
TOUCHING_SHARE = 0.15  # of the random scenes with two objects or more

_ATTEMPTS = 20000
_PROPOSALS = 12


@dataclass(frozen=True)
class Object:
    """An object was drawn: centre (x right, y down) and radius (half its bounding box) in px."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float

    @property
    def size(self) -> str:
        """Give the size word that is true of it."""
        return size_word(self.radius)


@dataclass(frozen=True)
class Scene:
    """A scene is one to three objects before a grey background (level 0-255).

    >>> random_scene(np.random.default_rng(0), PromptSpec((ObjectSpec("cross", "red"),))).objects[0].colour
    'red'
    """

    objects: tuple[Object, ...]
    background: int


def random_spec(rng: np.random.Generator) -> PromptSpec:
    """Give a specification of the shapes, some of the sizes and, at times, of two objects touching."""
    count = 1 + int(rng.choice(3, p=OBJECT_COUNTS))
    touching = count > 1 and rng.random() < TOUCHING_SHARE
    sizes = (None, *SIZES)
    objects = tuple(ObjectSpec(choose(rng, SHAPES), size=choose(rng, sizes)) for _ in range(count))
    return PromptSpec(objects, "touching" if touching else None)


def _radii(rng: np.random.Generator, spec: PromptSpec, shrink: float) -> list[float]:
    """A radius in px per object; `shrink` in [0, 1] moves the upper bounds to the lower ones."""
    ranges = [SIZES[o.size] if o.size else ANY_SIZE for o in spec.objects]
    if spec.relation not in ("bigger than", "smaller than"):
        return [float(rng.uniform(low, high - shrink * (high - low))) for low, high in ranges]
    large, little = (0, 1) if spec.relation == "bigger than" else (1, 0)
    ratio = CLEAR_RATIO + 1e-6
    ranges[large] = (max(ranges[large][0], ratio * ranges[little][0]), ranges[large][1])
    radii = [float(rng.uniform(low, high - shrink * (high - low))) for low, high in ranges]
    low, high = ranges[little]
    radii[little] = float(rng.uniform(low, max(min(high, radii[large] / ratio), low)))
    return radii


def _colours(rng: np.random.Generator, spec: PromptSpec) -> list[str]:
    names = list(COLOURS)
    colours = [o.colour or choose(rng, names) for o in spec.objects]
    if spec.relation == "touching":
        while colours[0] == colours[1]:
            free = 0 if spec.objects[0].colour is None else 1
            colours[free] = choose(rng, names)
    return colours


def _fits(candidate: Object) -> bool:
    low, high = candidate.radius + BORDER, PICTURE_SIZE - BORDER - candidate.radius
    return low <= candidate.x <= high and low <= candidate.y <= high


def _apart(a: Object, b: Object) -> bool:
    wanted = MIN_GAP_SAME_COLOUR if a.colour == b.colour else MIN_GAP
    reach = a.radius + b.radius
    right, down = max(abs(a.x - b.x) - reach, 0.0), max(abs(a.y - b.y) - reach, 0.0)
    # No farther apart than the shapes, the boxes are quicker to compare.
    return math.hypot(right, down) >= wanted or shape_gap(a, b) >= wanted


def _slide_to_touch(rng: np.random.Generator, still: Object, moving: Object) -> Object:
    """`moving`, brought up to `still` from a random direction until the gap is within the touching range.

    The gap shrinks at most by the distance moved, so a step of (gap − wanted) never overshoots.
    """
    angle = rng.uniform(0.0, 2 * math.pi)
    wanted = rng.uniform(0.1, 0.8) * TOUCHING_GAP
    distance = (still.radius + moving.radius) * math.sqrt(2) + wanted
    for _ in range(12):
        x, y = still.x + distance * math.cos(angle), still.y + distance * math.sin(angle)
        moving = Object(moving.shape, moving.colour, moving.texture, x, y, moving.radius)
        gap = shape_gap(still, moving)
        if gap - wanted < 0.1:
            break
        distance -= gap - wanted
    return moving


def _suits(candidate: Object, placed: list[Object], relation: str | None) -> bool:
    """Whether an object can go where it is, given those before it and its relation, if any, to the first."""
    if not _fits(candidate):
        return False
    if relation is not None and not relation_holds(relation, placed[0], candidate, shape_gap, clear=True):
        return False
    if relation == "touching":
        return shape_gap(placed[0], candidate) >= 0.0  # an overlap would hide part of the one below
    return all(_apart(other, candidate) for other in placed)


def _place(rng: np.random.Generator, spec: PromptSpec, shrink: float) -> tuple[Object, ...] | None:
    """One attempt at a layout; None where the objects did not fit. `shrink` in [0, 1] makes room."""
    radii, colours = _radii(rng, spec, shrink), _colours(rng, spec)
    placed: list[Object] = []
    for index, wanted in enumerate(spec.objects):
        texture = wanted.texture or choose(rng, TEXTURES)
        relation = spec.relation if index == 1 else None
        low, high = radii[index] + BORDER, PICTURE_SIZE - BORDER - radii[index]
        # Beyond [0, 1] means at the border: the emptier the middle, the more room there is.
        spots = np.clip(rng.uniform(-shrink / 2, 1 + shrink / 2, (_PROPOSALS, 2)), 0.0, 1.0)
        for x, y in (low + (high - low) * spots).tolist():
            candidate = Object(wanted.shape, colours[index], texture, x, y, radii[index])
            if relation == "touching":
                candidate = _slide_to_touch(rng, placed[0], candidate)
            if _suits(candidate, placed, relation):
                placed.append(candidate)
                break
        else:
            return None
    return tuple(placed)


def random_scene(rng: np.random.Generator, spec: PromptSpec | None = None) -> Scene:
    """Give a random scene of which `spec` is true, with a clear margin; without one, anything the world has.

    What the specification leaves open is drawn at random. Rejection sampling: every specification of the
    grammar has room, and the longer it takes, the smaller the objects (within what their size words allow)
    and the more of them at the border.
    """
    spec = random_spec(rng) if spec is None else spec
    background = int(rng.integers(BACKGROUNDS[0], BACKGROUNDS[1] + 1))
    for attempt in range(_ATTEMPTS):
        if (objects := _place(rng, spec, shrink=min(attempt / 200, 1.0))) is not None:
            return Scene(objects, background)
    raise RuntimeError(f"no layout found for {spec}")
