"""The oracle: parses a picture back into objects and scores it against a prompt. Nothing in it is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from mitune.worlds.shapes.geometry import Array, inside, relation_holds, shape_gap
from mitune.worlds.shapes.grammar import ObjectSpec, PromptSpec, parse_prompt
from mitune.worlds.shapes.scenes import BACKGROUNDS, Object, Scene
from mitune.worlds.shapes.vocabulary import COLOURS, SHAPES, size_word

SATURATION = 35.0  # max − min channel (0-255) from which a pixel can belong to an object
COVERED = 0.5  # estimated coverage from which it does
MIN_CORE = 12  # px a component must keep after erosion: false hues between touching objects are thinner
MIN_AREA = 45  # px; the smallest object drawn has about 100
SAME_HUE_REACH = 6.0  # px from a core within which pixels of its hue are its own (corners that erosion took)
OTHER_HUE_REACH = 2.3  # px within which pixels of any hue are (the blend where two objects touch)
MAX_MATCHED = 8  # objects, the largest ones, among which the prompt's are sought; all of them are counted
THIN = 0.4  # share of its neighbour's pixels below which a box's outermost row may be trimmed
TEXTURED = 0.06  # relative brightness deviation from which an object is not solid
STRIPED = 0.72  # share of the brightness variance that its rows must explain in a striped object

_BOX = np.ones((3, 3), dtype=bool)


def _hue_vectors(rgb: Array) -> Array:
    """RGB [..., 3] on the plane across the grey axis, [..., 2]: the angle is the hue, grey adds nothing."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([red - 0.5 * (green + blue), (green - blue) * (3**0.5 / 2)], axis=-1)


_NAMES = tuple(COLOURS)
_TABLE = np.asarray([COLOURS[name] for name in _NAMES], dtype=np.float32)
_GREYS = _TABLE.mean(axis=1)
_CHROMAS = np.linalg.norm(_hue_vectors(_TABLE), axis=1)
_HUES = _hue_vectors(_TABLE) / _CHROMAS[:, None]


@dataclass(frozen=True, eq=False)
class ParsedObject(Object):
    """An object was found: centre of its box and half the box's mean side, in px, and its boolean mask [H, W]."""

    mask: Array


def as_pixels(picture: Any) -> Array:
    """Convert uint8 [H, W, 3], or float in [0, 1] [3, H, W] (array or tensor), to float32 [H, W, 3] in 0-255.

    ValueError for any other shape or type.
    """
    if hasattr(picture, "detach"):
        picture = (
            picture.detach().cpu().float().numpy() if picture.is_floating_point() else picture.cpu().numpy()
        )
    pixels = np.asarray(picture)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels.astype(np.float32)
    if np.issubdtype(pixels.dtype, np.floating) and pixels.ndim == 3 and pixels.shape[0] == 3:
        return np.clip(pixels.transpose(1, 2, 0).astype(np.float32), 0.0, 1.0) * 255.0
    wanted = "uint8 [H, W, 3] or float [3, H, W] in [0, 1]"
    raise ValueError(f"expected a picture {wanted}, not {pixels.dtype} {list(pixels.shape)}")


def _foreground(rgb: Array) -> Array:
    """The colour index of every object pixel of a picture [H, W, 3], and −1 elsewhere, int8 [H, W].

    A pixel covered to the share c by a colour k in shade s, before grey g, has chroma c s chroma_k and grey
    value (1 − c) g + c s grey_k. The first gives c s, then the second gives c: so the dark shade of a stripe
    is not taken for half a pixel of the light one.
    """
    saturation = rgb.max(axis=2) - rgb.min(axis=2)
    grey = rgb.mean(axis=2)
    plain = grey[saturation < SATURATION]
    background = float(np.median(plain)) if plain.size else float(np.mean(BACKGROUNDS))
    coloured = saturation >= SATURATION
    along = _hue_vectors(rgb[coloured]) @ _HUES.T
    nearest = along.argmax(axis=1)
    shaded = along.max(axis=1) / _CHROMAS[nearest]  # c s
    coverage = 1.0 - (grey[coloured] - shaded * _GREYS[nearest]) / max(background, 1.0)
    hue = np.full(saturation.shape, -1, dtype=np.int8)
    hue[coloured] = np.where(coverage >= COVERED, nearest, -1)
    return hue


