"""How often a command that nobody watches on a terminal says how far it is."""

from __future__ import annotations

import math
import os

from mitune.errors import UserError, short

NAME = "MITUNE_LOG_EVERY"
_EVERY = 30.0


def log_every() -> float:
    """Give the seconds between two lines of progress, from the environment; 0: none at all.

    Raises UserError for a value that is no number of seconds.
    """
    text = os.environ.get(NAME, "").strip()
    try:
        seconds = float(text) if text else _EVERY
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(
            f"{NAME}={short(text, 80)}: give the seconds between two lines of progress, 0 for none, or unset it"
        )
    return seconds


def in_time(seconds: float) -> str:
    """Say a time as people do.

    >>> in_time(42), in_time(250), in_time(9000), in_time(500_000)
    ('42 s', '4.2 min', '2.5 h', '5.8 days')
    """
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= 100):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
