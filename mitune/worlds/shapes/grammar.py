"""Prompts of the shapes world: a specification, its text, and the way back."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from mitune.worlds.shapes.chance import choose
from mitune.worlds.shapes.vocabulary import (
    COLOURS,
    DIRECTIONS,
    NON_SPATIAL,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)

CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")  # as T2I-CompBench names them
MAX_OBJECTS = 3
COMPLEX_PROMPTS = 2000  # the complex prompts are far too many to enumerate: a fixed sample stands for them
_ATTRIBUTE_WORDS = (("size", tuple(SIZES)), ("texture", TEXTURES), ("colour", tuple(COLOURS)))


@dataclass(frozen=True)
class ObjectSpec:
    """Hold what a prompt says of one object; None is left open. ValueError for a word of another world."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; known: {', '.join(SHAPES)}")
        for name, words in _ATTRIBUTE_WORDS:
            if (value := getattr(self, name)) is not None and value not in words:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(words)}")

    def __str__(self) -> str:
        return " ".join(["a", *filter(None, (self.size, self.texture, self.colour, self.shape))])

    def stated(self) -> dict[str, str]:
        """Give the attributes the prompt states, by name; the shape is always one of them."""
        names = ("shape", "colour", "texture", "size")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class PromptSpec:
    """A prompt names one to three objects and, optionally, a relation of the first to the second.

    ValueError if there are too few or too many objects, or if no scene can satisfy the relation.

    >>> parse_prompt("a red circle above a square").objects[0]
    ObjectSpec(shape='circle', colour='red', texture=None, size=None)
    """

    objects: tuple[ObjectSpec, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise ValueError(f"a prompt names 1 to {MAX_OBJECTS} objects, not {len(self.objects)}")
        if self.relation is None:
            return
        if self.relation not in RELATIONS:
            raise ValueError(f"unknown relation {self.relation!r}; known: {', '.join(RELATIONS)}")
        if len(self.objects) < 2:
            raise ValueError(f"the relation {self.relation!r} needs two objects")
        first, second = self.objects[:2]
        if self.relation == "touching" and first.colour is not None and first.colour == second.colour:
            raise ValueError("touching objects must have different colours (they could not be told apart)")
        if self.relation in ("bigger than", "smaller than"):
            large, little = (first, second) if self.relation == "bigger than" else (second, first)
            if large.size == "small" or little.size == "big":
                raise ValueError(f"the sizes contradict the relation {self.relation!r}")

    def __str__(self) -> str:
        texts = [str(o) for o in self.objects]
        if self.relation is not None:
            texts[:2] = [f"{texts[0]} {self.relation} {texts[1]}"]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


_RELATION = re.compile(rf" ({'|'.join(map(re.escape, RELATIONS))}) ")


def _parse_object(text: str) -> ObjectSpec:
    words = text.split()
    if len(words) < 2 or words[0] != "a" or words[-1] not in SHAPES:
        raise ValueError(f"not an object: {text!r} (expected: a [size] [texture] [colour] shape)")
    found: dict[str, str] = {}
    rest = words[1:-1]
    for name, known in _ATTRIBUTE_WORDS:
        if rest and rest[0] in known:
            found[name] = rest.pop(0)
    if rest:
        raise ValueError(
            f"word {rest[0]!r} is unknown or out of order in {text!r} (size, texture, colour, shape)"
        )
    return ObjectSpec(words[-1], **found)


def parse_prompt(text: str) -> PromptSpec:
    """Give the specification of a prompt; case, extra blanks and a final full stop do not matter.

    ValueError (one line) if the text is not of the grammar.
    """
    plain = " ".join(text.lower().split()).rstrip(".").rstrip()
    if not plain:
        raise ValueError("the prompt is empty")
    head, *last = plain.split(" and ")
    if len(last) > 1:
        raise ValueError(f"more than one 'and' in {text!r} (write: a X, a Y and a Z)")
    parts = [*head.split(", "), *last]
    if len(parts) > 1 and not last:
        raise ValueError(f"a list without 'and' in {text!r} (write: a X, a Y and a Z)")
    relation = None
    if match := _RELATION.search(parts[0]):
        relation = match.group(1)
        parts[:1] = [parts[0][: match.start()], parts[0][match.end() :]]
        if len(parts) - len(last) > 2:
            raise ValueError(f"a list after a relation in {text!r} (write: a X left of a Y and a Z)")
    return PromptSpec(tuple(_parse_object(part) for part in parts), relation)


def is_test_prompt(text: str) -> bool:
    """Tell whether a prompt is kept for testing: about one in five, decided by the SHA-256 of its text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 5 == 0


def _coloured_pairs() -> list[tuple[ObjectSpec, ObjectSpec]]:
    every = [ObjectSpec(s, c) for c, s in itertools.product(COLOURS, SHAPES)]
    return [(a, b) for a, b in itertools.product(every, every) if a.colour != b.colour]


def random_complex(rng: np.random.Generator) -> PromptSpec:
    """Give a complex prompt: three objects of at least one attribute each, all different, and a relation."""
    while True:
        colours = rng.permutation(list(COLOURS))
        objects = []
        for colour in colours[:MAX_OBJECTS]:
            coloured, textured, sized = rng.random(3) < (0.8, 0.4, 0.3)
            if not (coloured or textured or sized):
                coloured = True
            objects.append(
                ObjectSpec(
                    choose(rng, SHAPES),
                    str(colour) if coloured else None,
                    choose(rng, TEXTURES) if textured else None,
                    choose(rng, tuple(SIZES)) if sized else None,
                )
            )
        try:
            spec = PromptSpec(tuple(objects), choose(rng, RELATIONS))
        except ValueError:  # sizes against the relation: draw again
            continue
        if len(set(objects)) == MAX_OBJECTS:
            return spec


def _category_specs(category: str) -> list[PromptSpec]:
    if category == "color":
        return [PromptSpec(pair) for pair in _coloured_pairs()]
    if category == "shape":
        sizes = (None, *SIZES)
        return [
            PromptSpec((ObjectSpec(a, size=sa), ObjectSpec(b, size=sb)))
            for a, b in itertools.permutations(SHAPES, 2)
            for sa, sb in itertools.product(sizes, sizes)
        ]
    if category == "texture":
        return [
            PromptSpec((ObjectSpec(a, texture=ta), ObjectSpec(b, texture=tb)))
            for ta, tb in itertools.permutations(TEXTURES, 2)
            for a, b in itertools.product(SHAPES, SHAPES)
        ]
    if category in ("spatial", "non_spatial"):
        relations = DIRECTIONS if category == "spatial" else NON_SPATIAL
        return [PromptSpec(pair, relation) for pair in _coloured_pairs() for relation in relations]
    if category == "complex":
        rng = np.random.default_rng(20240531)
        specs: dict[PromptSpec, None] = {}
        while len(specs) < COMPLEX_PROMPTS:
            specs[random_complex(rng)] = None
        return list(specs)
    raise ValueError(f"unknown category {category!r}; known: {', '.join(CATEGORIES)}")


@cache
def all_prompts(category: str) -> tuple[str, ...]:
    """Give every prompt of a category, in a fixed order; for `complex` a fixed sample of `COMPLEX_PROMPTS`."""
    return tuple(str(spec) for spec in _category_specs(category))


def split(category: str, part: str) -> tuple[str, ...]:
    """Give the "train" or "test" prompts of a category: disjoint, together all. ValueError for other parts."""
    if part not in ("train", "test"):
        raise ValueError(f"unknown part {part!r}; known: train, test")
    return tuple(text for text in all_prompts(category) if is_test_prompt(text) == (part == "test"))
