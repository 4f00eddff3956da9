"""Which other prompts `contrast` tells a picture's own prompt from: minimal edits, other prompts, or a given list."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cached_property

from mitune.errors import UserError, check_known
from mitune.information.catalogue import EDITS, NEGATIVES
from mitune.information.edits import EditMiner, distinct, plain_text

_MINED = ("edits", "words")  # found by an EditMiner


class Pool:
    """Prompts among which others are found; what was found for a prompt is kept.

    >>> Pool(given=["A red circle", "a blue circle"]).others("a red circle", "list")
    ['a blue circle']

    Args:
        texts: the pool.
        given: those of source "list".
        seed: of what is drawn or mined.
    """

    def __init__(self, texts: Sequence[str] = (), given: Sequence[str] = (), seed: int = 0) -> None:
        self.texts, self.given, self.seed = texts, given, seed
        self._found: dict[tuple[str, str, int, tuple[str, ...]], list[str]] = {}

    def others(
        self, prompt: str, source: str = "edits", k: int = 8, kinds: Sequence[str] = tuple(EDITS)
    ) -> list[str]:
        """Find up to ``k`` other texts, none of them the prompt in other case or white space.

        Sources:

        * "edits": minimal edits found in the pool (:class:`mitune.information.edits.EditMiner`), of these ``kinds``.
        * "words": those alone that exchange words within the prompt; other edits where it has nothing to exchange.
        * "pool": prompts drawn from the pool, the same for a prompt wherever it stands.
        * "list": the first k of those given.

        Deterministic in (source, prompt, seed) and the texts drawn from, whatever their order. Raises UserError for an
        unknown source, and where the prompt is left without any, naming it.
        """
        check_known("contrast: negatives", source, NEGATIVES)
        asked = (prompt, source, k, tuple(kinds))
        if asked not in self._found:
            self._found[asked] = self._find(*asked)
        return self._found[asked]

    @cached_property
    def _distinct(self) -> list[str]:
        return distinct(self.texts)

    @cached_property
    def _miner(self) -> EditMiner:
        return EditMiner(self.texts, self.seed)

    def _find(self, prompt: str, source: str, k: int, kinds: tuple[str, ...]) -> list[str]:
        if source in _MINED:
            swaps = self._miner.edits(prompt, k, ("swap",)) if source == "words" else []
            # Of a prompt with nothing to exchange the miner gives other prompts, which are no edits.
            edits = [edit for edit in swaps if edit.kind == "swap"] or self._miner.edits(prompt, k, kinds)
            if not edits:
                raise UserError(
                    f"contrast finds no edit of the prompt {prompt!r} among the prompts given; give more prompts"
                    " (prompts.source, score.pool), or use another score, such as mi (select=mi scorers=[mi,llr]) or"
                    " elbo"
                )
            return [edit.text for edit in edits]
        texts = self.given if source == "list" else self._drawn(prompt, k)
        found = [text for text in texts if plain_text(text) != plain_text(prompt)][:k]
        if not found:
            raise UserError(
                f"contrast: negatives={source} leave nothing to tell the prompt {prompt!r} from; give more prompts or"
                f" choose another of {', '.join(NEGATIVES)}"
            )
        return found

    def _drawn(self, prompt: str, k: int) -> list[str]:
        digest = hashlib.sha256(f"{self.seed}\x1f{prompt}".encode()).digest()
        # One more than needed, as the prompt itself may be among them.
        return random.Random(int.from_bytes(digest[:8], "big")).sample(
            self._distinct, min(k + 1, len(self._distinct))
        )
