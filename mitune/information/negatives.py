"""Which other prompts `contrast` tells a picture's own prompt from: minimal edits, other prompts, or a given list."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from mitune.errors import UserError, check_known
from mitune.information.edits import KINDS, EditMiner, distinct, plain_text

SOURCES = ("edits", "words", "batch", "pool", "list")
MINED = ("edits", "words")  # found by an EditMiner


def negatives(
    source: str,
    prompts: Sequence[str],
    k: int,
    pool: Sequence[str] = (),
    given: Sequence[str] | Mapping[str, Sequence[str]] = (),
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    miner: EditMiner | None = None,
) -> list[list[str]]:
    """Up to ``k`` other texts for each of ``prompts``, none of them the prompt in other case or white space.

    Sources:

    * "edits": minimal edits found in ``pool`` (:class:`mitune.information.edits.EditMiner`), of these ``kinds``.
    * "words": those alone that exchange words within the prompt; other edits where a prompt has nothing to exchange.
    * "pool": prompts drawn from ``pool``, the same for a prompt wherever it stands.
    * "batch": prompts drawn from ``prompts`` themselves: free of any pool, but a score then depends on its company.
    * "list": ``given``, for all prompts alike or for each by its text; its first k.

    ``miner``: one made of ``pool`` with ``seed`` already, as making it takes longer than asking it; else one is made.

    Deterministic in (source, prompt, seed) and the texts drawn from, whatever their order. Raises UserError for an
    unknown source and where a prompt is left without any negative, naming it.
    """
    check_known("contrast: negatives", source, SOURCES)
    unique = list(dict.fromkeys(prompts))
    if source in MINED:
        miner = miner or EditMiner(pool, seed)
        found = {}
        for prompt in unique:
            swaps = miner.edits(prompt, k, ("swap",)) if source == "words" else []
            # Of a prompt with nothing to exchange the miner gives other prompts, which are no edits.
            edits = [edit for edit in swaps if edit.kind == "swap"] or miner.edits(prompt, k, kinds)
            found[prompt] = [edit.text for edit in edits]
    elif source == "list":
        found = {prompt: _given(prompt, given)[:k] for prompt in unique}
    else:
        others = distinct(pool if source == "pool" else prompts)
        found = {prompt: _drawn(prompt, others, k, seed) for prompt in unique}
    for prompt, texts in found.items():
        if not texts and source in MINED:
            raise UserError(
                f"contrast finds no edit of the prompt {prompt!r} among the prompts given; give more prompts"
                " (prompts.source, score.pool), or use another score, such as mi (select=mi scorers=[mi,llr]) or elbo"
            )
        if not texts:
            raise UserError(
                f"contrast: negatives={source} leave nothing to tell the prompt {prompt!r} from; give more prompts or"
                f" choose another of {', '.join(SOURCES)}"
            )
    return [list(found[prompt]) for prompt in prompts]


def _drawn(prompt: str, others: Sequence[str], k: int, seed: int) -> list[str]:
    digest = hashlib.sha256(f"{seed}\x1f{prompt}".encode()).digest()
    # One more than needed, as the prompt itself may be among them.
    drawn = random.Random(int.from_bytes(digest[:8], "big")).sample(others, min(k + 1, len(others)))
    return [text for text in drawn if plain_text(text) != plain_text(prompt)][:k]


def _given(prompt: str, given: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    texts = given.get(prompt, ()) if isinstance(given, Mapping) else given
    return [text for text in texts if plain_text(text) != plain_text(prompt)]
