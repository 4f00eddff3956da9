"""Bytes and seconds in words, and what is free."""

from __future__ import annotations

import shutil
from pathlib import Path

_GIB, _MIB, _KIB = 2**30, 2**20, 2**10


def size(count: float) -> str:
    """Say a number of bytes.

    >>> size(3 * 2**30), size(5 * 2**20), size(2000)
    ('3.0 GiB', '5.0 MiB', '2.0 KiB')
    """
    if count < 0.1 * _MIB:
        return f"{count / _KIB:,.1f} KiB"
    return f"{count / _GIB:,.1f} GiB" if count >= 0.1 * _GIB else f"{count / _MIB:,.1f} MiB"


def duration(seconds: float) -> str:
    """Say how long something takes.

    >>> duration(42), duration(4000), duration(400_000)
    ('42 s', '1 h 07 min', '4 d 15 h')
    """
    minutes, hours = int(seconds / 60 + 0.5), int(seconds / 3600 + 0.5)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def free(folder: Path) -> int:
    """Count the bytes that are free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
