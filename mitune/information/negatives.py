"""Which other prompts `contrast` tells a picture's own prompt from: minimal edits, other prompts, or a given list."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from mitune.errors import UserError, nearest
from mitune.information.edits import KINDS, EditMiner

SOURCES = ("edits", "words", "batch", "pool", "list")


def negatives(
    source: str,
    prompts: Sequence[str],
    k: int,
    pool: Sequence[str] = (),
    given: Sequence[str] | Mapping[str, Sequence[str]] = (),
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> list[list[str]]:
    """Up to ``k`` other texts for each of ``prompts``, none of them the prompt in other case or white space.

    Sources:

    * "edits": minimal edits found in ``pool`` (:class:`mitune.information.edits.EditMiner`), of these ``kinds``.
    * "words": those alone that exchange words within the prompt; other edits where a prompt has nothing to exchange.
    * "pool": prompts drawn from ``pool``, the same for a prompt wherever it stands.
    * "batch": prompts drawn from ``prompts`` themselves: free of any pool, but a score then depends on its company.
    * "list": ``given``, for all prompts alike or for each by its text; its first k.

    Deterministic in (source, prompt, seed) and the texts drawn from, whatever their order. Raises UserError for an
    unknown source and where a prompt is left without any negative, naming it.
    """
    if source not in SOURCES:
        raise UserError(
            f"contrast: negatives={source!r} is not known{nearest(source, SOURCES)} (known: {', '.join(SOURCES)})"
        )
    distinct = list(dict.fromkeys(prompts))
    if source in ("edits", "words"):
        miner = EditMiner(pool, seed)
        found = {}
        for prompt in distinct:
            swaps = miner.edits(prompt, k, ("swap",)) if source == "words" else []
            # Of a prompt with nothing to exchange the miner gives other prompts, which are no edits.
            edits = [edit for edit in swaps if edit.kind == "swap"] or miner.edits(prompt, k, kinds)
            found[prompt] = [edit.text for edit in edits]
    elif source == "list":
        found = {prompt: _given(prompt, given)[:k] for prompt in distinct}
    else:
        others = _distinct(pool if source == "pool" else prompts)
        found = {prompt: _drawn(prompt, others, k, seed) for prompt in distinct}
    for prompt, texts in found.items():
        if not texts:
            raise UserError(
                f"contrast: negatives={source} leave nothing to tell the prompt {prompt!r} from; give more prompts or"
                f" choose another of {', '.join(SOURCES)}"
            )
    return [list(found[prompt]) for prompt in prompts]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _distinct(texts: Sequence[str]) -> list[str]:
    """Sorted, blank ones and repetitions left out."""
    return sorted({plain: text for text in sorted(texts, reverse=True) if (plain := _plain(text))}.values())


def _drawn(prompt: str, others: Sequence[str], k: int, seed: int) -> list[str]:
    digest = hashlib.sha256(f"{seed}\x1f{prompt}".encode()).digest()
    # One more than needed, as the prompt itself may be among them.
    drawn = random.Random(int.from_bytes(digest[:8], "big")).sample(others, min(k + 1, len(others)))
    return [text for text in drawn if _plain(text) != _plain(prompt)][:k]


def _given(prompt: str, given: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    texts = given.get(prompt, ()) if isinstance(given, Mapping) else given
    return [text for text in texts if _plain(text) != _plain(prompt)]
