"""What a user asks for in a picture: phrases that are each in one place of its prompt. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mitune.errors import UserError, short
from mitune.pixels.phrases import Phrase, find


def unambiguous(prompt: str, phrases: Sequence[str]) -> tuple[Phrase, ...]:
    """Find phrases in a prompt, in their order, as :func:`find`.

    >>> [phrase.start for phrase in unambiguous("a cat and a dog", ["a dog", "a cat"])]
    [10, 0]

    Raises UserError: none, one that is not there, or one that is there more often than it is asked for.
    """
    if not phrases:
        raise UserError(f"no phrase is looked for in the prompt {short(prompt)!r}; name at least one")
    found = find(prompt, phrases)
    taken = [(phrase.start, phrase.stop) for phrase in found]
    for text in dict.fromkeys(" ".join(phrase.lower().split()) for phrase in phrases):
        together = r"\s+".join(map(re.escape, text.split()))
        pattern = re.compile(rf"(?<!\w){together}(?!\w)", re.IGNORECASE)
        free = [place.span() for place in pattern.finditer(prompt) if _apart(place.span(), taken)]
        if free:
            asked = sum(1 for phrase in phrases if " ".join(phrase.lower().split()) == text)
            raise UserError(
                f"the phrase {short(text)!r} is {len(free) + asked} times in the prompt {short(prompt)!r}; give a"
                " longer phrase that is there once, or give it as often"
            )
    return found


def _apart(place: tuple[int, int], taken: Sequence[tuple[int, int]]) -> bool:
    return all(place[1] <= low or place[0] >= high for low, high in taken)
