"""Random scenes: always possible, always inside, apart as promised, true of their prompt."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mitune.worlds.shapes.geometry import relation_holds, shape_gap
from mitune.worlds.shapes.grammar import CATEGORIES, ObjectSpec, PromptSpec, all_prompts, parse_prompt
from mitune.worlds.shapes.parsing import score_scene
from mitune.worlds.shapes.scenes import BORDER, MIN_GAP, MIN_GAP_SAME_COLOUR, Scene, random_scene
from mitune.worlds.shapes.vocabulary import PICTURE_SIZE, RELATIONS, SHAPES, SIZES


def _check_layout(scene: Scene, touching: bool) -> None:
    for thing in scene.objects:
        for centre in (thing.x, thing.y):
            assert thing.radius + BORDER <= centre + 1e-9
            assert centre <= PICTURE_SIZE - BORDER - thing.radius + 1e-9
    for i, j in itertools.combinations(range(len(scene.objects)), 2):
        a, b = scene.objects[i], scene.objects[j]
        if touching and (i, j) == (0, 1):
            assert a.colour != b.colour
            assert 0.0 <= shape_gap(a, b) <= 1.0
        else:
            assert shape_gap(a, b) >= (MIN_GAP_SAME_COLOUR if a.colour == b.colour else MIN_GAP)


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_for_prompts_of_every_category(category: str) -> None:
    rng = np.random.default_rng(11)
    prompts = all_prompts(category)
    for text in prompts[:: max(len(prompts) // 40, 1)]:
        spec = parse_prompt(text)
        scene = random_scene(rng, spec)
        assert score_scene(scene, spec) == 1.0
        _check_layout(scene, spec.relation == "touching")
        if spec.relation:
            assert relation_holds(spec.relation, *scene.objects[:2], shape_gap, clear=True)
        for wanted, thing in zip(spec.objects, scene.objects, strict=True):
            if wanted.size:
                low, high = SIZES[wanted.size]
                assert low <= thing.radius <= high


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_tightest_prompts_have_scenes(relation: str) -> None:
    """Three big objects of one colour, where the relation allows it, in every fourth choice of shapes."""
    sizes = {"bigger than": ("big", None), "smaller than": (None, "big")}.get(relation, ("big", "big"))
    second = "blue" if relation == "touching" else "red"
    rng = np.random.default_rng(12)
    for a, b, c in list(itertools.product(SHAPES, repeat=3))[::4]:
        objects = (ObjectSpec(a, "red", size=sizes[0]), ObjectSpec(b, second, size=sizes[1]))
        spec = PromptSpec((*objects, ObjectSpec(c, "red", size="big")), relation)
        _check_layout(random_scene(rng, spec), relation == "touching")


def test_free_scenes_have_all_the_world_has() -> None:
    rng = np.random.default_rng(13)
    scenes = [random_scene(rng) for _ in range(300)]
    counts = np.bincount([len(s.objects) for s in scenes], minlength=4) / len(scenes)
    assert counts[1:] == pytest.approx([0.15, 0.54, 0.31], abs=0.09)
    things = [thing for scene in scenes for thing in scene.objects]
    for name, expected in (("shape", 4), ("colour", 6), ("texture", 3), ("size", 2)):
        assert len({getattr(thing, name) for thing in things}) == expected
    assert any(len(s.objects) > 1 and 0 <= shape_gap(*s.objects[:2]) <= 1 for s in scenes)


def test_same_seed_same_scene() -> None:
    first, again, other = (random_scene(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
