"""Errors a user can mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterable


class UserError(Exception):
    """A mistake in the input. The message names the thing, the place and the way out, on one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the choice most like ``name``, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def check_known(what: str, value: str, known: Collection[str]) -> None:
    """Raise UserError unless ``value`` is one of ``known``; ``what``: the name it was given for, and where."""
    if value not in known:
        raise UserError(
            f"{what}={value!r} is not known{nearest(str(value), known)} (known: {', '.join(known)})"
        )


def first_line(error: BaseException) -> str:
    """What another library's error says, on one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def short(text: str, length: int = 160) -> str:
    """The text, cut after ``length`` characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def complain(line: str) -> None:
    """Say one line on standard error, in one write.

    The processes of a launch share it and are unbuffered there (``python -u``): ``print`` would send the end of the
    line by itself, and two lines could come out as one.
    """
    sys.stderr.write(f"mitune: {' '.join(line.split())}\n")
    sys.stderr.flush()
