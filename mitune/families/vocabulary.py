"""Whether a tokenizer has its words: without its files, transformers makes one of special tokens alone and says
nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mitune.errors import UserError

_LEAST = 4  # of the words a text encoder has, a tokenizer knows at least one in so many
_FILES = "tokenizer.json, vocab.json and merges.txt, spiece.model or tokenizer.model"
_SINGLE = re.compile(r"(.|<0x[0-9A-F]{2}>)(</w>)?", re.DOTALL)  # what needs no merging


def check_vocabulary(tokenizer: Any, rows: int | None, what: str) -> None:
    """Raise UserError, beginning with ``what``, for a tokenizer that knows hardly any of the ``rows`` tokens of the
    text encoder beside it (None: not known), or has no merges that make words of letters.
    """
    words = set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab())
    if len(words) * _LEAST < (rows or _LEAST):
        told = f", of the {rows} of its text encoder" if rows else ""
        raise UserError(
            f"{what} has no vocabulary: it knows {len(words)} words{told}; one of its files ({_FILES}) is missing or"
            " cut short: fetch it again"
        )
    if "merges_file" in (getattr(tokenizer, "vocab_files_names", None) or {}) and _lacks_merges(
        tokenizer, words
    ):
        raise UserError(
            f"{what} has no merges that make words of letters (its merges.txt, or those in tokenizer.json); fetch it"
            " again"
        )


def _lacks_merges(tokenizer: Any, words: set[str]) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    model = json.loads(backend.to_str())["model"]
    whole = any(_SINGLE.fullmatch(word) is None for word in words)
    return model.get("type") == "BPE" and not model.get("merges") and whole
