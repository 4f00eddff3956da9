"""Prompt sources as one list: text files, tables, folders of either, Hub datasets, the embedded world."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.errors import UserError, first_line, nearest

UNCATEGORISED = "uncategorised"
TEXT_COLUMNS = ("prompt", "text", "caption")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

# The names of T2I-CompBench's own files: they say the category even without a `_train` or `_val` behind it.
_T2I_COMPBENCH = {"color", "shape", "texture", "spatial", "non_spatial", "3d_spatial", "numeracy", "complex"}
_HELD_OUT = ("val", "validation", "valid", "dev", "test")
_FILE_NAME = re.compile(
    r"(?P<category>.+?)(?:[_-](?P<split>train|val|validation|valid|dev|test)(?:[_-].*)?)?"
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Prompt:
    """A prompt. ``id``, 12 hex digits of the text's SHA-256, names it in tables."""

    id: str
    text: str
    category: str = UNCATEGORISED


def make_prompt(text: str, category: str = UNCATEGORISED) -> Prompt:
    """Make a :class:`Prompt`; runs of white space (line breaks too) become one space."""
    text = " ".join(text.split())
    return Prompt(hashlib.sha256(text.encode()).hexdigest()[:12], text, category)


def load_prompts(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    per_category: int | None = None,
    column: str | None = None,
    category_column: str | None = None,
    subset: str | None = None,
) -> list[Prompt]:
    """Read prompts from ``source``; duplicates are dropped, the order of the source is kept.

    Args:
        source: a ``.txt`` file (a prompt a line), a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` table, a
            folder of such files (T2I-CompBench's as they are: ``color_train.txt`` is category ``color``,
            split ``train``), a folder made by ``datasets.save_to_disk``, a Hub dataset id ``owner/name``, or
            ``shapes``, the embedded world.
        split: of a folder, the world or a Hub dataset; ``test`` and ``val`` stand in for each other where
            only one is there. A lone file counts as ``train``: asked for a held-out split, it must have one
            in its name or in a column ``split``.
        limit: at most so many prompts, spread evenly over the categories.
        per_category: at most so many prompts of each category.
        column: the text column; without it ``prompt``, ``text`` or ``caption``, or the only column there is.
        category_column: default ``category`` where there is one.
        subset: the configuration of a Hub dataset that has several.

    Raises:
        UserError: missing file, nothing in it, unknown column, undecodable text, unknown split.
    """
    for name, value in (("limit", limit), ("per_category", per_category)):
        if value is not None and value < 1:
            raise UserError(f"prompts.{name}={value}: must be at least 1 (leave it out to take all prompts)")
    pairs = _read(str(source), split, column, category_column, subset)
    prompts: dict[str, Prompt] = {}
    for text, category in pairs:
        prompt = make_prompt(text, category)
        if prompt.text:
            prompts.setdefault(prompt.id, prompt)
    if not prompts:
        raise UserError(
            f"no prompt in {source}{f' (split {split})' if split else ''}: give a file with a prompt a line"
        )
    return _spread(list(prompts.values()), limit, per_category)


def _spread(prompts: list[Prompt], limit: int | None, per_category: int | None) -> list[Prompt]:
    """The first prompts of each category in turn, until ``limit``, in the order they came in."""
    rank: dict[str, int] = {}
    order = []  # (round of the category's turn, position)
    for position, prompt in enumerate(prompts):
        turn = rank.get(prompt.category, 0)
        rank[prompt.category] = turn + 1
        if per_category is None or turn < per_category:
            order.append((turn, position))
    chosen = sorted(order)[:limit]
    return [prompts[position] for position in sorted(position for _, position in chosen)]


