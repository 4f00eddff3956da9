"""The splits that a dataset repository's own card gives: ``configs`` in the head of its README.md."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mitune.errors import UserError, nearest, short
from mitune.reading import is_file, read_bytes, reading

_HEAD = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>.*?)\r?\n---", re.DOTALL)


def files_of_card(folder: Path, subset: str | None = None) -> list[tuple[str, list[Path]]] | None:
    """Give each split of a folder with its files as the card lists them; None where it lists none: the names decide
    then.

    ``subset``: the configuration, where there are several and none is the default. Raises UserError: a card that is
    not as the Hub takes it, no such configuration, a path out of the folder, no file.
    """
    card = folder / "README.md"
    # A note in another encoding is no card, and no reason to refuse the folder.
    head = _HEAD.match(read_bytes(card).decode(errors="replace")) if is_file(card) else None
    if head is None or not re.search(r"^configs[ \t]*:", head["yaml"], re.MULTILINE):
        return None
    with reading(card, "mend its head"):
        configs = yaml.safe_load(head["yaml"])["configs"]
    chosen = _configuration(configs, subset, card, folder)
    if chosen.get("data_files") is None:
        return None
    return _files_of(chosen, folder, card)


def _files_of(config: dict[str, Any], folder: Path, card: Path) -> list[tuple[str, list[Path]]]:
    """Each split of a configuration with its files. Raises UserError."""
    base = PurePosixPath(str(config.get("data_dir") or ""))
    found = []
    for split, patterns in _patterns(config["data_files"], card):
        paths = [path for pattern in patterns for path in _files(folder, base, pattern, card)]
        found.append((split, list(dict.fromkeys(paths))))
    return found


def _configuration(configs: Any, subset: str | None, card: Path, folder: Path) -> dict[str, Any]:
    if not isinstance(configs, list) or not all(isinstance(one, dict) for one in configs) or not configs:
        raise UserError(f"{card}: configs is no list of configurations; mend its head")
    names = [str(one.get("config_name", "default")) for one in configs]
    for name, one in zip(names, configs, strict=True):
        usual = subset is None and (len(configs) == 1 or name == "default" or one.get("default") is True)
        if name == subset or usual:
            return one
    known = ", ".join(short(name, 40) for name in names[:10])
    if subset is not None:
        raise UserError(f"{card} has no configuration '{subset}'{nearest(subset, names)}; it has {known}")
    way = next((path for one in configs if (path := _first_file(one, folder, card)) is not None), None)
    raise UserError(
        f"{card} has several configurations ({known}), none of them the default; give the file or the folder of one as"
        f" the source{f', such as {way}' if way is not None else ''}, or mark one with default: true"
    )


def _first_file(config: dict[str, Any], folder: Path, card: Path) -> Path | None:
    """A file of a configuration, None where it lists none that is there."""
    try:
        return next((path for _, paths in _files_of(config, folder, card) for path in paths), None)
    except (UserError, KeyError):
        return None


def _patterns(given: Any, card: Path) -> list[tuple[str, list[str]]]:
    """Each split with its patterns of files; those without a split are ``train``."""
    entries = given if isinstance(given, list) else [given]
    if all(isinstance(entry, str) for entry in entries):
        return [("train", entries)]
    found = []
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        wanted = path if isinstance(path, list) else [path]
        patterns = [pattern for pattern in wanted if isinstance(pattern, str)]
        split = entry.get("split") if isinstance(entry, dict) else None
        if not isinstance(split, str) or len(patterns) < len(wanted):
            raise UserError(f"{card}: data_files is no list of split and path; mend its head")
        found.append((split, patterns))
    return found


def _files(folder: Path, base: PurePosixPath, pattern: str, card: Path) -> Collection[Path]:
    whole = base / pattern
    if whole.is_absolute() or ".." in whole.parts or "://" in pattern or "\0" in str(whole):
        own = base.is_absolute() or ".." in base.parts
        blamed = f"data_dir {short(str(base))!r}" if own else repr(short(pattern))
        raise UserError(f"{card}: {blamed} leads out of the folder; give paths within it")
    with reading(card, "mend its head"):
        names = sorted(glob.glob(str(whole), root_dir=folder, recursive=True))
    paths = [folder / name for name in names if is_file(folder / name)]
    if not paths:
        raise UserError(
            f"{card} lists {short(pattern)!r}, and no such file is there; download it, or mend the card"
        )
    return paths
