"""The texts of BLIP and BLIP-2: cleaned as in their training, and made tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.referees.judge_files import JudgeSource
from mitune.referees.networks import open_tokenizer

WORDS = 50
"""Of a text that are read."""
ENCODER, DECODER = "[ENC]", "[DEC]"
_SIGNS = re.compile(r"[.!\"()*#:;~]")


def clean_caption(text: str) -> str:
    """Give a caption as BLIP and BLIP-2 learnt from them: lower case, no stops or brackets, 50 words at most.

    >>> clean_caption("A red circle (large).  It is round!")
    'a red circle large it is round'
    """
    spaced = re.sub(r"\s{2,}", " ", _SIGNS.sub(" ", text.lower()))
    return " ".join(spaced.rstrip("\n").strip(" ").split(" ")[:WORDS])


def clean_question(text: str) -> str:
    """Give a question as BLIP learnt from them: lower case, stops and brackets taken out, 50 words at most.

    >>> clean_question("St. Mary's church?")
    "st mary's church?"
    """
    return " ".join(_SIGNS.sub("", text.lower()).rstrip(" ").split(" ")[:WORDS])


@dataclass(frozen=True)
class Tokens:
    """Rows of token ids, padded on the right, and the mask that says which of them are there."""

    ids: Tensor
    mask: Tensor

    def rows(self, index: Tensor) -> Tokens:
        """Take these rows."""
        return Tokens(self.ids[index], self.mask[index])


class BlipTexts:
    """The BERT tokenizer of a BLIP, with the two tokens that the family adds to it.

    Args:
        source: the judge's folder.
        vocabulary: how many tokens its network knows.
        length: tokens of a text at most; longer ones are cut.
        decoder: the id of [DEC], as the network's config.json has it; tokenizers on the Hub are plain BERT's.
        device: where the ids go.
    """

    def __init__(
        self, source: JudgeSource, vocabulary: int, length: int, decoder: int, device: torch.device
    ) -> None:
        from transformers import BertTokenizer

        self._source, self._length, self._device, self._vocabulary = source, length, device, vocabulary
        self._tokenizer: Any = open_tokenizer(BertTokenizer, source, vocabulary)
        words = self._tokenizer.get_vocab()
        self.decoder = self._added(words.get(DECODER, decoder), DECODER)
        self.encoder = self._added(words.get(ENCODER, decoder + 1), ENCODER)

    def _added(self, number: int, name: str) -> int:
        if not 0 <= number < self._vocabulary:
            raise UserError(
                f"{self._where}: the token {name} would be number {number} of the {self._vocabulary} that its network"
                " knows; it is no BLIP, or its tokenizer is another model's: fetch it again"
            )
        return number

    @property
    def _where(self) -> str:
        return f"{self._source.key}={self._source.name}"

    def word(self, word: str) -> int:
        """Give the id of a word that is one token. UserError where the tokenizer does not have it."""
        number = self._tokenizer.get_vocab().get(word)
        if number is None:
            raise UserError(
                f"{self._where}: its tokenizer has no token {word!r}, which the score is made of; it is another"
                " model's: fetch it again"
            )
        return int(number)

    def tokens(self, texts: Sequence[str], first: int | None = None) -> Tokens:
        """Give the tokens of ``texts``; ``first``: the id that stands in place of [CLS]."""
        found = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        )
        ids = found["input_ids"]
        if first is not None:
            ids[:, 0] = first
        return Tokens(ids.to(self._device), found["attention_mask"].to(self._device))


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """List the texts without those that were there before, and for every one its place in that list."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), [places[text] for text in texts]
