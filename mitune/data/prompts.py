"""Prompt sources as one list: text files, tables, folders of either, Hub datasets, the embedded world."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mitune.data.pictures.cells import LARGEST, Place
from mitune.data.places import find_prompts
from mitune.data.settings import SUFFIXES, WORLD
from mitune.data.splits import (
    HELD_OUT,
    KEYWORDS,
    TRAIN,
    before_split,
    choose,
    choose_label,
    is_held_out,
    label_of,
    labelled,
    labels_of,
    passed_over,
    split_column,
    split_of,
)
from mitune.data.table_files import Table, check_column, open_table, text_columns
from mitune.errors import UserError, complain, nearest, short
from mitune.reading import check_regular, is_file, is_folder, loading, reading
from mitune.tasks import UNCATEGORISED, PictureRef, Task

__all__ = ["UNCATEGORISED", "load_prompts", "make_prompt", "open_saved"]

CATEGORY_COLUMNS = ("category", "tag")  # the second is GenEval's

# The names of T2I-CompBench's own files: they say the category even without a `_train` or `_val` behind it.
_T2I_COMPBENCH = {"color", "shape", "texture", "spatial", "non_spatial", "3d_spatial", "numeracy", "complex"}
_NOUNS = "new_objects"  # another file of its folder: a list of nouns
# Those of HPSv2's benchmark: category by category, held out as a whole.
_HPSV2 = {"anime", "concept-art", "paintings", "photo"}
# The columns of PartiPrompts, DrawBench and GenEval.
_BENCHMARKS = ({"prompt", "category", "challenge"}, {"prompts", "category"}, {"tag", "include", "prompt"})
_FILE_NAME = re.compile(
    r"(?P<category>.+?)(?:[_-](?P<split>train|val|validation|valid|dev|test)(?:[_-].*)?)?"
)
_SHARD = re.compile(r"-?\d{5}-of-\d{5}.*", re.DOTALL)
_PART = re.compile(r"(shard|part|chunk|batch|file|data|metadata)?[-_. ]?\d*", re.IGNORECASE)  # no category


_Row = tuple[str, str, Path | None]  # text, category, the file of a picture


@dataclass(frozen=True)
class _Asked:
    """What of a source is asked for; see ``load_prompts``."""

    split: str | None
    column: str | None
    category_column: str | None
    held_out: bool
    picture_column: str | None = None

    def choose(self, there: Sequence[str], where: str) -> str:
        """The one of the splits that is meant. Raises UserError."""
        name = choose(self.split, there, self.held_out)
        if name is None:
            raise self.missing(there, where)
        return name

    def missing(self, there: Sequence[str], where: str) -> UserError:
        """What to raise where the split that is meant is not ``there``."""
        wanted = f"split '{self.split or TRAIN}'" if self.split or not self.held_out else "held-out split"
        return UserError(
            f"prompts: {where} has no {wanted}; it has {', '.join(map(str, there)) or 'none'} (prompts.split)"
        )


def make_prompt(text: str, category: str = UNCATEGORISED, picture: PictureRef | None = None) -> Task:
    """Make a :class:`Task`; runs of white space (line breaks too) become one space.

    Raises UserError for characters that no text can hold (lone surrogates).
    """
    text = " ".join(text.split())
    try:
        text.encode()
        category.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the prompt {short(text)!a} (category {category!a}) holds half a character (a lone"
            " surrogate); mend it"
        ) from error
    return Task.of(text, category, picture)


def load_prompts(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    per_category: int | None = None,
    column: str | None = None,
    category_column: str | None = None,
    subset: str | None = None,
    held_out: bool = False,
    picture_column: str | None = None,
) -> list[Task]:
    """Read prompts from ``source``; duplicates are dropped, the order of the source is kept.

    Args:
        source: a ``.txt`` file (a prompt a line), a ``.csv``, ``.tsv``, ``.json``, ``.jsonl``, ``.ndjson`` or
            ``.parquet`` table, a folder of such files (T2I-CompBench's as they are: ``color_train.txt`` is category
            ``color``, split ``train``; a ``README.md`` with ``configs`` is obeyed), a folder made by
            ``datasets.save_to_disk``, a Hub dataset id ``owner/name``, or ``shapes``, the embedded world.
        split: of a folder, the world or a Hub dataset; ``test`` and ``val`` stand in for each other where
            only one is there. In a folder the names say it as for ``datasets``; files that carry none count only
            where no file carries one. A lone file is what its name says, or held out as a public benchmark, else
            ``train``. A column ``split`` decides before any name. Where a source has several and none is asked for:
            ``train``, never all of them.
        limit: at most so many prompts, spread evenly over the categories.
        per_category: at most so many prompts of each category.
        column: the text column; without it ``prompt``, ``text`` or ``caption``, or the only column there is.
        category_column: default ``category`` or ``tag``, where there is one.
        subset: the configuration of a Hub dataset (or a folder with such a README.md) that has several.
        held_out: where no split is asked for, take a held-out one instead of ``train``.
        picture_column: the column that names the picture to be edited: a file in the table's folder or below.

    Raises:
        UserError: missing file, a form not known, nothing in it, unknown column, undecodable text, unknown split.
    """
    for name, value in (("limit", limit), ("per_category", per_category)):
        if value is not None and value < 1:
            raise UserError(f"prompts.{name}={value}: must be at least 1 (leave it out to take all prompts)")
    rows = _read(str(source), _Asked(split, column, category_column, held_out, picture_column), subset)
    unread = (
        make_prompt(text, category, PictureRef(str(path), str(path)) if path else None)
        for text, category, path in rows
    )
    prompts = _with_pictures(_spread(unread, limit, per_category))
    if not prompts:
        raise UserError(
            f"no prompt in {source}{f' (split {split})' if split else ''}: give a file with a prompt a line"
        )
    return prompts


def _with_pictures(prompts: list[Task]) -> list[Task]:
    """The prompts with their pictures read, told by contents; only those that were chosen are opened."""
    if not any(prompt.picture for prompt in prompts):
        return prompts
    read = (
        prompt if prompt.picture is None
        else Task.of(prompt.text, prompt.category, PictureRef.of(Path(prompt.picture.path)))
        for prompt in prompts
    )  # fmt: skip
    return list({prompt.id: prompt for prompt in read}.values())


def _spread(prompts: Iterable[Task], limit: int | None, per_category: int | None) -> list[Task]:
    """The distinct first prompts of each category in turn, until ``limit``, in the order they came in.

    No more are held than that may be among them; of all others only the id.
    """
    most = min((value for value in (limit, per_category) if value is not None), default=None)
    seen: set[int] = set()
    rank: dict[str, int] = {}
    kept: list[tuple[int, int, Task]] = []  # (round of the category's turn, position, prompt)
    for prompt in prompts:
        number = int(prompt.id, 16)
        if not prompt.text or number in seen:
            continue
        seen.add(number)
        turn = rank.get(prompt.category, 0)
        rank[prompt.category] = turn + 1
        if most is None or turn < most:
            kept.append((turn, len(seen), prompt))
    chosen = sorted(kept, key=lambda entry: entry[:2])[:limit]
    return [prompt for _, _, prompt in sorted(chosen, key=lambda entry: entry[1])]


def _read(source: str, asked: _Asked, subset: str | None) -> Iterable[_Row]:
    path = find_prompts(source)
    if source == WORLD:
        if asked.picture_column is not None:
            raise UserError(
                "prompts.picture_column: the embedded world has no pictures to edit; leave it out"
            )
        return _read_world(asked)
    if path is None:
        return _read_hub(source, asked, subset)
    if is_folder(path):
        if is_file(path / "dataset_info.json") or is_file(path / "dataset_dict.json"):
            return _read_saved(path, asked)
        return _read_folder(path, asked, subset)
    return _read_file(path, asked)


def _read_world(asked: _Asked) -> Iterator[_Row]:
    from mitune.worlds import shapes  # which takes numpy and more: only where it is asked for

    splits = ("train", "test")
    split = asked.split or ("test" if asked.held_out else "train")
    chosen = "test" if split in HELD_OUT else split
    if chosen not in splits:
        raise UserError(
            f"prompts.split={split}: the world has the splits train and test{nearest(chosen, splits)}"
        )
    for category in shapes.CATEGORIES:
        # A grammar enumerates; the order of the ids is a shuffle that depends on the texts alone.
        for prompt in sorted(
            (make_prompt(text, category) for text in shapes.split(category, chosen)), key=lambda p: p.id
        ):
            yield prompt.text, category, None


# -- files and folders -------------------------------------------------------------------------------------------------


def _named(path: Path) -> str:
    """What a file's name says before its split."""
    named = _FILE_NAME.fullmatch(path.stem)
    return named["category"] if named else path.stem


