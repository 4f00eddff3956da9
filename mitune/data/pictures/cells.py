"""From the cell of a table to the contents of a picture's file, and which files a source may name."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.errors import UserError, short
from mitune.reading import check_regular, home, is_file, read_bytes

LARGEST = 2**31  # bytes of a picture's file; the largest picture that is decoded has fewer, uncompressed
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_SKIP = "or leave such out with score.skip=true"


@dataclass(frozen=True)
class Place:
    """A place is the folder that a source's files lie in, and whether they may lie elsewhere (``score.outside``).

    A table is often somebody else's, and so are the links of a folder: no file elsewhere is read for them. The links
    of a snapshot in the Hugging Face cache lead to the ``blobs`` beside it: those are its own. ``more``: further
    folders that are the source's own.
    """

    folder: Path
    outside: bool = False
    more: tuple[Path, ...] = ()
    way_out: str = "copy it there, or allow it with score.outside=true"

    def check(self, path: Path, what: str) -> None:
        """Raise UserError for a path that leads out of the folder, by itself or through a link."""
        if self.outside:
            return
        real = os.path.realpath(path)
        if not any(_within(real, own) for own in _own(self.folder, self.more)):
            raise UserError(f"{what} lies outside {self.folder} ({short(real)}); {self.way_out}")

    def find(self, name: str, what: str) -> Path:
        """Find the file that a table names. Raises UserError for one outside, an address, or a name that cannot be."""
        if "\0" in name:
            raise UserError(f"{what}: {short(name)!r} is no path: it holds a NUL character; correct it")
        if _ADDRESS.match(name):
            raise UserError(
                f"{what} is a web address ({short(name, 60)}); download the pictures first, such as with img2dataset"
            )
        path = self.folder / name
        if not is_file(path):
            if name.startswith("~"):
                path = home(name)
            elif "\\" in name and os.sep != "\\":  # written on Windows
                path = self.folder / name.replace("\\", "/")
            elif self.outside and is_file(name):
                path = Path(name)
        self.check(path, what)
        return path

    def contents(self, cell: Any, what: str) -> bytes:
        """File contents of a picture cell: bytes, a path, or the mapping of both that ``datasets`` writes."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, (bytes, bytearray, memoryview)):
            if not len(cell):
                raise UserError(f"{what} is empty; remove the row, {_SKIP}")
            return bytes(cell)
        if cell is None or cell == "":
            raise UserError(f"{what} is empty; remove the row, {_SKIP}")
        if not isinstance(cell, str):
            raise UserError(
                f"{what} is given as {type(cell).__name__}, not as a file's name or contents; correct it, {_SKIP}"
            )
        return self.read(self.find(cell, what), what)

    def read(self, path: Path, what: str) -> bytes:
        """Read the contents of a picture's file."""
        try:
            check_regular(path, what)
            size = os.stat(path).st_size
            if size > LARGEST:
                raise UserError(f"{what} has {size:,} bytes: no picture is that large; remove it")
            return read_bytes(path, what)
        except UserError as error:
            raise UserError(f"{error}, {_SKIP}") from error


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


@functools.lru_cache(maxsize=64)
def _own(folder: Path, more: tuple[Path, ...]) -> tuple[str, ...]:
    """The real paths of the folders that a source's files may lie in."""
    root = Path(os.path.realpath(folder))
    found = [str(root), *(os.path.realpath(other) for other in more)]
    for above in (root, *root.parents):
        if above.parent.name == "snapshots" and "--" in above.parent.parent.name:
            found.append(str(above.parent.parent / "blobs"))
    return tuple(found)