def _read(
    source: str, split: str | None, column: str | None, category_column: str | None, subset: str | None
) -> Iterable[tuple[str, str]]:
    if source == "shapes":
        return _read_world(split)
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _read_saved(path, split, column, category_column)
        return _read_folder(path, split, column, category_column)
    if path.is_file():
        named = _FILE_NAME.fullmatch(path.stem)
        own_split = named["split"] if named else None
        return _read_file(path, split, own_split, column, category_column)
    if path.suffix in SUFFIXES or not _HUB_ID.fullmatch(source):
        others = path.parent.iterdir() if path.parent.is_dir() else ()
        choices = ["shapes", *(other.name for other in others)]
        raise UserError(f"prompts: there is no file or folder {source}{nearest(path.name, choices)}")
    return _read_hub(source, split, column, category_column, subset)


def _read_world(split: str | None) -> Iterator[tuple[str, str]]:
    from mitune.worlds import shapes  # the world is a floor-1 neighbour: imported only when asked for

    splits = ("train", "test")
    chosen = "test" if split in _HELD_OUT else split or "train"
    if chosen not in splits:
        raise UserError(
            f"prompts.split={split}: the world has the splits train and test{nearest(chosen, splits)}"
        )
    for category in shapes.CATEGORIES:
        # A grammar enumerates; the order of the ids is a shuffle that depends on the texts alone.
        for prompt in sorted(
            (make_prompt(text, category) for text in shapes.split(category, chosen)), key=lambda p: p.id
        ):
            yield prompt.text, category