def _category(path: Path) -> str:
    """The category that a file's name gives: T2I-CompBench's and HPSv2's, or what stands before a split."""
    named = _FILE_NAME.fullmatch(path.stem)
    known = named is not None and (named["split"] or named["category"] in _T2I_COMPBENCH or _is_hpsv2(path))
    return named["category"] if named is not None and known else UNCATEGORISED


def _category_in_folder(path: Path, folder: Path) -> str:
    """The category of a folder's file: what its name says beside a split and the number of a shard."""
    named = _FILE_NAME.fullmatch(path.stem)
    if named is not None and named["split"]:
        return named["category"]
    before = before_split(path.stem)
    if before is not None:
        return before or UNCATEGORISED
    stem = _SHARD.sub("", path.stem)
    return UNCATEGORISED if not stem or (path.parent != folder and _PART.fullmatch(stem)) else stem


def _is_benchmark(path: Path, table: Table) -> bool:
    """Whether a file is a public benchmark's, which is there to be evaluated on."""
    there = {name.lower() for name in table.columns}
    return _is_hpsv2(path) or any(columns <= there for columns in _BENCHMARKS)


def _is_hpsv2(path: Path) -> bool:
    return path.suffix.lower() == ".json" and path.stem in _HPSV2


def _read_folder(folder: Path, asked: _Asked, subset: str | None) -> Iterator[_Row]:
    files: dict[tuple[Path, str], list[tuple[Path, str | None]]] = {}
    for path, split in labelled(folder, SUFFIXES, subset):
        if split is not None or path.stem != _NOUNS:
            files.setdefault((path.parent, _named(path)), []).append((path, split))
    found = [entry for entries in files.values() for entry in entries]  # category by category
    if not found:
        raise UserError(f"prompts: no {', '.join(SUFFIXES)} file in the folder {folder}")
    _say_passed_over(folder, found[0][0], subset)
    there = {split for _, split in found if split is not None}
    told = [(path, split) for path, split in found if split is not None] if there else found
    columns = {path: labels for path, split in told if (labels := _labels_of_file(path, split, asked))}
    if not there and not columns:
        for path, _ in found:
            with _of_several(path, len(found)):
                yield from _read_file(path, asked, _category_in_folder(path, folder))
        return
    splits = {path: columns.get(path, {split or TRAIN}) for path, split in told}
    there = set().union(*splits.values())
    if columns:
        name = choose_label(there, asked.split, asked.held_out)
    else:
        name = choose(asked.split, sorted(there, key=[*KEYWORDS, *sorted(there)].index), asked.held_out)
    chosen = [path for path, labels in splits.items() if name in labels]
    if name is None or not chosen:
        wanted = asked.split or ("test" if asked.held_out else TRAIN)
        raise UserError(
            f"prompts: no file in {folder} is named for the split '{wanted}' (such as color_{wanted}.txt), or has it in"
            f" a column 'split'; its files are of {', '.join(sorted(there))}"
        )
    for path in chosen:
        with _of_several(path, len(found)):
            table = open_table(path, _asked_columns(asked))
            column = split_column(table.columns) if path in columns else None
            category = _category_in_folder(path, folder)
            yield from _pairs(table, str(path), replace(asked, split=name), category, column)


