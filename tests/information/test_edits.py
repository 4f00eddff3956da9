"""Edits mined from a pool: on the embedded world, where a parser can judge them, and on natural prompts."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.information.catalogue import EDITS
from mitune.information.edits import EditMiner
from mitune.worlds.shapes import CATEGORIES, PromptSpec, parse_prompt, split

NATURAL = (Path(__file__).parent / "natural_prompts.txt").read_text(encoding="utf-8").splitlines()
CONVERSE = {"right of": "left of", "below": "above", "smaller than": "bigger than"}


def world(per_category: int) -> list[str]:
    pool = []
    for category in CATEGORIES:
        prompts = sorted(split(category, "train"))
        pool += random.Random(per_category).sample(prompts, min(per_category, len(prompts)))
    return pool


def meaning(spec: PromptSpec) -> tuple[object, ...]:
    """Equal for prompts that ask for the same pictures: a list in another order, "a left of b" and "b right of a"."""
    objects = [str(o) for o in spec.objects]
    if spec.relation is None:
        return tuple(sorted(objects)), None
    relation, (first, second) = spec.relation, objects[:2]
    if relation in CONVERSE:
        relation, first, second = CONVERSE[relation], second, first
    if relation in ("touching", "far from"):
        first, second = sorted((first, second))
    return (first, second), tuple(objects[2:]), relation


def same_kinds(first: PromptSpec, second: PromptSpec) -> bool:
    """Whether two prompts state the same attributes of the same number of objects (of other values, perhaps)."""
    return [set(o.stated()) for o in first.objects] == [set(o.stated()) for o in second.objects] and (
        first.relation is None
    ) == (second.relation is None)


@pytest.mark.parametrize("per_category", [10, 30, 100])
def test_edits_of_the_world_are_grammatical_and_mean_something_else(per_category: int) -> None:
    pool = world(per_category)
    miner = EditMiner(pool)
    total, right, kinds, contradicting = 0, 0, Counter(), []
    for prompt in pool:
        found = miner.edits(prompt, 8)
        assert len({edit.text for edit in found}) == len(found) == 8
        for edit in found:
            total += 1
            kinds[edit.kind] += 1
            try:
                spec = parse_prompt(edit.text)
            except ValueError:
                continue
            right += meaning(spec) != meaning(parse_prompt(prompt))
            if edit.kind == "substitute":
                contradicting.append(same_kinds(spec, parse_prompt(prompt)))
    assert right / total >= 0.97
    assert set(kinds) == set(EDITS)
    assert kinds["swap"] >= 0.1 * total
    assert kinds["substitute"] >= 0.4 * total
    assert kinds["drop"] <= 0.2 * total
    # A colour for a colour, not for a texture; a very small pool cannot tell them apart so well.
    assert sum(contradicting) / len(contradicting) >= (0.7 if per_category == 10 else 0.95)


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_category_alone_is_enough(category: str) -> None:
    pool = random.Random(0).sample(sorted(split(category, "train")), 60)
    miner = EditMiner(pool)
    verdicts = []
    for prompt in pool:
        for edit in miner.edits(prompt, 4):
            try:
                verdicts.append(meaning(parse_prompt(edit.text)) != meaning(parse_prompt(prompt)))
            except ValueError:
                verdicts.append(False)
    assert len(verdicts) == 4 * len(pool)
    assert sum(verdicts) / len(verdicts) >= 0.95


def test_the_first_edit_exchanges_attributes_and_relations_are_replaced() -> None:
    miner = EditMiner(world(100))
    first, *others = miner.edits("a red circle left of a blue square", 8)
    assert first.kind == "swap"
    spec = parse_prompt(first.text)
    assert {o.colour for o in spec.objects} == {"red", "blue"}
    assert {o.shape for o in spec.objects} == {"circle", "square"}
    relations = {parse_prompt(edit.text).relation for edit in others if edit.kind == "substitute"}
    assert relations - {"left of"}


def test_relations_of_two_words_are_exchanged_for_one_and_back() -> None:
    miner = EditMiner(world(100))
    texts = [e.text for e in miner.edits("a red circle left of a blue square", 60, kinds=("substitute",))]
    assert "a red circle above a blue square" in texts
    texts = [e.text for e in miner.edits("a red circle above a blue square", 60, kinds=("substitute",))]
    assert {"a red circle left of a blue square", "a red circle far from a blue square"} <= set(texts)


def test_words_that_go_together_are_no_substitutes() -> None:
    miner = EditMiner(world(100))
    texts = [e.text for e in miner.edits("a red circle and a blue square", 12, kinds=("substitute",))]
    assert any(text.startswith(("a blue circle", "a green circle", "a yellow circle")) for text in texts)
    assert not any(word in text for text in texts for word in ("striped", "dotted", "solid", "big", "small"))


def test_the_same_list_in_another_order_is_no_edit() -> None:
    miner = EditMiner(world(100))
    texts = {e.text for e in miner.edits("a circle and a square", 40)}
    assert "a square and a circle" not in texts
    texts = {e.text for e in miner.edits("a red circle and a blue square", 40)}
    assert "a blue square and a red circle" not in texts
    assert len(texts & {"a blue circle and a red square", "a red square and a blue circle"}) == 1


def test_order_counts_where_a_relation_stands_between() -> None:
    pool = [f"a {a} {r} a {b}" for r in ("chasing", "watching", "carrying") for a, b in
            [("dog", "cat"), ("cat", "horse"), ("horse", "dog")]]  # fmt: skip
    texts = [e.text for e in EditMiner(pool).edits("a dog chasing a cat", 3)]
    assert texts[0] == "a cat chasing a dog"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a green bench and a blue bowl", {"a blue bench and a green bowl", "a green bowl and a blue bench"}),
        ("a wooden table and a metallic vase", {"a metallic table and a wooden vase"}),
        ("a tall man and a short woman", {"a short man and a tall woman", "a tall woman and a short man"}),
        ("a woman is sitting on the left of a dog", {"a woman is sitting on the right of a dog"}),
        (
            "The black camera was next to the white tripod.",
            {"The white camera was next to the black tripod."},
        ),
    ],
)
def test_natural_prompts_have_the_edit_one_would_write(prompt: str, expected: set[str]) -> None:
    assert expected & {edit.text for edit in EditMiner(NATURAL).edits(prompt, 4)}


def test_natural_prompts_all_have_edits_that_keep_most_words() -> None:
    miner = EditMiner(NATURAL)
    for prompt in NATURAL:
        found = miner.edits(prompt, 6)
        assert len(found) >= 4
        for edit in found:
            assert edit.kind in EDITS
            if edit.kind == "substitute":
                assert len(set(prompt.split()) - set(edit.text.split())) <= 2
            assert edit.text[0].isupper() == prompt[0].isupper()
            assert edit.text.endswith(".") == prompt.endswith(".")


def test_a_prompt_without_an_edit_falls_back_to_others_of_the_pool() -> None:
    miner = EditMiner(NATURAL)
    for prompt in ("", "!!!", "a a a"):
        found = miner.edits(prompt, 3)
        assert [edit.kind for edit in found] == ["pool"] * 3
        assert {edit.text for edit in found} <= set(NATURAL)


@pytest.mark.parametrize("pool", [[], ["x"], ["x", "X "], ["", " "]])
def test_a_pool_without_other_prompts_gives_none(pool: list[str]) -> None:
    assert EditMiner(pool).edits("x", 4) == []


def test_the_same_every_time_and_in_any_order_of_the_pool() -> None:
    pool = world(15)
    shuffled = random.Random(1).sample(pool, len(pool))
    for prompt in pool[::9]:
        edits = EditMiner(pool, seed=3).edits(prompt, 8)
        assert edits == EditMiner(shuffled + pool[:4], seed=3).edits(prompt, 8)
        assert edits[:3] == EditMiner(pool, seed=3).edits(prompt, 8)[:3]
    assert any(
        EditMiner(pool, 0).edits(prompt, 8) != EditMiner(pool, 1).edits(prompt, 8) for prompt in pool[:10]
    )


def test_kinds_are_kept_to_and_checked() -> None:
    miner = EditMiner(world(15))
    prompt = "a red circle left of a blue square"
    for kind in EDITS:
        assert {edit.kind for edit in miner.edits(prompt, 2, kinds=(kind,))} == {kind}
    with pytest.raises(ValueError, match="swop"):
        miner.edits(prompt, 2, kinds=("swop",))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=40), st.integers(0, 9))
def test_any_text_at_all(pool: list[str], prompt: str, k: int) -> None:
    found = EditMiner(pool).edits(prompt, k)
    assert len(found) <= k
    texts = [" ".join(edit.text.lower().split()) for edit in found]
    assert len(set(texts)) == len(texts)
    assert " ".join(prompt.lower().split()) not in texts
