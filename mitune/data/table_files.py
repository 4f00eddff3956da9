"""Rows of a table that users bring: text, csv, tsv, JSON, JSON lines, parquet; a form not known is refused.

The form is what the suffix says; the separator of a csv is what its header says. Only the columns asked for are kept.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from mitune.data.json_rows import Row, rows_of_lines, rows_of_value
from mitune.data.parquet import column_names, open_parquet, reading_parquet
from mitune.data.settings import FORMS, SUFFIXES
from mitune.errors import UserError, nearest, short
from mitune.reading import check_regular, lines, parse_json, read_text, reading

# The names a text column goes by.
TEXT_COLUMNS = ("prompt", "text", "caption", "prompts", "texts", "captions")
_SEPARATORS = (",", ";", "\t", "|")
_BATCH = 1024  # rows of a parquet file in memory at a time
_BUFFER = 1 << 20  # bytes of a column chunk in memory at a time
_LFS = b"version https://git-lfs.github.com/spec/"
# What a file begins with, and what it is then.
_BEGINNINGS = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a RIFF file (a WebP picture, or sound)"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive (.zip, .xlsx, .docx, .npz)"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"\x80\x04", "a pickle"),
    (b"SQLite format 3", "an SQLite database"),
)
_MARKUP = (
    ("<!doctype", "an HTML page"),
    ("<html", "an HTML page"),
    ("<?xml", "XML"),
    ("<svg", "an SVG picture"),
    ("%pdf-", "a PDF document"),
    ("{\\rtf", "an RTF document"),
)
# Names that columns beside the text's go by, and how those of any column look.
_BESIDE_TEXT = (
    "category", "tag", "split", "id", "index", "label", "seed", "style", "image", "file_name", "url",
)  # fmt: skip
_WORD = re.compile("[\"']?[A-Za-z_][A-Za-z0-9_.-]*[\"']?")
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a]")


@dataclass(frozen=True)
class Table:
    """A table has columns, and ``rows(wanted)`` gives its rows with those columns only (None: with all).

    ``named``: the columns have names for certain; the first line of a csv without a header only looks like some.

    >>> _ = (folder / "prompts.csv").write_text("prompt,category\\na red circle,color")
    >>> list(open_table(folder / "prompts.csv").rows(["prompt"]))
    [{'prompt': 'a red circle'}]
    """

    columns: list[str]
    rows: Callable[[Sequence[str] | None], Iterator[Row]]
    named: bool = True


def open_table(path: Path, asked: Collection[str] = ()) -> Table:
    """Open a file as a table; a line of a text file is ``{"prompt": line}``.

    ``asked``: columns that the user has named; they tell a header like the usual names do. Raises UserError: a form
    not known or not what the suffix says, undecodable, damaged.
    """
    check_regular(path)
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise UserError(f"{path} is {_seen(path)}; what can be read is {FORMS}")
    if _head(path).startswith(_LFS):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
    if form == ".parquet":
        return _open_parquet(path)
    text = read_text(path)
    usual = {*TEXT_COLUMNS, *(name.lower() for name in asked)}
    if kind := _markup(text):
        raise UserError(f"{path} is {kind}, not what its suffix says; what can be read is {FORMS}")
    if form == ".txt":
        return _of_rows([{"prompt": line} for line in _text_lines(text, path, usual)], ["prompt"])
    if form in (".csv", ".tsv"):
        return _open_separated(text, path, "\t" if form == ".tsv" else ",", usual)
    table = _of_rows(rows := _json_rows(text, path, form, usual))
    if not asked:
        _check_alike(rows, table.columns, path)
    return table


def text_columns(columns: Sequence[str]) -> list[str]:
    """List the columns that have the name of a text column, the likeliest first."""
    return [column for name in TEXT_COLUMNS for column in columns if column.lower() == name]


def check_column(name: str, there: Sequence[str], where: str, key: str) -> None:
    """Raise UserError for a column that is not ``there``; ``where``: the table, ``key``: who named it."""
    if name not in there:
        raise UserError(
            f"{where} has no column '{name}' ({key}){nearest(name, there)}; it has {short(', '.join(there))}"
        )


def _of_rows(rows: list[Row], columns: list[str] | None = None) -> Table:
    def give(wanted: Sequence[str] | None) -> Iterator[Row]:
        if wanted is None:
            return iter(rows)
        return ({name: row[name] for name in wanted if name in row} for row in rows)

    return Table(columns or list(dict.fromkeys(name for row in rows for name in row)), give)


# -- what a file is ----------------------------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    with reading(path), open(path, "rb") as file:
        return file.read(256)


def _seen(path: Path) -> str:
    """In words what a file of no known suffix is."""
    head = _head(path)
    suffix = f"has the suffix '{path.suffix}'" if path.suffix else "has no suffix"
    kind = next((kind for start, kind in _BEGINNINGS if head.startswith(start)), None)
    if kind is None:
        kind = _markup(head.decode("utf-8", "ignore"))
    return f"{kind} and {suffix}" if kind else f"of no form that is known: it {suffix}"


def _markup(text: str) -> str | None:
    start = text[:256].lstrip("\ufeff \t\r\n").lower()
    return next((kind for mark, kind in _MARKUP if start.startswith(mark)), None)


def _text_lines(text: str, path: Path, usual: Collection[str]) -> list[str]:
    """The lines of a text file. Raises UserError where they plainly are JSON, a table, or no text."""
    found = lines(text)
    strange = next((number for number, line in enumerate(found, 1) if _CONTROL.search(line)), None)
    if strange is not None:
        raise UserError(f"{path}, line {strange} is not text: it holds control characters; give a text file")
    filled = [line.strip() for line in found if line.strip()]
    _check_json(text, filled, path)
    if not filled:
        return found
    tabs = {line.count("\t") for line in filled}
    if _is_header(filled, usual):
        raise UserError(
            f"{path} begins with the header of a table ({short(filled[0], 60)!r}); name it .csv or .tsv"
        )
    if len(filled) > 1 and filled[0].lower() in TEXT_COLUMNS:
        raise UserError(
            f"{path} begins with {filled[0]!r}: the name of a column, or a prompt? Remove the line or, where it is a"
            " prompt, put it further below"
        )
    if len(filled) > 1 and len(tabs) == 1 and tabs != {0}:
        raise UserError(
            f"{path} is a table: all its lines have {tabs.pop() + 1} parts between tabs; name it .tsv, with a header"
            " such as prompt and category"
        )
    return found


def _check_json(text: str, filled: Sequence[str], path: Path) -> None:
    """Raise UserError for text that is JSON as a whole, or an object a line."""
    if text.lstrip()[:1] not in ("[", "{"):
        return
    if _is_json(text, path, (list, dict)):
        raise UserError(f"{path} holds JSON, not a prompt a line; name it .json")
    if all(_is_json(line, path, (dict,)) for line in filled):
        raise UserError(f"{path} holds JSON, not a prompt a line; name it .jsonl")


def _is_json(text: str, path: Path, kinds: tuple[type, ...]) -> bool:
    try:
        return isinstance(parse_json(text, path), kinds)
    except UserError:
        return False


def _is_header(filled: Sequence[str], usual: Collection[str]) -> bool:
    """Whether the first line of a text file plainly is a table's header: names that tables have and nothing else, or
    single words, one of them usual, with lines of as many parts below. Prompts have commas too.
    """
    for separator in _SEPARATORS:
        cells = filled[0].split(separator)
        names = {cell.strip(" \t\"'").lower() for cell in cells}
        if len(cells) < 2 or names.isdisjoint(usual):
            continue
        if names <= {*usual, *_BESIDE_TEXT}:
            return True
        words = all(_WORD.fullmatch(cell) for cell in cells)
        if words and len(filled) > 1 and all(line.count(separator) == len(cells) - 1 for line in filled):
            return True
    return False


# -- csv and tsv -------------------------------------------------------------------------------------------------------


def _separator(header: str, default: str, usual: Collection[str]) -> str:
    """The separator that makes a header's cells names, one of them usual; of a single cell, ``default``."""
    for separator in (default, *_SEPARATORS):
        if not separator:
            continue
        try:
            cells = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            continue
        several = len(cells) > 1 or separator == default
        if several and any(cell.strip().lower() in usual for cell in cells):
            return separator
    return default