@functools.cache  # once
def _say_passed_over(folder: Path, first: Path, subset: str | None) -> None:
    from mitune.distributed import state  # torch: only where a folder is read

    deeper = passed_over(folder, SUFFIXES, subset)
    if deeper and state().is_main_process:
        complain(
            f"warning: prompts: {folder} has {first.name}, so {len(deeper)} further files in folders below"
            f" ({short(str(deeper[0].relative_to(folder)))}) are left out; move them beside it to take them too"
        )


def _labels_of_file(path: Path, split: str | None, asked: _Asked) -> set[str]:
    """The labels of a file's split column, which decide before its name; none where it has no such column, or one
    that means something else. Raises UserError.
    """
    if path.suffix.lower() == ".txt":
        return set()
    try:
        table = open_table(path, _asked_columns(asked))
    except UserError:
        return set()  # said where the file is chosen
    column = split_column(table.columns)
    if column is None:
        return set()
    with _of_several(path, 2):
        return _labels(table, column, asked, str(path), named=split is not None)


@contextlib.contextmanager
def _of_several(path: Path, count: int) -> Iterator[None]:
    """Say of a folder's file that cannot be read, such as a ``package.json``, that it may be there by mistake."""
    try:
        yield
    except UserError as error:
        if count < 2:
            raise
        raise UserError(
            f"{error}; if {path.name} is no list of prompts, move it out of the folder"
        ) from error


