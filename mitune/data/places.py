"""Where a source of prompts or of pictures lies, and whether anything is there. Nothing here imports torch."""

from __future__ import annotations

import re
from pathlib import Path

from mitune.data.settings import SUFFIXES, WORLD
from mitune.errors import UserError, nearest, short
from mitune.reading import check_regular, home, is_file, is_folder, is_hub_id, is_there

_BRACES = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")


def find_prompts(source: str) -> Path | None:
    """Find the file or folder of a source of prompts; None for the embedded world, or for what may be on the Hub.

    Raises UserError: empty, nothing there, no file or folder.
    """
    if source == WORLD:
        return None
    if not source.strip():
        raise UserError("prompts.source is empty; give a file, a folder, a Hub dataset id, or shapes")
    path = home(source)
    if is_folder(path) or is_file(path):
        return path
    if is_there(path):
        check_regular(path, f"prompts: {short(str(path))}")
    if path.suffix.lower() in SUFFIXES or not is_hub_id(source):
        near = nearest(path.name[:255], [WORLD, *_beside(path)])
        raise UserError(f"prompts: there is no file or folder {short(source)}{near}")
    return None


def find_pictures(source: str) -> Path | None:
    """Find the file or folder of a source of pictures; None for the embedded world, for a range of shards, or for what
    may be on the Hub. Raises UserError: nothing there, a device or a pipe.
    """
    if source == WORLD or expand(source) is not None:
        return None
    path = home(source)
    if is_folder(path) or is_file(path):
        return path
    if path.suffix or not is_hub_id(source):
        if is_there(path):
            check_regular(path)
        raise UserError(f"there is no picture source {short(source)}{nearest(path.name, _beside(path))}")
    return None


def expand(source: str) -> list[Path] | None:
    """Give the shards of ``folder/{00000..00010}.tar``; None for what is not written so."""
    found = _BRACES.fullmatch(source)
    if found is None or not source.endswith(".tar"):
        return None
    before, first, last, after = found.groups()
    if not 0 <= int(last) - int(first) < 1_000_000:
        raise UserError(f"{source}: the range {first}..{last} has no shards or too many; correct it")
    return [Path(f"{before}{number:0{len(first)}d}{after}") for number in range(int(first), int(last) + 1)]


def _beside(path: Path) -> list[str]:
    """The names that may have been meant."""
    try:
        return [other.name for other in path.parent.iterdir()]
    except (OSError, ValueError):
        return []