def _physical(text: str) -> Iterator[str]:
    """Lines with their ends, cut at \\n only: ``csv`` itself knows \\r\\n, and keeps all else."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _open_separated(text: str, path: Path, default: str, usual: Collection[str]) -> Table:
    skipped = 0
    for first in islice(_physical(text), 1000):  # blank lines before the header, and Excel's "sep=;"
        plain = first.strip()
        if plain.lower().startswith("sep=") and len(plain) == 5:
            default = plain[-1]
        elif plain:
            break
        skipped += 1
    body = "".join(islice(_physical(text), skipped, None)) if skipped else text
    separator = _separator(next(_physical(body), "").rstrip("\r\n"), default, usual)
    # Tables of tabs need no quotes: there they may be characters of a cell.
    quoted: bool = separator != "\t" or _parses(body, separator)

    def records() -> Iterator[tuple[int, list[str]]]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        reader = csv.reader(_physical(body), delimiter=separator, quoting=quoting, strict=True)
        while True:
            start = reader.line_num + 1 + skipped
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise UserError(
                    f"{path}, line {start}: not a readable table ({error}); mend the line"
                ) from error
            if record is None:
                return
            if record:
                yield start, record

    header = [cell.strip() for cell in next(records(), (0, []))[1]]
    named = [name for name in header if name]
    known = any(name.lower() in usual for name in header)

    def give(wanted: Sequence[str] | None) -> Iterator[Row]:
        names = named if wanted is None else list(wanted)
        _check_once(names, header, path)
        places = [(name, header.index(name)) for name in names if name in header]
        least = 1 + max((place for _, place in places), default=-1)
        for number, record in islice(records(), 1, None):
            if len(record) > len(header) or len(record) < least:
                short_of = "fill in the missing ones, or remove the row"
                quotes = f"put a cell that holds the separator {separator!r} in double quotes"
                raise UserError(
                    f"{path}, line {number}: {len(record)} cells under a header of {len(header)};"
                    f" {short_of if len(record) < least else quotes}"
                )
            yield {name: record[place] for name, place in places}

    return Table(named, give, named=known)


def _parses(body: str, separator: str) -> bool:
    """Whether a table reads with quotes as quotes, every row as wide as the header at most."""
    try:
        reader = csv.reader(_physical(body), delimiter=separator, strict=True)
        width = len(next(reader, []))
        return all(len(row) <= width for row in reader)
    except csv.Error:
        return False


def _check_once(names: Sequence[str], header: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has {header.count(twice)} columns '{twice}'; give each a name of its own")


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json_rows(text: str, path: Path, form: str, usual: Collection[str]) -> list[Row]:
    if form == ".json":
        try:
            value = parse_json(text, path)
        except UserError:
            first = next((line for line in lines(text) if line.strip()), "")
            if not _is_json(first, path, (dict,)):  # many call JSON lines .json
                raise
        else:
            return rows_of_value(value, path, usual)
    return rows_of_lines(text, path)


def _check_alike(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    """Raise UserError for a row whose text is in another column than that of the rest: it would be passed over."""
    texts = text_columns(columns)
    other = set(texts[1:])
    for number, row in enumerate(rows, 1) if other else ():
        if texts[0] not in row and not other.isdisjoint(row):
            here = ", ".join(name for name in row if name in other)
            raise UserError(
                f"{path}, row {number} has its text in {here}, others in {texts[0]}; give all the same column, or say"
                " which with prompts.column"
            )


# -- parquet -----------------------------------------------------------------------------------------------------------


def _open_parquet(path: Path) -> Table:
    columns = column_names(path, open_parquet(path, _BUFFER))

    def give(wanted: Sequence[str] | None) -> Iterator[Row]:
        names = columns if wanted is None else [name for name in wanted if name in columns]
        _check_once(names, columns, path)
        file = open_parquet(path, _BUFFER)
        with reading_parquet(path):
            batches = file.iter_batches(batch_size=_BATCH, columns=names, use_threads=False)
        while True:
            with reading_parquet(path):
                batch = next(batches, None)
                cells = {} if batch is None else {name: batch.column(name).to_pylist() for name in names}
            if batch is None:
                return
            for row in range(batch.num_rows):
                yield {name: column[row] for name, column in cells.items()}

    return Table(columns, give)