def _asked_columns(asked: _Asked) -> list[str]:
    named = (asked.column, asked.category_column, asked.picture_column)
    return [name for name in named if name is not None]


def _read_file(path: Path, asked: _Asked, category: str | None = None) -> Iterator[_Row]:
    category = _category(path) if category is None else category
    table = open_table(path, _asked_columns(asked))
    return _lone(table, str(path), split_of(path.name), _is_benchmark(path, table), asked, category)


def _lone(
    table: Table, where: str, own: str | None, benchmark: bool, asked: _Asked, category: str = UNCATEGORISED
) -> Iterator[_Row]:
    """The prompts of a table by itself, whose name says the split ``own``, where no column tells."""
    column = split_column(table.columns)
    if column is not None and _labels(table, column, asked, where, named=own is not None):
        return _pairs(table, where, asked, category, column)
    _check_lone(where, own, benchmark, asked)
    return _pairs(table, where, asked, category)


def _check_lone(where: str, own: str | None, benchmark: bool, asked: _Asked) -> None:
    """Raise UserError where another split is asked for than that of a list by itself: ``own``, else ``train``."""
    split, held_out = asked.split, own not in (None, TRAIN) or benchmark
    if split is not None and label_of(split) == TRAIN and held_out:
        told = f"its name says '{own}'" if own not in (None, TRAIN) else "a public benchmark"
        raise UserError(
            f"prompts: {where} has no split '{split}': it is held out ({told}); give training prompts, or say"
            " prompts.split=null to take it nevertheless"
        )
    if split is not None and label_of(split) != TRAIN and not (is_held_out(split) and held_out):
        raise UserError(
            f"prompts: {where} has no split '{split}'; give a held-out file, add a column 'split', or say"
            " prompts.split=null (evaluate.prompts.split=null) to take all of it"
        )


