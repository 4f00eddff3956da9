"""The one door for files that users bring: what a library raises about such a file leaves it as one line.

Every reader of a user's file goes through here, for its bytes (``read_bytes``: regular files only), its text
(``read_text``), its lines (``lines``), its JSON (``parse_json``), and, where another library reads the file itself,
through ``reading``. Nothing here imports torch.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from mitune.errors import UserError, first_line, short

# Byte order marks, longest first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # ./name is a folder
_DEPTH = 20  # of a settings file's sections
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextlib.contextmanager
def reading(what: object, way_out: str = "mend it, or give another file") -> Iterator[None]:
    """Turn whatever a library raises within the block about ``what``, a user's file, into a UserError that ends with
    ``way_out``. Keep the block to the library's call: a fault of ours in it would be blamed on the file.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} does not exist; check the path") from error
    except OSError as error:
        said = error.strerror or first_line(error)
        raise UserError(f"{what} cannot be read ({said}); {way_out}") from error
    except MemoryError as error:  # a size in a damaged header, which nobody has
        raise UserError(
            f"{what} cannot be read (it asks for more memory than there is); {way_out}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{what} cannot be read (it is nested too deeply); {way_out}") from error
    except Exception as error:  # of dozens of types, all one to the user
        raise UserError(f"{what} cannot be read ({short(first_line(error))}); {way_out}") from error


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn whatever a library raises within the block into a UserError that begins with ``what``, which says what could
    not be done: its error may be of files that do not fit, or of a package that reading them takes.
    """
    try:
        yield
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{what}: a file of it is nested too deeply") from error
    except Exception as error:  # of dozens of types, all one to the user
        raise UserError(f"{what}: {short(first_line(error), 400)}") from error


def is_file(path: str | Path) -> bool:
    """Tell whether a regular file is there; False too for a path that no file can have (too long, with a NUL in it)."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Tell whether a folder is there; False too for a path that no folder can have."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: str | Path) -> bool:
    """Tell whether anything is there; False too for a path that nothing can have."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_hub_id(text: str) -> bool:
    """Tell whether ``text`` may name a repository of the Hub: ``owner/name``."""
    return _HUB_ID.fullmatch(text) is not None


def home(path: str | Path) -> Path:
    """Replace ``~`` in a path. Raises UserError for the home of a user that there is not, and for a NUL."""
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is no path: it holds a NUL character; check it")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: there is no such user whose home '~' could be; write the path out"
        ) from error


def check_regular(path: str | Path, what: object | None = None) -> None:
    """Raise UserError unless ``path`` is a regular file, before anything is read: a device or a pipe never ends."""
    what = path if what is None else what
    with reading(what):
        try:
            mode = os.stat(path).st_mode
        except ValueError as error:  # a NUL in the path
            raise UserError(f"{what}: {str(path)!r} is no path; check it") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise UserError(f"{what} is {kind}, not a file; give a file")


def read_bytes(path: str | Path, what: object | None = None) -> bytes:
    """Read the contents of a regular file. ``what`` names it in messages. Raises UserError for all else."""
    what = path if what is None else what
    check_regular(path, what)
    with reading(what):
        # Not to wait where it became a pipe since: O_NONBLOCK; then the kind of what was opened counts.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a file")
            return file.read()


def decode(data: bytes, what: object) -> str:
    """Decode text as its byte order mark says, else as UTF-8. Raises UserError for bytes that are none."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{what} is not text: it holds NUL characters; give a text file in UTF-8")
    return text


def read_text(path: str | Path) -> str:
    """Read the text of a file; see ``decode``."""
    return decode(read_bytes(path), path)


def lines(text: str) -> list[str]:
    """Cut a text into lines, at \\n and \\r\\n only: form feeds, U+2028 and their kind are characters of a line."""
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]


def parse_json(text: str | bytes, what: object, way_out: str = "mend it, or give another file") -> Any:
    """Give the value of a JSON text. Raises UserError: no JSON, nested too deeply, numbers too long, characters that no
    UTF-8 text can hold (lone surrogates).
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{what} is not valid JSON ({error}); {way_out}") from error
    except RecursionError as error:
        raise UserError(f"{what} is nested too deeply to be read; {way_out}") from error
    except ValueError as error:  # a number of thousands of digits, or bytes that are no text
        raise UserError(f"{what} is not valid JSON ({short(first_line(error))}); {way_out}") from error
    if _has_surrogate(text):
        # Only an escape can bring one in: look where there was one.
        with reading(what, way_out):
            json.dumps(value, ensure_ascii=False).encode()
    return value


def _has_surrogate(text: str | bytes) -> bool:
    return (b"\\ud" in text.lower()) if isinstance(text, bytes) else ("\\ud" in text.lower())


def read_json(path: str | Path, way_out: str = "mend it, or give another file") -> Any:
    """Read the value of a JSON file; see ``parse_json``."""
    data = read_bytes(path)
    try:
        text = decode(data, path)
    except UserError as error:
        raise UserError(f"{path} is not valid JSON (it is not UTF-8 text); {way_out}") from error
    return parse_json(text, path, way_out)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value that was read is a finite number: to Python, true and false are numbers too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value that was read is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_yaml(text: str, what: object, way_out: str = "mend it, or give another file") -> None:
    """Raise UserError for a YAML text that is none, or that a settings file does not need and a reader may choke on:
    anchors and aliases, tags, several documents, nesting without end.
    """
    depth = documents = 0
    with reading(what, way_out):
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            tag = getattr(event, "tag", None)
            if isinstance(event, yaml.NodeEvent) and (event.anchor or tag):
                given = f"&{event.anchor}" if event.anchor else tag
                raise UserError(f"{what}: YAML's {given} is not read; write out what it stands for")
            if depth > _DEPTH or documents > 1:
                raise UserError(
                    f"{what} is no settings file (nested too deeply, or several in one); {way_out}"
                )
