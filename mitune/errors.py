"""Errors a user can mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input. The message names the thing, the place and the way out, on one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the choice most like ``name``, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""
