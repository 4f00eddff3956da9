"""Negatives from every source: distinct from the prompt, the same every time, refused when there are none."""

from __future__ import annotations

import random

import pytest

from mitune.errors import UserError
from mitune.information.catalogue import EDITS
from mitune.information.catalogue import NEGATIVES as SOURCES
from mitune.information.negatives import Pool

POOL = [
    f"a {first} {a} and a {second} {b}"
    for first, second in (("red", "blue"), ("green", "red"), ("blue", "yellow"), ("yellow", "green"))
    for a, b in (("circle", "square"), ("square", "star"), ("star", "circle"))
]
GIVEN = ["a photo", "A  Red Circle and a blue square", "a cat"]


def negatives(source, prompts, k, pool=(), given=(), seed=0, kinds=tuple(EDITS)):
    """The others of each prompt."""
    pool = Pool(pool, given, seed)
    return [pool.others(prompt, source, k, kinds) for prompt in prompts]


@pytest.mark.parametrize("source", SOURCES)
def test_there_are_k_others_and_company_and_order_do_not_matter(source):
    prompts = [POOL[0], POOL[5], POOL[0]]
    found = negatives(source, prompts, 2, POOL, GIVEN, seed=4)
    assert found[0] == found[2]
    for prompt, texts in zip(prompts, found, strict=True):
        assert 1 <= len(texts) <= 2
        assert len(set(texts)) == len(texts)
        assert prompt.lower() not in [" ".join(text.lower().split()) for text in texts]
    shuffled = random.Random(0).sample(POOL, len(POOL))
    assert negatives(source, [POOL[5]], 2, shuffled, GIVEN, seed=4) == [found[1]]


def test_each_source_gives_its_own():
    prompt = POOL[0]
    assert set(negatives("pool", [prompt], 4, POOL)[0]) <= set(POOL)
    assert set(negatives("pool", [prompt], 4, POOL[:3])[0]) == set(POOL[1:3])
    assert negatives("list", [prompt], 5, given=GIVEN) == [["a photo", "a cat"]]
    assert negatives("list", [prompt, "a photo"], 1, given=GIVEN) == [
        ["a photo"],
        ["A  Red Circle and a blue square"],
    ]
    swapped = negatives("words", [prompt], 3, POOL)[0]
    assert all(sorted(text.split()) == sorted(prompt.split()) for text in swapped)
    assert negatives("edits", [prompt], 3, POOL, kinds=("drop",))[0] != swapped


def test_words_falls_back_to_other_edits():
    pool = [
        f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "square", "star")
    ]
    texts = negatives("words", ["a red circle"], 2, pool)[0]
    assert len(texts) == 2
    assert "a red circle" not in texts


def test_seeds_draw_differently():
    assert len({tuple(negatives("pool", [POOL[0]], 3, POOL, seed=seed)[0]) for seed in range(6)}) > 1


def test_what_is_refused():
    with pytest.raises(UserError, match="did you mean 'edits'"):
        negatives("edit", [POOL[0]], 2, POOL)
    for source, given in (
        ("pool", ()),
        ("list", ()),
        ("list", [POOL[0].upper()]),
        ("edits", ()),
    ):
        with pytest.raises(UserError, match="'a red circle and a blue square'"):
            negatives(source, [POOL[0], POOL[0].upper()], 2, [], given)