def _labels(table: Table, column: str, asked: _Asked, where: str, named: bool = False) -> set[str]:
    """The labels of a table's split column. ``named``: a name has told the split already; a column without any usual
    label means something else then. Raises UserError for a column that is empty here and there.
    """
    if column == _column(table, asked.column, where):
        return set()
    text = _column(table, asked.column, where)
    rows = (row for row in table.rows([text, column]) if row.get(text) not in (None, ""))
    labels = labels_of((row.get(column) for row in rows), f"prompts: the column '{column}' of {where}")
    return set() if named and labels.isdisjoint(KEYWORDS) else labels


def _rows_of_split(
    table: Table, columns: Sequence[str], column: str, asked: _Asked, where: str
) -> Iterator[Any]:
    """The rows whose cell of ``column`` is the split that is meant: ``train`` where none is asked for; all where no
    cell says any.
    """
    labels = _labels(table, column, asked, where)
    if not labels:
        return table.rows(columns)
    name = choose_label(labels, asked.split, asked.held_out)
    if name is None:
        raise asked.missing(sorted(labels), f"the column '{column}' of {where}")
    rows = table.rows(list(dict.fromkeys([*columns, column])))
    return (row for row in rows if label_of(row.get(column)) == name)


def _pairs(
    table: Table, where: str, asked: _Asked, category: str, split_column: str | None = None
) -> Iterator[_Row]:
    """The texts and categories of a table's rows; ``category`` where a row has none. Only their columns are read."""
    if not table.columns:
        return
    text, given = _column(table, asked.column, where), _category_column(table.columns, asked, where)
    pictures = asked.picture_column
    if pictures is not None:
        check_column(pictures, table.columns, where, "prompts.picture_column")
    columns = list(dict.fromkeys(name for name in (text, given, pictures) if name is not None))
    if split_column is None or split_column == text:
        rows = table.rows(columns)
    else:
        rows = _rows_of_split(table, columns, split_column, asked, where)
    for number, row in enumerate(rows, 1):
        value = row.get(text)
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{where}, row {number}: column '{text}' holds {type(value).__name__}, not text")
        if "\0" in value:
            raise UserError(f"{where}, row {number}: column '{text}' holds a NUL character; remove it")
        here = f"{where}, row {number}"
        yield (
            value,
            _cell_category(row, given, asked, here) or category,
            _cell_picture(row, asked, where, here),
        )


def _cell_picture(row: Mapping[str, Any], asked: _Asked, where: str, here: str) -> Path | None:
    """Give the picture that a row names, None where none is asked for. UserError for no file in the table's folder."""
    column = asked.picture_column
    if column is None:
        return None
    cell = row.get(column)
    if not isinstance(cell, str) or not cell or not is_file(where):
        raise UserError(
            f"{here}: column '{column}' holds {type(cell).__name__}, not a picture's file beside the table; save the"
            " pictures as files and name them there (prompts.picture_column)"
        )
    what = f"{here}: the picture {short(cell)!r}"
    path = Place(Path(where).parent, way_out="copy it there").find(cell, what)
    check_regular(path, what)
    if path.stat().st_size > LARGEST:
        raise UserError(f"{what} has {path.stat().st_size} bytes, {LARGEST} at most; save it smaller")
    return path


def _category_column(columns: Sequence[str], asked: _Asked, where: str) -> str | None:
    given = asked.category_column
    if given is not None:
        check_column(given, columns, where, "prompts.category_column")
    lower = {name.lower(): name for name in reversed(columns)}
    return given or next((lower[name] for name in CATEGORY_COLUMNS if name in lower), None)


def _cell_category(row: Mapping[str, Any], column: str | None, asked: _Asked, where: str) -> str | None:
    """The category that a row has, None where it has none. Raises UserError for a cell that names none."""
    value = row.get(column) if column is not None else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (list, tuple, dict, set, bytes)) or (isinstance(value, str) and "\0" in value):
        if column is not None and column.lower() == "tag" and asked.category_column is None:
            return None  # tags of another kind than GenEval's
        held = "a NUL character" if isinstance(value, str) else type(value).__name__
        raise UserError(
            f"{where}: column '{column}' holds {held}, no category; choose prompts.category_column"
        )
    return str(value).strip() or None


