"""Phrases: each place of a prompt is used once, whole words only, the noun is the head."""

from __future__ import annotations

import pytest

from mitune.errors import UserError
from mitune.pixels.phrases import find, noun_of


def test_each_occurrence_is_used_once():
    prompt = "a circle, a red circle and a circle"
    found = find(prompt, ["a circle", "a circle"])
    assert [one.start for one in found] == [0, 27]
    assert [prompt[slice(*one.noun)] for one in found] == ["circle", "circle"]


def test_a_longer_phrase_keeps_its_words_from_a_shorter_one():
    prompt = "a hot dog and a dog"
    for phrases in (["dog", "hot dog"], ["hot dog", "dog"]):
        assert {one.text: one.start for one in find(prompt, phrases)} == {"hot dog": 2, "dog": 16}
        assert [one.text for one in find(prompt, phrases)] == phrases


def test_only_whole_words_are_a_phrase():
    with pytest.raises(UserError, match="'cat' is not in the prompt"):
        find("a category of caterpillars", ["cat"])


def test_a_phrase_that_is_asked_too_often_is_refused():
    with pytest.raises(UserError, match="is not 2 times in the prompt"):
        find("a circle and a square", ["a circle", "a circle"])


@pytest.mark.parametrize(
    ("text", "noun"),
    [("a red circle", "circle"), ("a bowl of soup", "bowl"), ("the man with a hat", "man"), ("x", "x")],
)
def test_the_noun_is_the_head(text, noun):
    low, high = noun_of(text)
    assert text[low:high] == noun
