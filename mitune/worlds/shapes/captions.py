"""Captions: true ones, and wrong ones as web captions are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mitune.worlds.shapes.chance import choose
from mitune.worlds.shapes.geometry import relation_holds, shape_gap
from mitune.worlds.shapes.grammar import CATEGORIES, MAX_OBJECTS, ObjectSpec, PromptSpec
from mitune.worlds.shapes.parsing import score_scene
from mitune.worlds.shapes.scenes import Object, Scene
from mitune.worlds.shapes.vocabulary import (
    COLOURS,
    DIRECTIONS,
    NON_SPATIAL,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)

# How often each kind of error is tried first.
CORRUPTIONS: dict[str, float] = {"add": 0.2, "swap": 0.3, "change": 0.2, "relation": 0.15, "drop": 0.15}
COMPLEX_SHARE = 0.75  # of the scenes with three objects: relations are the harder half of the language
_LIST = "list"
_WORDS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
}


def clear_size(thing: Object) -> str | None:
    """Give the size word of an object whose radius is within that word's range; None between the two."""
    return next((word for word, (low, high) in SIZES.items() if low <= thing.radius <= high), None)


def _clear_relations(a: Object, b: Object, among: tuple[str, ...]) -> list[str]:
    return [
        relation
        for relation in among
        if relation_holds(relation, a, b, shape_gap, clear=True)
        and not (relation == "touching" and a.colour == b.colour)  # not of the grammar
    ]


def _mixed(rng: np.random.Generator, thing: Object) -> ObjectSpec:
    """A description with some of the attributes, the colour most often."""
    coloured, textured, sized = rng.random(3) < (0.85, 0.4, 0.4)
    size = clear_size(thing) if sized else None
    if not textured and size is None:
        coloured = True
    return ObjectSpec(
        thing.shape, thing.colour if coloured else None, thing.texture if textured else None, size
    )


def _in_category(category: str, things: list[Object], rng: np.random.Generator) -> PromptSpec | None:
    """A true description of all objects in the style of a category; None where the style does not fit."""
    if len(things) != (3 if category == "complex" else 2):
        return None
    a, b = things[:2]
    if category == "complex":
        relations = _clear_relations(a, b, RELATIONS)
        if not relations:
            return None
        return PromptSpec(tuple(_mixed(rng, o) for o in things), choose(rng, relations))
    if category == "shape":
        if a.shape == b.shape:
            return None
        sizes = [clear_size(o) if rng.random() < 0.6 else None for o in things]
        return PromptSpec(tuple(ObjectSpec(o.shape, size=s) for o, s in zip(things, sizes, strict=True)))
    if category == "texture":
        if a.texture == b.texture:
            return None
        return PromptSpec(tuple(ObjectSpec(o.shape, texture=o.texture) for o in things))
    if a.colour == b.colour:
        return None
    coloured = tuple(ObjectSpec(o.shape, o.colour) for o in things)
    if category == "color":
        return PromptSpec(coloured)
    relations = _clear_relations(a, b, DIRECTIONS if category == "spatial" else NON_SPATIAL)
    return PromptSpec(coloured, choose(rng, relations)) if relations else None


def _in_any_order(category: str, things: list[Object], rng: np.random.Generator) -> PromptSpec | None:
    """`_in_category` for the first order of the objects that fits the style; None where none does."""
    orders = map(list, itertools.permutations(things))
    return next((spec for o in orders if (spec := _in_category(category, o, rng)) is not None), None)


def _styles(count: int, rng: np.random.Generator) -> list[str]:
    """The categories to try for a scene of so many objects, in turn, before a mere list."""
    if count == 2:
        order = [(*CATEGORIES[:-1], _LIST)[i] for i in rng.permutation(len(CATEGORIES))]
        return order[: order.index(_LIST)]
    return ["complex"] if count == 3 and rng.random() < COMPLEX_SHARE else []


