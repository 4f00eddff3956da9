"""What a source of pictures gives, row by row, and what was asked of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from mitune.data.prompts import make_prompt
from mitune.errors import short
from mitune.tasks import PictureRef, Task


@dataclass(frozen=True)
class Wanted:
    """This is what of a source is wanted: see :func:`mitune.data.pictures.load_pictures`."""

    split: str | None = None
    image: str | None = None
    text: str | None = None
    limit: int | None = None
    seed: int = 0
    outside: bool = False
    at_random: bool = False  # of several captions: any, not the first
    training: bool = False
    named: bool = False  # the name of a folder has told the split
    more: tuple[str, ...] = ()  # further columns of a table of file names, where it has them

    def without_split(self) -> Wanted:
        """Ask the same of a folder that is the split."""
        return replace(self, split=None, named=True)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A source gives row by row a caption, a name for messages, and a picture or a latent.

    >>> found = Pictures("here", ["a red circle"], ["a.png"], read=lambda row: b"")
    >>> found.what(0)
    "the picture a.png of here ('a red circle')"

    ``keys``: further columns that identify a row in the table of scores. ``scores``: columns known already.
    ``read``: file contents of a row's picture (None: there is only a latent), quick where rows are asked for in their
    order. ``latents``: the latents of some rows [n, …]. ``seeds``: those of the candidates; other pictures get theirs
    from :func:`numbers`. ``made_from``: the picture that each candidate was made from, as a line (``PictureRef``).
    ``notes``: what the user is to know of how the source was read. ``more``: cells of further columns that were wanted.
    ``beside``: the contents of another file that a cell names (cell, what it is in messages).
    """

    where: str
    texts: list[str]
    names: list[str]
    read: Callable[[int], bytes] | None = None
    latents: Callable[[Sequence[int]], Tensor] | None = None
    seeds: list[int] | None = None
    keys: Mapping[str, list[Any]] = field(default_factory=dict)
    scores: Mapping[str, list[float]] = field(default_factory=dict)
    left_out: int = 0
    notes: tuple[str, ...] = ()
    made_from: list[str] | None = None
    more: Mapping[str, list[Any]] = field(default_factory=dict)
    beside: Callable[[Any, str], bytes] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def what(self, row: int) -> str:
        """Give the row in words, for messages."""
        return f"the picture {short(self.names[row])} of {self.where} ({short(self.texts[row], 80)!r})"

    def task(self, row: int) -> Task:
        """Say what the row is a picture of."""
        picture = None if self.made_from is None else PictureRef.parse(self.made_from[row])
        return Task.of(self.texts[row], picture=picture)

    @property
    def digest(self) -> str:
        """The digest says what the rows are, whatever folder they lie in."""
        lines = "\x1f".join(f"{name}\x1e{text}" for name, text in zip(self.names, self.texts, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


def numbers(texts: Iterable[str]) -> list[int]:
    """Count how many earlier rows have the same caption: with it, the number that a picture's seed comes from."""
    seen: dict[str, int] = {}
    result = []
    for text in texts:
        result.append(seen.get(text, 0))
        seen[text] = result[-1] + 1
    return result


def prompts_of(pictures: Pictures) -> list[Task]:
    """Give the distinct captions."""
    return [make_prompt(text) for text in dict.fromkeys(pictures.texts)]
