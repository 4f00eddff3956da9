"""Splits by the names of files and folders, as ``datasets`` reads them; every reader of a folder asks here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mitune.data.dataset_card import files_of_card
from mitune.errors import UserError
from mitune.reading import is_file, is_folder, reading

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# The words of ``datasets.data_files``, and what may stand beside one; a test holds them to the library's.
KEYWORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    TEST: ("test", "testing", "eval", "evaluation"),
}
# Which held-out name stands in for another that is not there: the first of these that is.
HELD_OUT = ("val", "validation", "valid", "dev", "test", "testing", "eval", "evaluation")
_BESIDE = "[-._ 0-9]"
_WORDS = "|".join(word for words in KEYWORDS.values() for word in words)
_NAMED = re.compile(
    rf"(?:(?P<before>.*?){_BESIDE})??(?P<split>{_WORDS})(?:{_BESIDE}.*)?", re.IGNORECASE | re.DOTALL
)
_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..+", re.DOTALL)
# Files of a dataset's folder that hold no rows.
_NO_ROWS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_ABOUT = {
    "readme", "license", "licence", "notice", "copying", "authors", "citation", "changelog", "requirements",
}  # fmt: skip
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_MOST = 100_000  # names looked at before a folder is taken for something else than a dataset


def canonical(name: str) -> str:
    """Give the usual name of a split: ``val`` and ``dev`` are ``validation``; a name not known is left as it is."""
    return next((split for split, words in KEYWORDS.items() if name.lower() in words), name)


def is_held_out(name: str | None) -> bool:
    """Tell whether a split of this name (None: of none) is held out."""
    return name is not None and name.lower() in HELD_OUT


def split_of(path: str | Path) -> str | None:
    """Give the split that a file's (or folder's) own name gives: ``train``, ``validation``, ``test``, or None.

    A word of ``KEYWORDS`` counts where the name begins, ends or is parted beside it: ``color_train.txt``,
    ``test-00000-of-00002.parquet``, but not ``contest.txt``. Of several, the first.
    """
    named = _NAMED.fullmatch(Path(path).name)
    return canonical(named["split"]) if named else None


def before_split(stem: str) -> str | None:
    """Give what stands before the split in a file's name without its suffix; None where it names none."""
    named = _NAMED.fullmatch(stem)
    return (named["before"] or "") if named else None


def choose(split: str | None, there: Sequence[str], held_out: bool = False) -> str | None:
    """Choose which of the splits ``there`` is meant by ``split``; None where none is.

    One held-out split stands in for another. Where none is asked for: ``train``, else the first; with ``held_out``, a
    held-out one only.
    """
    asked = split or (TEST if held_out else TRAIN)
    if asked in there:
        return asked
    same = next((name for name in there if label_of(name) == label_of(asked)), None)
    if same is not None:
        return same
    if is_held_out(asked):
        lower = {name.lower(): name for name in reversed(there)}
        found = next((lower[name] for name in HELD_OUT if name in lower), None)
        if found is not None or split or canonical_names(there):
            return found
    return None if split or not there else there[0]


def canonical_names(names: Collection[str]) -> bool:
    """Tell whether every name is one of a split that everybody knows."""
    return all(canonical(name) in KEYWORDS for name in names)


def split_column(names: Iterable[str]) -> str | None:
    """Give the column among ``names`` whose cells say each row's split; None for none."""
    return next((name for name in names if name.strip().lower() == "split"), None)


