"""What a benchmark asks for: a line of its prompt files, and a picture that was drawn for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mitune.errors import UserError, short
from mitune.evaluate.catalogue import Benchmark
from mitune.tasks import Task


@dataclass(frozen=True)
class Line:
    """Holds a line: its category, its ``number`` among those that are numbered together, its text as it stands there.

    ``note``: what the file says of it beside the text. ``before``: how many earlier lines have the same text; their
    pictures come first, so that a prompt that stands twice gets other pictures the second time.
    """

    category: str
    number: int
    text: str
    note: Mapping[str, Any]
    before: int = 0

    @property
    def task(self) -> Task:
        """The prompt as it is drawn."""
        return Task.of(self.text, self.category)


@dataclass(frozen=True)
class Shown:
    """Holds a picture of a benchmark: the ``number``-th of its line, in the file ``path``."""

    line: Line
    number: int
    path: Path


@dataclass(frozen=True)
class Asked:
    """Says which part of a benchmark is meant, as the section ``benchmark`` does."""

    benchmark: Benchmark
    split: str
    categories: tuple[str, ...]
    limit: int | None
    per_prompt: int
    whole: bool

    def takes(self, category: str) -> bool:
        """Tell whether a category is meant."""
        return not self.categories or category in self.categories

    def check_count(self, category: str, found: int, where: object, what: str = "prompts") -> None:
        """Raise UserError where a category has not as many prompts as the benchmark."""
        known = self.benchmark.category(category).prompts[self.split]
        if self.whole and found != known:
            raise UserError(
                f"{where}: {found} {what} of {category}, {self.benchmark.title} has {known}: another version, or a part"
                f" of it; give its own ({self.benchmark.home}), or say benchmark.whole=false"
            )


@dataclass(frozen=True)
class Answer:
    """Holds what the judge said of a picture: its number, and what else the benchmark's files hold of it."""

    value: float
    more: Mapping[str, Any]


class Files(Protocol):
    """Knows a benchmark's files: prompts, pictures, results. ``asked``: which part is meant."""

    asked: Asked

    def lines(self, source: Path) -> list[Line]:
        """Read the prompts, category by category. Raises UserError for files of another form or version."""

    def place(self, line: Line, number: int) -> str:
        """Name the file of a picture, below the folder of all of them."""

    def beside(self, line: Line) -> dict[str, str]:
        """Give the files that lie beside a line's pictures, besides a sheet: their texts by name."""

    def sheet(self, line: Line) -> str | None:
        """Name the sheet of a line's pictures, where the benchmark has one."""

    def find(self, folder: Path, lines: Sequence[Line] | None) -> list[Shown]:
        """Find the pictures of a folder, in order. Raises UserError: unknown form, missing or doubled pictures, others
        than those of ``lines``."""

    def write(self, folder: Path, root: Path, shown: Sequence[Shown], answers: Sequence[Answer]) -> None:
        """Write results below ``folder`` as the benchmark's own scripts do; ``root``: of the pictures."""


def counted(lines: Iterable[Line]) -> list[Line]:
    """Say of every line how many before it have the same text."""
    seen: Counter[str] = Counter()
    found = []
    for line in lines:
        found.append(Line(line.category, line.number, line.text, line.note, seen[line.text]))
        seen[line.text] += 1
    return found


def numbered(found: Iterable[tuple[int, Path]], where: object, what: str) -> dict[int, Path]:
    """Give files by their number: 0, 1, … without a gap. Raises UserError for a number that is missing or doubled."""
    places: dict[int, Path] = {}
    for number, path in sorted(found):
        if number in places:
            raise UserError(
                f"{where}: {what} {number} is there twice ({short(places[number].name)} and {short(path.name)}); remove"
                " one"
            )
        places[number] = path
    for number in range(max(places, default=-1) + 1):
        if number not in places:
            raise UserError(
                f"{where}: {what} {number} is missing, though {max(places)} is there; draw it, or begin anew"
            )
    return places
