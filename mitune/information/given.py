"""What pictures are scored for: their prompts, and what is made of them when a score asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from mitune.denoiser import Condition, Denoiser
from mitune.information.negatives import Pool


def encode(denoiser: Denoiser, texts: Sequence[str], batch_size: int) -> Condition:
    """Encode each text, one row each, ``batch_size`` at a time."""
    parts = [
        denoiser.encode_prompts(list(texts[start : start + batch_size]))
        for start in range(0, len(texts), batch_size)
    ]
    return Condition.cat(parts)


class Given:
    """The prompts of n pictures.

    Args:
        texts: n.
        pool: where other prompts are found.
        batch_size: texts encoded at once.
    """

    def __init__(self, denoiser: Denoiser, texts: Sequence[str], pool: Pool, batch_size: int) -> None:
        self.texts, self.pool = list(texts), pool
        self._denoiser, self._batch_size = denoiser, batch_size

    @cached_property
    def condition(self) -> Condition:
        """The condition of each row; candidates of one prompt share one encoding."""
        unique = list(dict.fromkeys(self.texts))
        number = {text: place for place, text in enumerate(unique)}
        with torch.no_grad():
            found = encode(self._denoiser, unique, self._batch_size)
        return found[[number[text] for text in self.texts]]
