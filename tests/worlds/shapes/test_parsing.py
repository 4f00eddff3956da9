"""The oracle: right on clean and on damaged renders, and not to be fooled by a wrong prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from mitune.worlds.shapes.captions import corrupt, describe
from mitune.worlds.shapes.grammar import ObjectSpec, PromptSpec, parse_prompt
from mitune.worlds.shapes.parsing import (
    mask_gap,
    oracle_score,
    oracle_scores,
    parse_picture,
    score_scene,
)
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import Object, Scene, random_scene
from mitune.worlds.shapes.vocabulary import COLOURS, RELATIONS, SHAPES, TEXTURES

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _key(thing: object) -> tuple[str, ...]:
    return tuple(getattr(thing, name) for name in ("shape", "colour", "texture"))


def _scenes(seed: int, count: int) -> list[Scene]:
    """Free scenes, and as many of two touching objects."""
    rng = np.random.default_rng(seed)
    touching = PromptSpec((ObjectSpec("circle"), ObjectSpec("square")), "touching")
    scenes = []
    for index in range(count):
        shapes = [ObjectSpec(SHAPES[int(rng.integers(4))]) for _ in range(2)]
        spec = None if index % 2 else PromptSpec((shapes[0], shapes[1]), touching.relation)
        scenes.append(random_scene(rng, spec))
    return scenes


def _blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(picture, (0.7, 0.7, 0)) + rng.normal(0, 4, picture.shape)


def _off_colour(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _blurred(picture * rng.uniform(0.92, 1.08, 3) + rng.uniform(-8, 8, 3), rng)


@pytest.mark.parametrize("damage", [None, _blurred, _off_colour], ids=["clean", "blurred", "off-colour"])
def test_right_on_99_percent(damage: Damage | None) -> None:
    rng = np.random.default_rng(31)
    parsed, scored, scenes = 0, 0, _scenes(32, 400)
    for scene in scenes:
        picture = render(scene)[0]
        if damage is not None:
            picture = np.clip(np.round(damage(picture.astype(float), rng)), 0, 255).astype(np.uint8)
        found = parse_picture(picture)
        parsed += sorted(map(_key, found)) == sorted(map(_key, scene.objects))
        scored += oracle_score(picture, describe(scene, rng)) == 1
    assert parsed >= 0.99 * len(scenes)
    assert scored >= 0.99 * len(scenes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [7.0, 14.0])
def test_every_kind_of_object(shape: str, radius: float) -> None:
    rng = np.random.default_rng(33)
    for colour in COLOURS:
        for texture in TEXTURES:
            x, y = rng.uniform(16, 48, 2)
            thing = Object(shape, colour, texture, float(x), float(y), radius)
            picture, masks = render(Scene((thing,), 215))
            (found,) = parse_picture(picture)
            assert _key(found) == _key(thing)
            assert found.size == thing.size
            assert abs(found.radius - radius) < 1
            assert np.hypot(found.x - x, found.y - y) < 1
            # The mask is right to the pixel's width.
            assert not (found.mask & ~ndimage.binary_dilation(masks[0], np.ones((3, 3)))).any()
            assert not (ndimage.binary_erosion(masks[0], np.ones((3, 3))) & ~found.mask).any()


def test_a_wrong_caption_scores_below_one() -> None:
    rng = np.random.default_rng(34)
    wrong = 0
    for scene in _scenes(35, 200):
        spec = corrupt(describe(scene, rng), scene, rng)
        score = oracle_score(render(scene)[0], spec)
        assert score >= 0
        wrong += score < 1
    assert wrong >= 198


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_negation_of_a_relation_scores_lower(relation: str) -> None:
    opposites = {
        "left of": "right of",
        "above": "below",
        "touching": "far from",
        "bigger than": "smaller than",
    }
    opposites |= {b: a for a, b in opposites.items()}
    rng = np.random.default_rng(36)
    for shape in SHAPES:
        objects = (ObjectSpec(shape, "red"), ObjectSpec("square", "cyan"))
        picture = render(random_scene(rng, PromptSpec(objects, relation)))[0]
        assert oracle_score(picture, PromptSpec(objects, relation)) == 1.0
        assert oracle_score(picture, PromptSpec(objects, opposites[relation])) == 0.5


RED, BLUE = Object("circle", "red", "solid", 16, 32, 8), Object("square", "blue", "striped", 48, 32, 13)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle and a blue square", 1),
        ("a blue square and a red circle", 1),
        ("a red circle left of a blue square", 1),
        ("a red circle right of a blue square", 0.5),
        ("a small solid red circle smaller than a big striped blue square", 1),
        ("a red circle and a red square", 0.75),
        ("a blue circle and a red square", 0.5),
        ("a red circle", 0.5),  # one object too many
        ("a red circle, a blue square and a green cross", 4 / 9),  # (1 + 1 + 0) / 3 x 2 / 3
        ("a dotted green triangle and a dotted green cross", 0),
    ],
)
def test_scores_by_hand(prompt: str, expected: float) -> None:
    scene = Scene((RED, BLUE), 230)
    assert score_scene(scene, parse_prompt(prompt)) == pytest.approx(expected)
    assert oracle_score(render(scene)[0], prompt) == pytest.approx(expected)
    assert (oracle_score(render(scene)[0], prompt) == 1) == (expected == 1)


def test_relation_chooses_among_equal_objects() -> None:
    """Of two red circles either may be the one that the prompt means."""
    twin = Object("circle", "red", "solid", 16, 12, 8)
    picture = render(Scene((RED, twin), 230))[0]
    assert oracle_score(picture, "a red circle above a red circle") == 1.0
    assert oracle_score(picture, "a red circle left of a red circle") == 0.5


def test_empty_and_noisy_pictures() -> None:
    assert parse_picture(np.full((64, 64, 3), 220, np.uint8)) == []
    assert oracle_score(np.full((64, 64, 3), 220, np.uint8), "a red circle") == 0.0
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert 0 <= oracle_score(noise, "a red circle above a blue square and a green cross") < 1


def test_every_kind_of_picture() -> None:
    torch = pytest.importorskip("torch")
    picture = render(Scene((RED, BLUE), 230))[0]
    planes = (picture / 255).transpose(2, 0, 1)
    for same in (planes, planes.astype(np.float32), torch.tensor(planes), torch.tensor(picture)):
        assert oracle_score(same, "a red circle and a striped blue square") == 1
    assert oracle_score(torch.tensor(planes).half(), "a red circle and a striped blue square") == 1
    for bad in (picture[..., 0], picture.astype(np.int64), picture.transpose(2, 0, 1)):
        with pytest.raises(ValueError, match="expected a picture"):
            parse_picture(bad)


def test_scores_of_many() -> None:
    picture = render(Scene((RED, BLUE), 230))[0]
    scores = oracle_scores([picture, picture], ["a red circle and a blue square", "a red circle"])
    assert scores.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError):
        oracle_scores([picture], [])
    with pytest.raises(ValueError, match="not an object"):
        oracle_scores([picture], ["a red star"])


def test_gap_between_masks() -> None:
    found = parse_picture(render(Scene((RED, BLUE), 230))[0])
    assert mask_gap(found[0], found[1]) == pytest.approx(32 - 8 - 13, abs=1)
