"""Rows of a JSON value: an array, columns, an object around one list, prompts by category, rows by id, by split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.data.splits import KEYWORDS, canonical
from mitune.errors import UserError, short
from mitune.reading import lines, parse_json

Row = Mapping[str, Any]
_FORMS = "an array of strings or of objects"


def rows_of_lines(text: str, path: Path) -> list[Row]:
    """Give the rows of JSON lines: objects or strings. Raises UserError naming the line."""
    rows: list[Row] = []
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}, line {number}", "mend the line")
        rows.append(_row(value, f"{path}, line {number}"))
    return rows


def rows_of_value(value: Any, path: Path, usual: Collection[str]) -> list[Row]:
    """Give the rows of a whole JSON file. ``usual``: names of text columns, lower case; they tell columns from
    categories.

    Raises UserError for a value that is none of the forms, saying what was seen.
    """
    if isinstance(value, list):
        return [_row(item, f"{path}, item {number}") for number, item in enumerate(value, 1)]
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {_kind(value)}; give {_FORMS}")
    if _texts(value, usual) and not any(isinstance(cell, (list, dict)) for cell in value.values()):
        return [value]  # one row, saved by itself
    lists = {name: cell for name, cell in value.items() if isinstance(cell, list)}
    objects = {name: cell for name, cell in value.items() if isinstance(cell, dict)}
    found = (
        _by_split(value, path)
        or _pandas_split(value)
        or _columns(value, lists, usual, path)
        or _wrapped(lists, usual, path)
        or _by_key(value, objects, usual)
        or _by_category(value, lists, path)
    )
    if found is None:
        names = ", ".join(short(repr(name), 30) for name in list(value)[:5])
        raise UserError(
            f"{path} holds an object ({names or 'empty'}) whose rows are not known; give {_FORMS}"
        )
    return found


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, (str, dict)):
        raise UserError(f"{where}: expected an object or a string, found {type(value).__name__}")
    return value if isinstance(value, dict) else {"prompt": value}


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else f"one {type(value).__name__}, no rows"


def _texts(row: Any, usual: Collection[str]) -> bool:
    """Whether a row has a text column by name."""
    return isinstance(row, dict) and any(name.lower() in usual for name in row)


def _by_split(value: dict[str, Any], path: Path) -> list[Row] | None:
    """``{"train": [rows], "test": [rows]}``: rows with a column ``split``."""
    if not value or not all(
        canonical(name) in KEYWORDS and isinstance(cell, list) for name, cell in value.items()
    ):
        return None
    return [
        {**_row(item, f"{path}, '{name}', item {number}"), "split": name}
        for name, items in value.items()
        for number, item in enumerate(items, 1)
    ]


def _pandas_split(value: dict[str, Any]) -> list[Row] | None:
    """``{"columns": […], "data": [[…], …]}``, as pandas writes it."""
    names, data = value.get("columns"), value.get("data")
    if (
        not isinstance(names, list)
        or not isinstance(data, list)
        or not all(isinstance(name, str) for name in names)
    ):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in data):
        return None
    return [dict(zip(names, row, strict=True)) for row in data]


def _columns(
    value: dict[str, Any], lists: dict[str, list[Any]], usual: Collection[str], path: Path
) -> list[Row] | None:
    """``{"prompt": […], "category": […]}``: columns, where one has the name of a text column."""
    named = [name for name, cells in lists.items() if name.lower() in usual and _flat(cells)]
    if named:
        length = len(lists[named[0]])
        uneven = next((name for name, cells in lists.items() if len(cells) != length), None)
        if uneven is not None:
            raise UserError(
                f"{path}: the column '{short(uneven, 40)}' has {len(lists[uneven])} rows, '{named[0]}' {length};"
                " make them equally long"
            )
        return _rows(lists, range(length))
    tables = {name: cells for name, cells in value.items() if isinstance(cells, dict)}
    if _texts(tables, usual) and len(tables) == len(value):  # pandas: columns of {index: cell}
        keys = list(next(iter(tables.values())))
        if all(list(cells) == keys for cells in tables.values()):
            return _rows(tables, keys)
    return None


def _rows(columns: Mapping[str, Any], keys: Sequence[Any]) -> list[Row]:
    return [{name: cells[key] for name, cells in columns.items()} for key in keys]


def _flat(cells: Sequence[Any]) -> bool:
    return all(cell is None or isinstance(cell, str) for cell in cells)


def _wrapped(lists: dict[str, list[Any]], usual: Collection[str], path: Path) -> list[Row] | None:
    """``{"data": [rows], …}``: the one list whose rows have a text column; or the only list, of objects."""
    tables = {
        name: rows for name, rows in lists.items() if rows and all(isinstance(row, dict) for row in rows)
    }
    named = [name for name, rows in tables.items() if any(_texts(row, usual) for row in rows)]
    if len(named) > 1:
        raise UserError(f"{path} holds several lists of rows ({', '.join(named[:5])}); give a file for each")
    if named:
        return list(tables[named[0]])
    if len(lists) == 1:
        (name, rows), *_ = lists.items()
        if tables or name.lower() in ("data", "rows", "examples", "items", "records", "list"):
            return [_row(item, f"{path}, '{name}', item {number}") for number, item in enumerate(rows, 1)]
    return None


def _by_key(value: dict[str, Any], objects: dict[str, Any], usual: Collection[str]) -> list[Row] | None:
    """``{"an id": {row}, …}``."""
    whole = bool(objects) and len(objects) == len(value)
    return list(objects.values()) if whole and all(_texts(row, usual) for row in objects.values()) else None


def _by_category(value: dict[str, Any], lists: dict[str, list[Any]], path: Path) -> list[Row] | None:
    """``{"animals": [prompts], "food": [prompts]}``. Equally long lists could be columns as well: refused."""
    strings = all(isinstance(item, str) for items in lists.values() for item in items)
    if not lists or len(lists) != len(value) or not strings:
        return None
    lengths = {len(items) for items in lists.values()}
    if len(lists) > 1 and len(lengths) == 1 and lengths != {0}:
        raise UserError(
            f"{path} holds {len(lists)} equally long lists ({', '.join(short(name, 30) for name in list(lists)[:5])}):"
            " columns, or prompts by category? Set prompts.column, or write an array of objects"
        )
    return [{"prompt": text, "category": name} for name, items in lists.items() for text in items]