def _column(table: Table, column: str | None, where: str) -> str:
    columns = table.columns
    if column is not None:
        check_column(column, columns, where, "prompts.column")
        return column
    usual = text_columns(columns)
    if usual:
        return usual[0]
    if len(columns) == 1 and table.named:
        return columns[0]
    if len(columns) == 1:
        raise UserError(
            f"{where}: is its first line, {short(columns[0])!r}, a prompt or the name of the column? Put the line"
            " 'prompt' above it, or set prompts.column to the name"
        )
    raise UserError(
        f"{where}: which column holds the prompts? Set prompts.column to one of {short(', '.join(columns))}"
        f"{'' if table.named else '; if that is a row, put a header above it'}"
    )


# -- datasets ----------------------------------------------------------------------------------------------------------


def _dataset_table(dataset: Any, where: str) -> Table:
    column = split_column(dataset.column_names)
    names = None if column is None else getattr(dataset.features[column], "names", None)  # of a ClassLabel

    def rows(wanted: Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
        with reading(where):
            # Only these columns are read: a picture column is never decoded.
            found = iter(dataset if wanted is None else dataset.select_columns(list(wanted)))
        while True:
            with reading(where):
                row = next(found, None)
            if row is None:
                return
            if names and isinstance(row.get(column), int) and 0 <= row[column] < len(names):
                row = {**row, column: names[row[column]]}
            yield row

    return Table(list(dataset.column_names), rows)


def open_saved(folder: Path) -> Any:
    """Open what ``datasets.save_to_disk`` wrote. Raises UserError for a folder that cannot be read or has no row."""
    import datasets

    with reading(folder):
        for path in folder.rglob("*"):
            if not path.is_dir():
                check_regular(path)  # of a pipe the library would wait for an end
    with loading(f"{folder} is not a readable dataset folder"):
        try:
            return datasets.load_from_disk(str(folder))
        except IndexError as error:  # the library finds no table in it
            raise UserError(f"{folder} has no rows; give a dataset with at least one") from error


def _read_saved(folder: Path, asked: _Asked) -> Iterator[_Row]:
    import datasets

    saved = open_saved(folder)
    if isinstance(saved, datasets.DatasetDict):
        return _of_parts({str(split): part for split, part in saved.items()}, str(folder), asked)
    where = str(folder)
    return _lone(_dataset_table(saved, where), where, label_of(saved.split) or None, False, asked)


def _of_parts(parts: dict[str, Any], where: str, asked: _Asked) -> Iterator[_Row]:
    """The prompts of the split that is meant: one of the parts, of which a column may tell more; of a single part the
    column decides.
    """
    tables = {name: _dataset_table(part, where) for name, part in parts.items()}
    only = next(iter(tables.values())) if len(tables) == 1 else None
    column = split_column(only.columns) if only is not None else None
    if only is not None and column is not None and _labels(only, column, asked, where, named=True):
        return _pairs(only, where, asked, UNCATEGORISED, column)
    name = asked.choose(list(tables), where)
    table, asked = tables[name], replace(asked, split=name)
    column = split_column(table.columns)
    if column is not None and not _labels(table, column, asked, where, named=True):
        column = None
    return _pairs(table, where, asked, UNCATEGORISED, column)


def _read_hub(name: str, asked: _Asked, subset: str | None) -> Iterator[_Row]:
    """Read a Hub dataset. The download lies in the Hugging Face cache, as for any tool."""
    import datasets

    with loading(f"prompts: {name} is neither a file or folder here nor a dataset of the Hub"):
        loaded = datasets.load_dataset(name, subset)
    return _of_parts({str(split): part for split, part in loaded.items()}, name, asked)