def _components(rgb: Array) -> list[tuple[str, Array]]:
    """Colour and mask [H, W] of every object in a picture [H, W, 3].

    Blends with the grey background keep their hue, blends of two touching objects do not: so objects are
    found by their eroded cores, per hue, and every coloured pixel then goes to the nearest core.
    """
    hue = _foreground(rgb)
    cores = np.zeros(hue.shape, dtype=np.int32)
    colours: list[int] = []
    for index in range(len(_NAMES)):
        same = hue == index
        if same.sum() < MIN_AREA:
            continue
        labels, count = ndimage.label(ndimage.binary_erosion(same, _BOX))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        for label in range(1, count + 1):
            if sizes[label] >= MIN_CORE:
                colours.append(index)
                cores[labels == label] = len(colours)
    if not colours:
        return []
    distance, (rows, columns) = ndimage.distance_transform_edt(cores == 0, return_indices=True)
    owner = cores[rows, columns]
    same_hue = np.asarray([-2, *colours])[owner] == hue
    owned = (hue >= 0) & (distance <= np.where(same_hue, SAME_HUE_REACH, OTHER_HUE_REACH))
    found = []
    for label, index in enumerate(colours, start=1):
        mask = owned & (owner == label)
        if mask.sum() >= MIN_AREA:
            found.append((_NAMES[index], mask))
    return found


@lru_cache(maxsize=4096)
def _templates(height: int, width: int) -> Array:
    """Every shape filling a box of this size, boolean [shapes, H, W]."""
    u = (np.arange(width) + 0.5)[None, :] * (2.0 / width) - 1.0
    v = (np.arange(height) + 0.5)[:, None] * (2.0 / height) - 1.0
    return np.stack([np.broadcast_to(inside(shape, u, v), (height, width)) for shape in SHAPES])


def _span(counts: Array, trim: bool) -> tuple[int, int]:
    """First and last+1 row (or column) of a mask, from its pixels per row.

    With `trim`, an outermost row that is thin next to its neighbour does not count: the edge of a square that
    covers half a pixel comes and goes along its length.
    """
    filled = np.flatnonzero(counts)
    first, last = int(filled[0]), int(filled[-1])
    if trim and last > first:
        if counts[first] < THIN * counts[first + 1]:
            first += 1
        if counts[last] < THIN * counts[last - 1]:
            last -= 1
    return first, last + 1


def _shape(mask: Array) -> tuple[str, tuple[int, int, int, int]]:
    """The shape of a mask [H, W], and its box (top, bottom, left, right).

    The template of greatest intersection over union, of those that fill the mask's box or its trimmed box.
    """
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    area = int(rows.sum())
    best, answer = -1.0, (SHAPES[0], (0, 0, 0, 0))
    for box in dict.fromkeys((*_span(rows, trim), *_span(columns, trim)) for trim in (False, True)):
        top, bottom, left, right = box
        templates = _templates(bottom - top, right - left)
        common = (templates & mask[top:bottom, left:right]).sum(axis=(1, 2))
        overlap = common / (templates.sum(axis=(1, 2)) + area - common)
        if (value := float(overlap.max())) > best:
            best, answer = value, (SHAPES[int(overlap.argmax())], box)
    return answer


def _texture(brightness: Array, mask: Array) -> str:
    """The texture of an object from its brightness [h, w] within its mask [h, w], both cropped to its box."""
    core = ndimage.binary_erosion(mask, _BOX)
    if core.sum() < MIN_CORE:
        core = mask
    values = brightness[core]
    mean, variance = float(values.mean()), float(values.var())
    if variance**0.5 < TEXTURED * mean:
        return "solid"
    counts = core.sum(axis=1)
    sums = np.where(core, brightness, 0.0).sum(axis=1)
    explained = float((sums**2 / np.maximum(counts, 1)).sum() / counts.sum()) - mean**2
    return "striped" if explained > STRIPED * variance else "dotted"


