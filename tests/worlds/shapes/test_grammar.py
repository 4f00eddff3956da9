"""Prompts: text to specification and back, the six categories, the split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitune.worlds.shapes.grammar import (
    CATEGORIES,
    ObjectSpec,
    PromptSpec,
    all_prompts,
    is_test_prompt,
    parse_prompt,
    split,
)
from mitune.worlds.shapes.vocabulary import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES


def _maybe(words: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(words)


_objects = st.builds(
    ObjectSpec, st.sampled_from(SHAPES), _maybe(tuple(COLOURS)), _maybe(TEXTURES), _maybe(tuple(SIZES))
)


@st.composite
def _specs(draw: st.DrawFn) -> PromptSpec:
    objects = tuple(draw(st.lists(_objects, min_size=1, max_size=3)))
    relation = draw(_maybe(RELATIONS)) if len(objects) > 1 else None
    try:
        return PromptSpec(objects, relation)
    except ValueError:  # the one relation that these objects cannot have
        return PromptSpec(objects)


@given(_specs())
def test_text_and_back(spec: PromptSpec) -> None:
    assert parse_prompt(str(spec)) == spec


@given(_specs())
def test_case_blanks_and_full_stop_do_not_matter(spec: PromptSpec) -> None:
    assert parse_prompt("  " + str(spec).upper().replace(" ", "  ") + ". ") == spec


@given(st.text(alphabet=st.sampled_from("abcdeloqrstu, "), max_size=40) | st.text(max_size=20))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        spec = parse_prompt(text)
    except ValueError as error:
        message = str(error)
    else:
        assert parse_prompt(str(spec)) == spec
    assert len(message.splitlines()) <= 1


def test_examples_of_every_category() -> None:
    red, blue = ObjectSpec("circle", "red"), ObjectSpec("square", "blue")
    assert parse_prompt("a red circle and a blue square") == PromptSpec((red, blue))
    assert parse_prompt("a red circle left of a blue square") == PromptSpec((red, blue), "left of")
    assert parse_prompt("a red circle touching a blue square") == PromptSpec((red, blue), "touching")
    assert parse_prompt("a small circle and a big triangle") == PromptSpec(
        (ObjectSpec("circle", size="small"), ObjectSpec("triangle", size="big"))
    )
    assert parse_prompt("a small striped red circle above a blue square and a green triangle") == PromptSpec(
        (ObjectSpec("circle", "red", "striped", "small"), blue, ObjectSpec("triangle", "green")), "above"
    )
    assert str(PromptSpec((red, blue, red))) == "a red circle, a blue square and a red circle"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a red star", "not an object"),
        ("red circle", "not an object"),
        ("a red small circle", "out of order"),
        ("a pink circle", "unknown or out of order"),
        ("a circle and a square and a cross", "more than one 'and'"),
        ("a circle, a square", "without 'and'"),
        ("a circle above a square, a cross and a circle", "list after a relation"),
        ("a circle, a square, a cross and a circle", "1 to 3 objects"),
        ("a red circle touching a red square", "different colours"),
        ("a small circle bigger than a square", "contradict"),
        ("a circle smaller than a small square", "contradict"),
        ("a circle above a square below a cross", "unknown or out of order"),
    ],
)
def test_refusals_say_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_prompt(text)


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_are_canonical_distinct_and_split(category: str) -> None:
    prompts = all_prompts(category)
    assert len(set(prompts)) == len(prompts) >= 90
    assert all(str(parse_prompt(text)) == text for text in prompts)
    train, test = split(category, "train"), split(category, "test")
    assert set(train).isdisjoint(test)
    assert set(train) | set(test) == set(prompts)
    assert 0.12 < len(test) / len(prompts) < 0.28
    assert all(is_test_prompt(text) for text in test)


def test_what_the_categories_promise() -> None:
    for text in all_prompts("color"):
        a, b = parse_prompt(text).objects
        assert a.colour
        assert b.colour
        assert a.colour != b.colour
    for text in all_prompts("shape"):
        a, b = parse_prompt(text).objects
        assert a.shape != b.shape
        assert a.colour is b.colour is None
    for text in all_prompts("texture"):
        a, b = parse_prompt(text).objects
        assert a.texture != b.texture
    for text in all_prompts("complex"):
        assert len(parse_prompt(text).objects) == 3
        assert parse_prompt(text).relation


def test_the_split_is_frozen() -> None:
    """Models and figures are published for this split: a change of the grammar must not move it unseen."""
    sizes = {category: (len(all_prompts(category)), len(split(category, "test"))) for category in CATEGORIES}
    assert sizes == {
        "color": (480, 87),
        "shape": (108, 21),
        "texture": (96, 20),
        "spatial": (1920, 389),
        "non_spatial": (1920, 396),
        "complex": (2000, 433),
    }
    first = "a striped red square smaller than a striped green cross and a purple triangle"
    assert all_prompts("complex")[0] == first


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown category"):
        all_prompts("colour")
    with pytest.raises(ValueError, match="unknown part"):
        split("color", "validation")
