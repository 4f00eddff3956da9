"""Parquet files of pictures and captions: only the columns asked for are read, a few rows at a time."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mitune.data.parquet import column_names, open_parquet, reading_parquet
from mitune.data.pictures.cells import Place
from mitune.data.pictures.columns import Columns, find_columns, of_rows
from mitune.data.pictures.rows import Pictures, Wanted
from mitune.data.pictures.splits import check_lone, chosen_rows, is_named
from mitune.data.splits import split_column, split_of
from mitune.errors import UserError

_HELD = 2**18  # bytes of pictures that are decoded at once: of the size of a photo, one
_BUFFER = 2**16  # bytes read from the file at once
_CAPTIONS = 4096  # captions decoded at once


def read_parquet(paths: list[Path], wanted: Wanted, root: Path | None = None) -> Pictures:
    """Read the rows of parquet files of one schema, in their order. ``root``: the folder that was asked for, which they
    must lie in. Raises UserError for a file that cannot be read, or without such columns.
    """
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    of_split = _rows_of_split(paths, wanted, root)
    files: list[_Rows] = []
    values: list[Any] = []
    labels: list[tuple[Any, ...]] = []
    counts: list[int] = []
    kept: list[list[int] | None] = []
    for path, rows in zip(paths, of_split, strict=True):
        if root is not None:
            Place(root, wanted.outside).check(path, str(path))
        left = None if wanted.limit is None else wanted.limit - len(values)
        if left is not None and left <= 0:
            break
        file = open_parquet(path, _BUFFER)
        columns = find_columns(column_names(path, file), wanted, str(path))
        found = _cells(path, file, [columns.caption, *columns.labels], left if rows is None else None)
        if rows is not None:
            rows = rows[:left]
            found = [found[row] for row in rows]
        kept.append(rows)
        values += [cells[0] for cells in found]
        labels += [cells[1:] for cells in found]
        counts.append(len(found))
        place = Place(path.parent, wanted.outside, () if root is None else (root,))
        files.append(_Rows(path, file, columns, place))
    if not values:
        raise UserError(f"{where} has no rows; give a source with at least one picture")
    sides = len(files[0].columns.pictures)
    if any(len(file.columns.pictures) != sides for file in files):
        raise UserError(f"{where}: some of its files hold pairs of pictures, others do not; give one of them")
    ends = list(accumulate(counts))

    def read(row: int, side: int) -> bytes:
        number = bisect.bisect_right(ends, row)
        place = row - (ends[number] - counts[number])
        chosen = kept[number]
        return files[number].read(
            place if chosen is None else chosen[place], side, f"of row {row} of {where}"
        )

    return of_rows(where, values, labels, files[0].columns, wanted, read)


def _rows_of_split(paths: list[Path], wanted: Wanted, root: Path | None) -> list[list[int] | None]:
    """The rows of each file that are meant, None for all; see ``chosen_rows``."""
    if wanted.split is None and not wanted.training:
        return [None] * len(paths)
    parts = []
    for path in paths:
        if root is not None:
            Place(root, wanted.outside).check(path, str(path))
        file = open_parquet(path, _BUFFER)
        column = split_column(column_names(path, file))
        parts.append(None if column is None else [cells[0] for cells in _cells(path, file, [column], None)])
    named = wanted.named or any(is_named(path, root) for path in paths)
    rows = chosen_rows(parts, wanted, str(paths[0] if len(paths) == 1 else paths[0].parent), named)
    if root is None and all(chosen is None for chosen in rows):
        for path in paths:
            check_lone(path, split_of(path.name), wanted)
    return rows


def has_splits(path: Path) -> bool:
    """Tell whether a parquet file has a column of splits."""
    return split_column(columns_of(path)) is not None


def columns_of(path: Path) -> list[str]:
    """Give the names of a parquet file's columns. Raises UserError for what is none."""
    return column_names(path, open_parquet(path, _BUFFER))


def _cells(path: Path, file: pq.ParquetFile, names: list[str], limit: int | None) -> list[tuple[Any, ...]]:
    """The values of some small columns, of the first ``limit`` rows, row by row."""
    found: list[tuple[Any, ...]] = []
    with reading_parquet(path):  # damaged pages, text that is not UTF-8
        for batch in file.iter_batches(_CAPTIONS, columns=list(names), use_threads=False):
            found += zip(*(batch.column(name).to_pylist() for name in names), strict=True)
            if limit is not None and len(found) >= limit:
                return found[:limit]
    if len(found) != file.metadata.num_rows:
        raise UserError(
            f"{path} is not a readable parquet file: it says {file.metadata.num_rows} rows and has {len(found)};"
            " fetch or write it again"
        )
    return found


class _Rows:
    """The pictures of one file. Rows are read in their order: an earlier one begins its row group again."""

    def __init__(self, path: Path, file: pq.ParquetFile, columns: Columns, place: Place) -> None:
        self.path, self.file, self.columns, self.place = path, file, columns, place
        groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.starts = [0, *accumulate(groups)]
        self.group = -1
        self.batches: Iterator[pa.RecordBatch] = iter(())
        self.batch: pa.RecordBatch | None = None
        self.first = self.after = 0  # the rows of the batch that is held

    def read(self, row: int, side: int, what: str) -> bytes:
        """File contents of a picture; ``side``: which of the picture columns."""
        try:
            with reading_parquet(self.path):  # damaged pages
                if self.batch is None or not self.first <= row < self.after:
                    self._seek(row)
                assert self.batch is not None
                cell = self.batch.column(self.columns.pictures[side])[row - self.first].as_py()
        except UserError:
            self.batch, self.group = None, -1
            raise
        return self.place.contents(cell, f"the picture {what}")

    def _seek(self, row: int) -> None:
        group = bisect.bisect_right(self.starts, row) - 1
        if group != self.group or row < self.first:
            self.batch, self.group = None, group
            self.first = self.after = self.starts[group]
            self.batches = self.file.iter_batches(
                self._rows_at_once(group),
                row_groups=[group],
                columns=list(self.columns.pictures),
                use_threads=False,
            )
        while self.after <= row:
            self.batch = None  # before the next one comes
            self.batch = next(self.batches)
            self.first, self.after = self.after, self.after + self.batch.num_rows

    def _rows_at_once(self, group: int) -> int:
        """So many that they are about ``_HELD`` bytes."""
        metadata = self.file.metadata.row_group(group)
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        size = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.split(".")[0] in self.columns.pictures
        )
        return int(max(1, min(256, _HELD * metadata.num_rows // max(1, size))))
