"""Folders of picture files: captions in a table of metadata, or in a text file beside each picture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.data.pictures.cells import Place
from mitune.data.pictures.columns import IMAGE_COLUMNS, caption_of, find_columns, has_pictures
from mitune.data.pictures.parquet import columns_of, has_splits, read_parquet
from mitune.data.pictures.rows import Pictures, Wanted
from mitune.data.pictures.saved_dataset import choose_split
from mitune.data.pictures.splits import chosen_rows
from mitune.data.pictures.webdataset import caption_field, read_shards
from mitune.data.settings import SUFFIXES
from mitune.data.splits import TRAIN, by_split, is_held_out, split_column, split_of
from mitune.data.table_files import open_table
from mitune.errors import UserError, short
from mitune.reading import check_regular, is_file, is_there, lines, parse_json, read_text

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "metadata.json")
TABLES = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")
# Pictures that people have as files; others are read where a table names them.
PICTURES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".jxl", ".heic", ".ppm",
    ".pgm", ".tga",
)  # fmt: skip
SIDECARS = (".txt", ".caption")
_REPEATS = re.compile(r"\d{1,3}_.+")  # kohya's folders: 10_name is seen ten times an epoch


def read_folder(folder: Path, wanted: Wanted) -> Pictures:
    """Read the pictures of a folder. What is looked for, first to last: a table of metadata; parquet files with a
    picture column; tar shards (both also in ``data/`` and folders below); folders named for splits with tables;
    pictures with a text file beside each (in folders below, too).

    Raises UserError for a folder with none of them, or without the split.
    """
    if wanted.split and any(is_file(folder / wanted.split / name) for name in METADATA):
        return read_folder(_checked(folder / wanted.split, folder, wanted), wanted.without_split())
    for name in METADATA:
        if os.path.lexists(folder / name):
            if not is_there(folder / name):
                raise UserError(f"{folder / name} is a link to a file that is not there; mend or remove it")
            check_regular(folder / name)
            return read_listed(folder / name, wanted, folder)
    parquet = _files(folder, ".parquet", wanted)
    if parquet and has_pictures(columns_of(_checked(parquet[0], folder, wanted)), wanted):
        return read_parquet(parquet, wanted, folder)
    shards = _files(folder, ".tar", wanted)
    if shards:
        return read_shards(shards, wanted, folder)
    below = [path.parent.name for name in METADATA for path in folder.glob(f"*/{name}")]
    if below:
        return _parts(folder, sorted(set(below)), wanted)
    pictures = list(_pictures(folder))
    if pictures:
        return _beside(folder, pictures, wanted)
    if parquet:
        return read_parquet(parquet, wanted, folder)  # which says what is missing
    raise UserError(
        f"{folder} has no metadata.csv, metadata.jsonl or parquet file, no tar shards and no pictures; write a table"
        " with the columns file_name and text, or a text file beside each picture"
    )


def _checked(path: Path, folder: Path, wanted: Wanted) -> Path:
    Place(folder, wanted.outside).check(path, str(path))
    return path


def _files(folder: Path, suffix: str, wanted: Wanted) -> list[Path]:
    """The files with an ending of the split: the one asked for, else ``train``; all where their names tell none."""
    found = by_split(folder, (suffix,))
    there = [name for name in found if name is not None]
    if there:
        return found[choose_split(there, str(folder), wanted.split)]
    if found and wanted.split not in (None, TRAIN):
        if suffix == ".parquet" and any(has_splits(_checked(path, folder, wanted)) for path in found[None]):
            return found[None]
        raise UserError(
            f"{folder} has no split '{wanted.split}': no {suffix} file is named for one; leave out score.split"
        )
    return found.get(None, [])


def _parts(folder: Path, below: list[str], wanted: Wanted) -> Pictures:
    """A folder whose folders have the tables."""
    if all(split_of(name) for name in below):
        name = choose_split(below, str(folder), wanted.split)
        return read_folder(_checked(folder / name, folder, wanted), wanted.without_split())
    raise UserError(
        f"{folder} has no metadata.csv, metadata.jsonl or parquet file; its parts {', '.join(below)} have one: give"
        f" one of them, such as {folder / below[0]}"
    )


# -- a table that names files ------------------------------------------------------------------------------------------


def read_listed(table: Path, wanted: Wanted, root: Path | None = None) -> Pictures:
    """Read a table of file names and captions; the files lie beside it. ``root``: the folder that was asked for."""
    if table.suffix.lower() not in TABLES:
        raise UserError(
            f"{table} is no table of pictures; give a folder with metadata.csv or metadata.jsonl, a parquet file, or a"
            " .tar shard"
        )
    own = () if root is None else (root,)
    place = Place(table.parent, wanted.outside, own)
    if root is not None:
        place.check(table, str(table))
    opened = open_table(table, [name for name in (wanted.image, wanted.text, *IMAGE_COLUMNS) if name])
    columns = find_columns(opened.columns, wanted, str(table)) if opened.columns else None
    more: list[str] = []
    rows: Sequence[Mapping[str, Any]] = []
    if columns is not None:
        split = split_column(opened.columns)
        own_split = () if split is None else (split,)
        more = [name for name in wanted.more if name in opened.columns]
        rows = list(opened.rows([*columns.pictures, columns.caption, *own_split, *more]))
    if columns is None or not rows:
        raise UserError(f"{table} has no rows; give a source with at least one picture")
    if len(columns.pictures) > 1:
        raise UserError(
            f"{table} has two pictures a row ({', '.join(columns.pictures)}); choose one with score.image_column="
        )
    files = columns.pictures[0]
    rows = _of_split(rows, files, table, wanted, split_column(opened.columns))
    cells = [row.get(files) for row in rows]
    for row, cell in enumerate(cells):
        _check_cell(cell, f"{table}, row {row + 1}: column '{files}'")
    shown = [cell if isinstance(cell, str) else f"of row {row}" for row, cell in enumerate(cells)]
    where = str(table.parent if table.name in METADATA else table)
    return Pictures(
        where,
        [
            caption_of(row.get(columns.caption), name, wanted, where)
            for row, name in zip(rows, shown, strict=True)
        ],
        shown,
        lambda row: place.contents(cells[row], f"the picture {short(shown[row])} of {table}"),
        more={name: [row.get(name) for row in rows] for name in more},
        beside=place.contents,
    )


def _of_split(
    rows: Sequence[Mapping[str, Any]], files: str, table: Path, wanted: Wanted, column: str | None
) -> Sequence[Mapping[str, Any]]:
    """The rows of the split asked for, by a column ``split`` or else the folders that the files lie in. Where none is
    asked for all rows or, of pictures that are trained on, those that are not held out (by a column: of ``train``).
    """
    if wanted.split is None and not wanted.training:
        return rows
    if column is not None:
        (chosen,) = chosen_rows([[row.get(column) for row in rows]], wanted, str(table), wanted.named)
        if chosen is not None:
            return [rows[number] for number in chosen]

    def split_in(row: Mapping[str, Any]) -> str | None:
        name = row.get(files)
        parts = Path(name).parts if isinstance(name, str) else ()
        return split_of(parts[0]) if len(parts) > 1 else None

    splits = [split_in(row) for row in rows]
    there = list(dict.fromkeys(name for name in splits if name))
    if wanted.split is None:
        return [row for row, name in zip(rows, splits, strict=True) if not is_held_out(name)]
    if not there and wanted.split == TRAIN:
        return rows
    name = choose_split(there, str(table), wanted.split)
    return [row for row, own in zip(rows, splits, strict=True) if own == name]


def _check_cell(cell: Any, what: str) -> None:
    if isinstance(cell, (list, tuple)):
        raise UserError(f"{what} names {len(cell)} pictures in one row; write a row for each")
    if not isinstance(cell, (str, Mapping, bytes)) or not cell:
        raise UserError(f"{what} names no picture; fill it in")


# -- a text file beside each picture -----------------------------------------------------------------------------------


def _pictures(folder: Path) -> Iterator[Path]:
    """The picture files in a folder and those below it, by name; hidden ones and folders behind links apart."""
    for above, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES:
                yield Path(above, name)


def _beside(folder: Path, pictures: list[Path], wanted: Wanted) -> Pictures:
    """``a.txt``, ``a.caption`` or ``a.json`` beside ``a.png``."""
    first = {path.relative_to(folder).parts[0] for path in pictures if path.parent != folder}
    there = sorted(name for name in first if split_of(name))
    if wanted.split is not None or there:
        if there:
            name = choose_split(there, str(folder), wanted.split)
            return _beside(folder / name, list(_pictures(folder / name)), wanted.without_split())
        if wanted.split != TRAIN:
            raise UserError(
                f"{folder} has no split '{wanted.split}': no folder of this name has pictures; give it"
            )
    place = Place(folder, wanted.outside)
    names = [path.relative_to(folder).as_posix() for path in pictures]
    texts, several = [], 0
    for path, name in zip(pictures, names, strict=True):
        value = _sidecar(path, place, wanted)
        several += isinstance(value, list) and len(value) > 1
        texts.append(caption_of(value, name, wanted, str(folder)))
    if not any(texts):
        raise UserError(
            f"{folder} has {len(names)} pictures and no caption: neither a metadata.csv (file_name, text) nor a text"
            f" file beside a picture ({Path(names[0]).with_suffix('.txt')} beside {names[0]}); write one of them"
        )
    notes = []
    if several:
        chosen = "one of them was taken by the seed" if wanted.at_random else "the first was taken"
        notes.append(f"{folder}: {several} text files have several lines, read as several captions; {chosen}")
    if any(_REPEATS.fullmatch(part) for name in names for part in Path(name).parts[:-1]):
        notes.append(
            f"{folder}: the repeats in folder names (10_name) are not counted; each picture is a row"
        )
    return Pictures(
        str(folder), texts, names, lambda row: _read(place, pictures[row], names[row]), notes=tuple(notes)
    )


def _read(place: Place, path: Path, name: str) -> bytes:
    what = f"the picture {name} of {place.folder}"
    place.check(path, what)
    return place.read(path, what)


def _sidecar(picture: Path, place: Place, wanted: Wanted) -> Any:
    """What stands beside a picture: the lines of its text file, or a field of its JSON; None for nothing.

    Lines are captions to choose from, as trainers read them: the first of them by default.
    """
    for suffix in SIDECARS:
        for path in (picture.with_suffix(suffix), Path(f"{picture}{suffix}")):
            if _is_there(path, place):
                return [line for line in lines(read_text(path)) if line.strip()]
    path = picture.with_suffix(".json")
    if not _is_there(path, place):
        return None
    value = parse_json(read_text(path), path)
    return caption_field(value, str(path), wanted) if isinstance(value, Mapping) else value


def _is_there(path: Path, place: Place) -> bool:
    if not os.path.lexists(path):
        return False
    place.check(path, str(path))
    return True
