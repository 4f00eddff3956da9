"""Captions: the true ones are true, the wrong ones wrong, and none is a test prompt."""

from __future__ import annotations

import numpy as np
import pytest

from mitune.worlds.shapes.captions import CORRUPTIONS, corrupt, describe
from mitune.worlds.shapes.grammar import CATEGORIES, all_prompts, is_test_prompt, parse_prompt
from mitune.worlds.shapes.parsing import oracle_scores, score_scene
from mitune.worlds.shapes.scenes import Object, Scene, random_scene
from tests.worlds.shapes.pairs import training_batch


def test_captions_are_true_and_name_all() -> None:
    rng = np.random.default_rng(41)
    for _ in range(400):
        scene = random_scene(rng)
        spec = describe(scene, rng)
        assert len(spec.objects) == len(scene.objects)
        assert score_scene(scene, spec) == 1.0
        assert parse_prompt(str(spec)) == spec


@pytest.mark.parametrize("category", CATEGORIES)
def test_captions_in_the_style_of_a_category(category: str) -> None:
    rng = np.random.default_rng(42)
    prompts = all_prompts(category)
    for index in rng.integers(len(prompts), size=30):
        scene = random_scene(rng, parse_prompt(prompts[index]))
        text = str(describe(scene, rng, category))
        assert score_scene(scene, parse_prompt(text)) == 1.0
        assert category == "complex" or text in prompts


def test_a_category_that_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(43)
    alone = Scene((Object("circle", "red", "solid", 32, 32, 9),), 220)
    with pytest.raises(ValueError, match="no color description"):
        describe(alone, rng, "color")
    with pytest.raises(ValueError, match="unknown category"):
        describe(alone, rng, "colour")


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption_is_wrong(kind: str) -> None:
    rng = np.random.default_rng(44)
    for _ in range(60):
        scene = random_scene(rng)
        spec = describe(scene, rng)
        wrong = corrupt(spec, scene, rng, {kind: 1.0})
        assert score_scene(scene, wrong) < 1.0
        applies = {"drop": len(spec.objects) > 1, "relation": spec.relation is not None}
        if not applies.get(kind, False):
            continue
        if kind == "drop":
            assert len(wrong.objects) == len(spec.objects) - 1
        else:
            assert wrong.objects == spec.objects
            assert wrong.relation != spec.relation


def test_unknown_corruptions_and_useless_weights_are_refused() -> None:
    rng = np.random.default_rng(45)
    scene = random_scene(rng)
    spec = describe(scene, rng)
    with pytest.raises(ValueError, match="unknown corruption"):
        corrupt(spec, scene, rng, {"lie": 1.0})
    for weights in ({}, {"drop": 0.0}, {"drop": -1.0, "swap": 2.0}):
        with pytest.raises(ValueError, match="weights"):
            corrupt(spec, scene, rng, weights)


def test_training_batches() -> None:
    pictures, texts = training_batch(np.random.default_rng(46), 250, 0.0)
    assert pictures.shape == (250, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert not any(map(is_test_prompt, texts))
    assert (oracle_scores(pictures, texts) == 1).mean() >= 0.99


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_wrong_share(share: float) -> None:
    scores = oracle_scores(*training_batch(np.random.default_rng(47), 250, share))
    assert (scores < 1).mean() == pytest.approx(share, abs=0.08)


def test_training_covers_every_category_and_every_word() -> None:
    _, texts = training_batch(np.random.default_rng(48), 1500, 0.0)
    for category in CATEGORIES[:-1]:
        assert len(set(all_prompts(category)) & set(texts)) > 20
    counts = np.bincount([len(parse_prompt(text).objects) for text in texts], minlength=4) / len(texts)
    assert counts[1:] == pytest.approx([0.15, 0.54, 0.31], abs=0.05)
    words = " ".join(texts)
    for word in (
        "left of",
        "right of",
        "above",
        "below",
        "touching",
        "far from",
        "bigger than",
        "smaller than",
    ):
        assert words.count(word) > 20
    for word in ("small", "big ", "striped", "dotted", "solid", "cyan", "purple", "cross", "triangle"):
        assert words.count(word) > 50