def label_of(cell: Any) -> str:
    """Give a cell of a split column as such are compared: ``Val`` is ``validation``; empty where it says nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    text = cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)
    label = text.strip().lower()
    return "" if label in ("none", "nan", "null") else canonical(label)


def labels_of(cells: Iterable[Any], column: str) -> set[str]:
    """Give the labels of a split column; none where every cell is empty. ``column``: it in words.

    Raises UserError where some cells are empty and others are not: nobody knows what such rows are.
    """
    labels: set[str] = set()
    empty: list[int] = []
    for number, cell in enumerate(cells, 1):
        label = label_of(cell)
        if label:
            labels.add(label)
        else:
            empty.append(number)
    if labels and empty:
        raise UserError(
            f"{column} is empty in {len(empty)} rows, such as row {empty[0]}; fill it in, or rename the column"
        )
    return labels


def choose_label(
    labels: Collection[str], split: str | None, held_out: bool = False, stand_in: bool = True
) -> str | None:
    """Choose which of the labels of a column is meant by ``split``: ``train`` (with ``held_out`` a held-out one) where
    none is asked for; None where it is not among them. Labels that are no usual name are splits of their own.
    """
    asked = label_of(split) if split else (TEST if held_out else TRAIN)
    others = (VALIDATION, TEST) if stand_in and asked in (VALIDATION, TEST) else ()
    return next((label for label in (asked, *others) if label in labels), None)


def labelled(
    folder: Path, suffixes: Collection[str], subset: str | None = None
) -> list[tuple[Path, str | None]]:
    """Give the files of a folder that end in one of ``suffixes`` (lower case), in order, each with its split or None.

    The ``configs`` of a README.md decide, where it has any (``subset``: which one). Else looked into: the folder,
    ``data``, and the folders in either that are named after a split, with all below; where nothing is found there,
    everything below. Shards in ``data`` (``data/NAME-00000-of-00002.parquet``) decide alone; else the split is that of
    the folder a file lies in, else that of its name. Raises UserError.
    """
    card = files_of_card(folder, subset)
    if card is not None:
        wanted = [(path, canonical(split)) for split, paths in card for path in paths]
        return [(path, split) for path, split in wanted if path.suffix.lower() in suffixes]
    paths = [path for path in _near(folder) if _holds_rows(path, suffixes)]
    if not paths:
        paths = [path for path in _below(folder) if _holds_rows(path, suffixes)]
    shards = [path for path in paths if path.parent == folder / "data" and _SHARD.fullmatch(path.name)]
    if shards:
        return [(path, canonical(_shard_split(path))) for path in sorted(shards)]
    return [(path, _label(path, folder)) for path in sorted(paths)]


def passed_over(folder: Path, suffixes: Collection[str], subset: str | None = None) -> list[Path]:
    """Give the files below that ``labelled`` does not look for, as it finds some nearer; none where these name splits.
    Of a very large folder, those among the names looked at first.
    """
    found = labelled(folder, suffixes, subset)
    if any(split is not None for _, split in found):
        return []
    near = {path for path, _ in found}
    return sorted(
        path for path in _below(folder, refuse=False) if path not in near and _is_table(path, suffixes)
    )


def by_split(folder: str | Path, suffixes: Collection[str]) -> dict[str | None, list[Path]]:
    """Give the files of a folder by their split; see ``labelled``. Where none carries a split all are under None; where
    any does, those that carry none are left out: they are lists of words, unions of the others, or notes.
    """
    found: dict[str | None, list[Path]] = {}
    for path, split in labelled(Path(folder), suffixes):
        found.setdefault(split, []).append(path)
    if len(found) > 1:
        found.pop(None, None)
    return found


def _label(path: Path, folder: Path) -> str | None:
    above = (split_of(part) for part in path.relative_to(folder).parts[:-1])
    return next((split for split in above if split), None) or split_of(path.name)


def _shard_split(path: Path) -> str:
    named = _SHARD.fullmatch(path.name)
    assert named is not None
    return named["split"]


def _holds_rows(path: Path, suffixes: Collection[str]) -> bool:
    if path.suffix.lower() in _PACKED and Path(path.stem).suffix.lower() in suffixes:
        raise UserError(f"{path} is compressed; unpack it, or move it out of the folder")
    return _is_table(path, suffixes)


def _is_table(path: Path, suffixes: Collection[str]) -> bool:
    about = path.name in _NO_ROWS or path.stem.lower() in _ABOUT
    return path.suffix.lower() in suffixes and not about and is_file(path)


def _near(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / "data"):
        if not is_folder(place):
            continue
        for path in _listing(place):
            if not is_folder(path):
                yield path
            elif split_of(path.name):
                yield from _below(path)


def _below(folder: Path, refuse: bool = True) -> Iterator[Path]:
    """All files below, but for what is hidden. Links to folders are not followed: they may lead in a circle. Beyond
    ``_MOST`` names a UserError, or without ``refuse`` the end.
    """
    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in files:
            if not name.startswith("."):
                yield Path(place, name)
        seen += len(files) + len(folders)
        if seen > _MOST:
            if not refuse:
                return
            raise UserError(
                f"{folder} holds more than {_MOST} files and folders; give the folder of the data itself"
            )


def _listing(folder: Path) -> list[Path]:
    with reading(folder, "give a folder that can be read"):
        return [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