def parse_picture(picture: Any) -> list[ParsedObject]:
    """Give the objects in a picture (uint8 [H, W, 3] or float [3, H, W] in [0, 1]), the largest first."""
    rgb = as_pixels(picture)
    found = []
    for colour, mask in _components(rgb):
        shape, (top, bottom, left, right) = _shape(mask)
        box = np.s_[top:bottom, left:right]
        found.append(
            ParsedObject(
                shape=shape,
                colour=colour,
                texture=_texture(rgb[box].max(axis=2), mask[box]),
                x=float(left + right) / 2,
                y=float(top + bottom) / 2,
                radius=float(bottom - top + right - left) / 4,
                mask=mask,
            )
        )
    return sorted(found, key=lambda thing: -int(thing.mask.sum()))


def mask_gap(a: ParsedObject, b: ParsedObject) -> float:
    """Distance between two masks in px; 0 where they are adjacent."""
    points = [np.argwhere(m & ~ndimage.binary_erosion(m)).astype(np.float32) for m in (a.mask, b.mask)]
    difference = points[0][:, None] - points[1][None]
    return max(float(np.sqrt((difference**2).sum(-1).min())) - 1.0, 0.0)


def _agreement(wanted: ObjectSpec, found: Any) -> float:
    """The fraction of the stated attributes that an object has."""
    stated = wanted.stated()
    size = size_word(found.radius)
    has = [value == (size if name == "size" else getattr(found, name)) for name, value in stated.items()]
    return sum(has) / len(stated)


def score_objects(spec: PromptSpec, found: Sequence[Any], gap: Callable[[Any, Any], float]) -> float:
    """Score how well objects fit a prompt, in [0, 1].

    The mean over the required objects, under the best assignment, of the fraction of stated attributes that
    are right (a missing object: 0); times min / max of the numbers of objects found and required; times 0.5
    if a relation is stated and does not hold. `gap(a, b)` is the distance between two objects in px.
    """
    wanted = spec.objects
    if not found:
        return 0.0
    count, found = len(found), found[:MAX_MATCHED]
    table = [[_agreement(w, f) for f in found] for w in wanted]
    places: list[int | None] = [*range(len(found)), *([None] * max(len(wanted) - len(found), 0))]
    best: float = 0.0
    for assignment in itertools.permutations(places, len(wanted)):
        fit = sum(table[i][j] for i, j in enumerate(assignment) if j is not None) / len(wanted)
        if fit <= best:  # a relation can only lower it
            continue
        if spec.relation is not None:
            first, second = assignment[:2]
            holds = (
                first is not None
                and second is not None
                and relation_holds(spec.relation, found[first], found[second], gap)
            )
            fit *= 1.0 if holds else 0.5
        best = max(best, fit)
    return best * min(count, len(wanted)) / max(count, len(wanted))


def score_scene(scene: Scene, spec: PromptSpec) -> float:
    """Give the score of a prompt for a scene known exactly: what the oracle gives a perfect picture of it."""
    return score_objects(spec, scene.objects, shape_gap)


def oracle_score(picture: Any, prompt: str | PromptSpec) -> float:
    """Score how well a picture shows a prompt, in [0, 1] (see `score_objects`). ValueError if it is no prompt."""
    spec = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    return score_objects(spec, parse_picture(picture), mask_gap)


def oracle_scores(pictures: Iterable[Any], prompts: Sequence[str | PromptSpec]) -> Array:
    """Give the score of every picture for its own prompt, float64 [n]. ValueError if their numbers differ."""
    return np.asarray([oracle_score(p, t) for p, t in zip(pictures, prompts, strict=True)], dtype=np.float64)
