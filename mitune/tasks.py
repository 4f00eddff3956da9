"""What a picture is drawn for: a text, and maybe a picture that it is to be made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mitune.errors import UserError, short
from mitune.reading import read_bytes

UNCATEGORISED = "uncategorised"


@dataclass(frozen=True)
class PictureRef:
    """A picture's file, told by its contents: ``path`` says where it lies, ``sha256`` (64 hex digits) what it is.

    ``str`` and ``parse`` are its line in a table, as ``sha256sum`` writes it.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> PictureRef:
        """Read the file. Raises UserError for one that cannot be."""
        return cls(str(path.absolute()), hashlib.sha256(read_bytes(path)).hexdigest())

    @classmethod
    def parse(cls, line: str) -> PictureRef:
        """Undo ``str``."""
        digest, _, path = line.partition("  ")
        return cls(path, digest)

    def __str__(self) -> str:
        return f"{self.sha256}  {self.path}"

    def read(self) -> bytes:
        """Give the file's contents. Raises UserError where it is gone, or is another picture by now."""
        data = read_bytes(Path(self.path))
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UserError(
                f"{self.path} is another picture than when the run began; put it back, or choose another run="
            )
        return data


@dataclass(frozen=True)
class Task:
    """Says what candidates are drawn for. ``id``, 12 hex digits of the SHA-256 of ``key``, names it in tables.

    >>> Task.of("a red circle").id == Task.of("a red circle", category="shape").id
    True
    """

    id: str
    text: str
    category: str = UNCATEGORISED
    picture: PictureRef | None = None

    @classmethod
    def of(cls, text: str, category: str = UNCATEGORISED, picture: PictureRef | None = None) -> Task:
        """Make a task of a text as it is."""
        task = cls("", text, category, picture)
        return replace(task, id=hashlib.sha256(task.key.encode(errors="surrogatepass")).hexdigest()[:12])

    @property
    def key(self) -> str:
        """The source of its id and its candidates' seeds: the text, with the picture's digest where it has one."""
        return self.text if self.picture is None else f"{self.text}\x1f{self.picture.sha256}"

    def reworded(self, text: str) -> Task:
        """The same picture with another text."""
        return Task.of(text, self.category, self.picture)


def tasks_of(given: Iterable[Task | str]) -> list[Task]:
    """Make tasks of texts; tasks stay as they are."""
    return [Task.of(one) if isinstance(one, str) else one for one in given]


def check_texts_only(tasks: Iterable[Task], who: str) -> None:
    """Raise UserError for a task with a picture; ``who`` is told a text alone."""
    for task in tasks:
        if task.picture is not None:
            raise UserError(
                f"{who} takes a text alone, and the task {short(task.text)!r} has a picture; leave"
                " prompts.picture_column out, or give a model that edits pictures"
            )
