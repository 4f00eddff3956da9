"""Shapes and relations in the plane, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mitune.worlds.shapes.geometry import inside, relation_holds, shape_gap
from mitune.worlds.shapes.scenes import Object
from mitune.worlds.shapes.vocabulary import RELATIONS, SHAPES


def thing(shape: str, x: float, y: float, radius: float = 8.0) -> Object:
    return Object(shape, "red", "solid", x, y, radius)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (thing("circle", 10, 10), thing("circle", 40, 50), 50 - 16),
        (thing("square", 10, 10), thing("square", 30, 12), 20 - 16),
        (thing("square", 10, 10), thing("square", 30, 30), math.hypot(4, 4)),
        (thing("square", 10, 10), thing("circle", 30, 30), math.hypot(12, 12) - 8),
        (thing("cross", 10, 10), thing("square", 30, 10), 4),
        (thing("triangle", 10, 10), thing("square", 10, 30), 4),
        (thing("square", 10, 10), thing("triangle", 10, 30), 4),
        (thing("circle", 20, 20, 14), thing("square", 20, 20, 7), -1),
        (thing("square", 20, 20), thing("cross", 34, 20), -1),
    ],
)
def test_gap(a: Object, b: Object, expected: float) -> None:
    assert shape_gap(a, b) == pytest.approx(expected, abs=1e-9)
    assert shape_gap(b, a) == pytest.approx(expected, abs=1e-9)


def test_every_shape_reaches_the_sides_of_its_box_and_no_further() -> None:
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
    for shape in SHAPES:
        filled = inside(shape, u, v)
        for axis in (u, v):
            assert axis[filled].min() == pytest.approx(-1, abs=0.02)
            assert axis[filled].max() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("relation", "opposite"),
    [("left of", "right of"), ("above", "below"), ("bigger than", "smaller than"), ("touching", "far from")],
)
def test_a_relation_and_its_opposite_never_hold_together(relation: str, opposite: str) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        a, b = (thing("circle", *rng.uniform(8, 56, 2), rng.uniform(7, 14)) for _ in range(2))
        one, other = relation_holds(relation, a, b, shape_gap), relation_holds(opposite, a, b, shape_gap)
        held += one
        assert not (one and other)
        if relation not in ("touching", "far from"):
            assert one == relation_holds(opposite, b, a, shape_gap)
    assert held


def test_clear_relations_hold() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        a, b = (thing("square", *rng.uniform(8, 56, 2), rng.uniform(7, 14)) for _ in range(2))
        for relation in RELATIONS:
            if relation_holds(relation, a, b, shape_gap, clear=True):
                assert relation_holds(relation, a, b, shape_gap)


def test_above_means_smaller_y() -> None:
    assert relation_holds("above", thing("circle", 30, 10), thing("circle", 34, 40), shape_gap)
    assert relation_holds("left of", thing("circle", 10, 30), thing("circle", 40, 34), shape_gap)


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown relation"):
        relation_holds("inside", thing("circle", 1, 1), thing("circle", 2, 2), shape_gap)
    with pytest.raises(ValueError, match="unknown shape"):
        inside("star", np.zeros(1), np.zeros(1))