def _read_folder(
    folder: Path, split: str | None, column: str | None, category_column: str | None
) -> Iterator[tuple[str, str]]:
    files: dict[str, dict[str | None, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        named = _FILE_NAME.fullmatch(path.stem)
        if path.suffix in SUFFIXES and path.is_file() and named:
            files.setdefault(named["category"], {}).setdefault(named["split"], []).append(path)
    if not files:
        raise UserError(f"prompts: no {', '.join(SUFFIXES)} file in the folder {folder}")
    found = False
    for category, by_split in files.items():
        if split is None:
            chosen = [path for paths in by_split.values() for path in paths]
        else:
            name = _stand_in(split, [key for key in by_split if key])
            # Beside files with a split in their name, one without is their union: it stands in for none.
            lone = by_split.get(None, []) if len(by_split) == 1 and split == "train" else []
            chosen = by_split[name] if name else lone
        for path in chosen:
            found = True
            own = _FILE_NAME.fullmatch(path.stem)
            for text, given in _read_file(path, None, own["split"] if own else None, column, category_column):
                yield text, category if given == UNCATEGORISED else given
    if not found:
        raise UserError(
            f"prompts: no file in {folder} is named for the split '{split}' (such as color_{split}.txt)"
        )


def _stand_in(split: str, there: Sequence[str]) -> str | None:
    """The name of ``split`` among those that are there; one held-out split stands in for another."""
    if split in there:
        return split
    return next((name for name in _HELD_OUT if name in there), None) if split in _HELD_OUT else None


def _read_file(
    path: Path, split: str | None, own_split: str | None, column: str | None, category_column: str | None
) -> Iterator[tuple[str, str]]:
    named = _FILE_NAME.fullmatch(path.stem)
    known = named is not None and (own_split is not None or named["category"] in _T2I_COMPBENCH)
    category = named["category"] if named is not None and known else UNCATEGORISED
    rows = read_rows(path)
    whole = split in (None, "train") or (split in _HELD_OUT and own_split in _HELD_OUT)
    if split is not None and rows and "split" in rows[0]:
        name = _stand_in(split, sorted({str(row["split"]) for row in rows}))
        rows = [row for row in rows if row["split"] == name]
    elif not whole:
        raise UserError(
            f"prompts: {path} has no split '{split}'; give a held-out file, or add a column 'split'"
        )
    return _pairs(rows, str(path), column, category_column, category)


def _decode(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file as mappings; a line of a text file is ``{"prompt": line}``."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a readable parquet file: {first_line(error)}") from error
    text = _decode(path)
    if path.suffix in (".csv", ".tsv"):
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        try:
            return list(reader)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not a readable table ({error})") from error
    if path.suffix == ".jsonl":
        rows: list[Mapping[str, Any]] = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
            if not isinstance(value, (str, dict)):
                raise UserError(
                    f"{path}, line {number}: expected an object or a string, found {type(value).__name__}"
                )
            rows.append(value if isinstance(value, dict) else {"prompt": value})
        return rows
    return [{"prompt": line} for line in text.splitlines()]


def _pairs(
    rows: Iterable[Mapping[str, Any]],
    where: str,
    column: str | None,
    category_column: str | None,
    category: str,
) -> Iterator[tuple[str, str]]:
    rows = list(rows)
    if not rows:
        return
    columns = [name for name in rows[0] if isinstance(name, str)]
    column = _column(columns, column, where)
    if category_column is not None and category_column not in columns:
        raise UserError(f"{where} has no column '{category_column}' (prompts.category_column)"
                        f"{nearest(category_column, columns)}; it has {', '.join(columns)}")  # fmt: skip
    category_column = category_column or next((name for name in columns if name.lower() == "category"), None)
    for number, row in enumerate(rows, 1):
        value = row.get(column)
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(
                f"{where}, row {number}: column '{column}' holds {type(value).__name__}, not text"
            )
        given = row.get(category_column) if category_column else None
        yield value, str(given).strip() if given not in (None, "") else category


def _column(columns: Sequence[str], column: str | None, where: str) -> str:
    if column is not None:
        if column not in columns:
            raise UserError(f"{where} has no column '{column}' (prompts.column){nearest(column, columns)};"
                            f" it has {', '.join(columns)}")  # fmt: skip
        return column
    lower = {name.lower(): name for name in reversed(columns)}
    for name in TEXT_COLUMNS:
        if name in lower:
            return lower[name]
    if len(columns) == 1:
        return columns[0]
    raise UserError(
        f"{where}: which column holds the prompts? Set prompts.column to one of {', '.join(columns)}"
    )


def _dataset_pairs(
    dataset: Any, where: str, column: str | None, category_column: str | None
) -> Iterator[tuple[str, str]]:
    text = _column(dataset.column_names, column, where)
    wanted = [
        name for name in dataset.column_names if name in (text, category_column) or name.lower() == "category"
    ]
    # Only these columns are read: a picture column is never decoded.
    return _pairs(dataset.select_columns(wanted), where, text, category_column, UNCATEGORISED)


def open_saved(folder: Path) -> Any:
    """What ``datasets.save_to_disk`` wrote. Raises UserError for a folder that cannot be read, or without a row."""
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except IndexError as error:  # the library finds no table in it
        raise UserError(f"{folder} has no rows; give a dataset with at least one") from error
    except Exception as error:  # of many types, all one to the user
        raise UserError(f"{folder} is not a readable dataset folder: {first_line(error)}") from error


def _read_saved(
    folder: Path, split: str | None, column: str | None, category_column: str | None
) -> Iterator[tuple[str, str]]:
    import datasets

    saved = open_saved(folder)
    if isinstance(saved, datasets.DatasetDict):
        name = _stand_in(split or "train", list(saved))
        if name is None:
            raise UserError(f"prompts: {folder} has no split '{split or 'train'}'; it has {', '.join(saved)}")
        saved = saved[name]
    return _dataset_pairs(saved, str(folder), column, category_column)


def _read_hub(
    name: str, split: str | None, column: str | None, category_column: str | None, subset: str | None
) -> Iterator[tuple[str, str]]:
    """Read a Hub dataset. The download lies in the Hugging Face cache, as for any tool."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, subset)
    except Exception as error:  # of a dozen types; all mean the same to the user
        raise UserError(
            f"prompts: {name} is neither a file or folder here nor a dataset of the Hub: {first_line(error)}"
        ) from error
    chosen = _stand_in(split or "train", list(loaded)) or (next(iter(loaded)) if split is None else None)
    if chosen is None:
        raise UserError(f"prompts: {name} has no split '{split}'; it has {', '.join(map(str, loaded))}")
    return _dataset_pairs(loaded[chosen], name, column, category_column)
