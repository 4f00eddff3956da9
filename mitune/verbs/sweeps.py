"""``mitune sweep-table``."""

from __future__ import annotations

from mitune.errors import UserError
from mitune.reading import home
from mitune.report.sweeps import write_sweep


def sweep_table(words: list[str]) -> int:
    """``mitune sweep-table FOLDER``."""
    if len(words) != 1 or "=" in words[0]:
        raise UserError(
            "mitune sweep-table FOLDER: give the folder of a sweep, or one that holds several runs"
        )
    write_sweep(home(words[0]))
    return 0
