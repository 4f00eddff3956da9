"""A training set written as it is put together: the files that ``datasets`` would write, never all of it in memory."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mitune.data.dataset import Content, cell, check_some, columns_of, save, table_of
from mitune.data.pieces import Pieces, Place

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

# As ``datasets.Dataset.save_to_disk`` cuts a set: bytes of a file, bytes and rows of a record batch.
FILE, BATCH, ROWS = 500_000_000, 100_000_000, 1000


def write_set(
    folder: Path,
    rows: pd.DataFrame,
    pieces: Pieces,
    places: Sequence[Place],
    shape: tuple[int, ...],
    round: int = 1,
    model: str | Sequence[str] = "",
) -> None:
    """Write the set that :func:`mitune.data.dataset.build` makes, of rows that lie in pieces.

    Args:
        folder: takes the files; where the disk refuses, a part of them is left in it.
        rows, round, model: as there.
        pieces: hold the pictures (``image``, PNG) and latents (``latent``, float32).
        places: of the rows, in their order.
        shape: of a latent.

    Raises UserError for no rows.
    """
    check_some(rows)
    small = table_of(columns_of(rows, round, model))
    form = _form(small, shape)
    content = Content(form.data.table.schema)
    parts = _parts(len(rows), _nbytes(small, shape, pieces.size(places, "image")))
    for number, batches in enumerate(parts):
        writer = _writer(folder / _name(number, len(parts)), form)
        try:
            for part in batches:
                own = list(pieces.read(places[part]))
                for row in own:
                    content.picture(row["image"])
                heavy = _heavy(own, shape)
                writer.write_table(_joined(heavy, small.data.table.slice(part.start, len(own)), form))
            writer.finalize()
        finally:
            writer.close()
    _describe(folder, form, len(parts), content.fingerprint(small.data.table))


def _heavy(rows: Sequence[dict[str, bytes]], shape: tuple[int, ...]) -> Dataset:
    """The pictures and latents of some rows."""
    latents = [np.frombuffer(row["latent"], np.float32).reshape(shape) for row in rows]
    return table_of({"image": [cell(row["image"]) for row in rows], "latent": latents}, shape)


def _form(small: Dataset, shape: tuple[int, ...]) -> Dataset:
    """A set of one row that has the columns and features of the whole one."""
    import datasets

    blank = {"image": b"", "latent": np.zeros(shape, np.float32).tobytes()}
    heavy = _heavy([blank], shape)
    names = ["image", *small.column_names, "latent"]
    kinds = {**heavy.features, **small.features}
    columns: dict[str, list[Any]] = {name: [None] for name in names}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({name: kinds[name] for name in names})
    )


def _joined(heavy: Dataset, small: pa.Table, form: Dataset) -> pa.Table:
    """All columns of some rows, in the order of ``form``."""
    tables = (heavy.data.table, small)
    columns = {name: table.column(name) for table in tables for name in table.column_names}
    schema = form.data.table.schema
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _nbytes(small: Dataset, shape: tuple[int, ...], pictures: int) -> int:
    """The size of the set as ``datasets`` estimates it, but for some bytes of rounding."""
    blank = {"image": b"", "latent": np.zeros(shape, np.float32).tobytes()}
    one, nine = (_heavy([blank] * count, shape).data.table for count in (1, 9))
    count = len(small)
    path = pa.array([None] * count, pa.string()).nbytes  # of a picture's file, which the estimate leaves out
    return small.data.nbytes + one.nbytes + (count - 1) * (nine.nbytes - one.nbytes) // 8 + pictures - path


def _parts(count: int, size: int) -> list[list[slice]]:
    """The rows of each record batch of each file."""
    files = min(count, size // FILE + 1)
    ends = [count // files * number + min(number, count % files) for number in range(files + 1)]
    step = max(1, min(ROWS, count * BATCH // size))
    return [
        [slice(at, min(at + step, stop)) for at in range(start, stop, step)]
        for start, stop in itertools.pairwise(ends)
    ]


def _name(number: int, files: int) -> str:
    return f"data-{number:05d}-of-{files:05d}.arrow"


def _writer(path: Path, form: Dataset) -> Any:
    from datasets.arrow_writer import ArrowWriter

    return ArrowWriter(features=form.features, path=str(path), embed_local_files=True)


def _describe(folder: Path, form: Dataset, files: int, fingerprint: str) -> None:
    """Write the two JSON files of a set: those that ``datasets`` writes of ``form``, with our files and fingerprint."""
    save(form, folder / "form")
    state = json.loads((folder / "form" / "state.json").read_text(encoding="utf-8"))
    state["_data_files"] = [{"filename": _name(number, files)} for number in range(files)]
    state["_fingerprint"] = fingerprint
    with (folder / "state.json").open("w", encoding="utf-8") as file:
        json.dump(state, file, indent=2, sort_keys=True)
    (folder / "form" / "dataset_info.json").rename(folder / "dataset_info.json")
    shutil.rmtree(folder / "form")