def describe(scene: Scene, rng: np.random.Generator, category: str | None = None) -> PromptSpec:
    """Give a true description of a scene that names all its objects, in a random order.

    In the style of `category`, or of a random one that fits; if none does (one object, say), a list of
    objects with some of their attributes. ValueError if the category asked for is unknown or does not fit.
    """
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    if category is not None and category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; known: {', '.join(CATEGORIES)}")
    for style in _styles(len(things), rng) if category is None else [category]:
        if (spec := _in_any_order(style, things, rng)) is not None:
            return spec
    if category is not None:
        raise ValueError(f"this scene of {len(things)} objects has no {category} description")
    return PromptSpec(tuple(_mixed(rng, o) for o in things))


def _random_object(rng: np.random.Generator, like: ObjectSpec) -> ObjectSpec:
    """A random object described in the same attributes as another."""
    return ObjectSpec(**{name: choose(rng, _WORDS[name]) for name in like.stated()})


def _corrupted(kind: str, spec: PromptSpec, rng: np.random.Generator) -> PromptSpec | None:
    """One error of a kind, or no change by chance; None where there is no room for it.

    ValueError if the result is not of the grammar.
    """
    objects = list(spec.objects)
    place = int(rng.integers(len(objects)))
    if kind == "add":
        new = _random_object(rng, objects[place])
        if len(objects) < MAX_OBJECTS:
            return PromptSpec((*objects, new), spec.relation)
        objects[place] = new  # no room for one more: it is mentioned instead of another
        return PromptSpec(tuple(objects), spec.relation)
    if kind == "drop":
        if len(objects) < 2:
            return None
        del objects[place]
        return PromptSpec(tuple(objects), spec.relation if place > 1 else None)
    if kind == "relation":
        if spec.relation is None:
            return None
        return replace(spec, relation=choose(rng, [r for r in RELATIONS if r != spec.relation]))
    if kind == "change":
        name = str(choose(rng, list(objects[place].stated())))
        objects[place] = replace(objects[place], **{name: choose(rng, _WORDS[name])})
        return PromptSpec(tuple(objects), spec.relation)
    if kind == "swap":
        if len(objects) < 2:
            return None
        other = (place + 1 + int(rng.integers(len(objects) - 1))) % len(objects)
        first, second = objects[place], objects[other]
        names = [n for n in _WORDS if getattr(first, n) != getattr(second, n)]
        if not names:
            return None
        name = choose(rng, names)
        values = getattr(first, name), getattr(second, name)
        objects[place] = replace(first, **{name: values[1]})
        objects[other] = replace(second, **{name: values[0]})
        return PromptSpec(tuple(objects), spec.relation)
    raise ValueError(f"unknown corruption {kind!r}; known: {', '.join(CORRUPTIONS)}")


def corrupt(
    spec: PromptSpec, scene: Scene, rng: np.random.Generator, weights: Mapping[str, float] = CORRUPTIONS
) -> PromptSpec:
    """Give a description that is wrong for the scene (score below 1) by one error, as captions from the web are.

    `weights` gives the relative frequency of each kind: "add" (an object that is not there), "swap" (an
    attribute of two objects), "change" (one attribute), "relation", "drop" (an object). Kinds that cannot
    make this description wrong are replaced by others. ValueError for an unknown kind or useless weights.
    """
    if unknown := [kind for kind in weights if kind not in CORRUPTIONS]:
        raise ValueError(f"unknown corruption {unknown[0]!r}; known: {', '.join(CORRUPTIONS)}")
    kinds = list(weights)
    share = np.asarray([weights[kind] for kind in kinds], dtype=np.float64)
    if not kinds or share.min() < 0 or share.sum() <= 0:
        raise ValueError("the weights of the corruptions must not be negative, and one must be positive")
    share /= share.sum()
    for _ in range(50):
        kind = kinds[int(rng.choice(len(kinds), p=share))]
        for _ in range(4):
            try:
                wrong = _corrupted(kind, spec, rng)
            except ValueError:  # an impossible prompt, such as sizes against the relation
                continue
            if wrong is not None and wrong != spec and score_scene(scene, wrong) < 1.0:
                return wrong
    # Reached only if the weights allow nothing that applies, such as "relation" alone where none is stated.
    return corrupt(spec, scene, rng, CORRUPTIONS)
