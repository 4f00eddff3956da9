"""What a prompt asks for, as T2I-CompBench takes it apart: the noun phrases that its judges ask about one by one."""

from __future__ import annotations

from mitune.english import noun_chunks
from mitune.errors import UserError, check_known, short
from mitune.pixels.catalogue import SOURCES
from mitune.worlds.shapes.grammar import PromptSpec, parse_prompt

# Chunks that are exactly one of these name a place in the picture; "the top" is asked about.
_PLACES = frozenset({"top", "the side", "the left", "the right"})
MOST = 8
"""Phrases of a prompt that are asked about; further ones are left out."""


def asked_phrases(prompt: str, source: str = "auto") -> tuple[str, ...]:
    """List the phrases of a prompt that T2I-CompBench's BLIP-VQA asks about, in text order, at most ``MOST``.

    spaCy's noun chunks, pronouns and words of the picture among them, without the places "top", "the side", "the
    left", "the right" (Huang et al. 2023; github.com/Karine-Huang/T2I-CompBench). Of prompts of the embedded world's
    grammar its objects, unless ``source`` says spacy. Empty where a prompt has none: the benchmark scores it 1.

    UserError for a prompt that is not of the grammar where that alone was asked for, and where spaCy or its English
    model is wanted and not installed.

    >>> asked_phrases("a red circle above a square")
    ('a red circle', 'a square')
    """
    check_known("phrases", source, SOURCES)
    spec = of_the_world(prompt, source, "phrases")
    if spec is not None:
        return tuple(str(thing) for thing in spec.objects)[:MOST]
    try:
        chunks = [prompt[chunk.start : chunk.stop] for chunk in noun_chunks(prompt)]
    except UserError as error:
        raise UserError(f"the phrases of the prompt {short(prompt)!r}: {error}") from error
    return tuple(chunk for chunk in chunks if chunk not in _PLACES)[:MOST]


def of_the_world(prompt: str, source: str, what: str = "words") -> PromptSpec | None:
    """Read a prompt of the embedded world's grammar, where ``source`` of phrases allows that; None for another text.

    UserError, naming ``what`` is looked for, where the grammar alone is to read it and cannot.
    """
    if source == "spacy":
        return None
    try:
        return parse_prompt(prompt)
    except ValueError as error:
        if source == "world":
            raise UserError(
                f"the prompt {short(prompt)!r} is not of the embedded world's grammar ({error}); have its {what} found"
                " by spacy"
            ) from error
        return None
