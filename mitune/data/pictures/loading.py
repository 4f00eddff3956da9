"""One door to every kind of source of pictures."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mitune.data.pictures.folders import TABLES, read_folder, read_listed
from mitune.data.pictures.generated import WORLD_SIZE, read_candidates, read_world
from mitune.data.pictures.parquet import read_parquet
from mitune.data.pictures.rows import Pictures, Wanted
from mitune.data.pictures.saved_dataset import read_hub, read_saved
from mitune.data.pictures.webdataset import read_shards
from mitune.data.places import expand, find_pictures
from mitune.data.settings import WORLD
from mitune.data.store import find_store
from mitune.errors import UserError, short
from mitune.reading import home, is_folder

T = TypeVar("T")


def load_pictures(
    source: str | Path,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    limit: int | None = None,
    skip: bool = False,
    seed: int = 0,
    outside: bool = False,
    caption: str = "first",
    training: bool = False,
    more: tuple[str, ...] = (),
) -> Pictures:
    """Open a source of pictures with captions.

    Args:
        source: a folder with ``metadata.csv``, ``.jsonl`` or ``.parquet`` (columns ``file_name`` and ``text``), such a
            table alone, a folder of pictures with a text file beside each, a parquet file or a folder of them,
            WebDataset tar shards or a folder of them, a folder made by ``datasets.save_to_disk``, the candidates of a
            run, a Hub dataset id, or ``shapes``: the embedded world's own pictures, some with wrong captions.
        split: of a source that has several; default ``train``, or the only one.
        image_column, text_column: default ``IMAGE_COLUMNS``, ``CAPTION_COLUMNS``. Rows with two pictures that were
            compared (``jpg_0``, ``jpg_1``) give both, one after the other.
        limit: at most so many rows, from the first.
        skip: leave out rows without a caption instead of refusing the source.
        seed: of the pictures of the embedded world, and of captions chosen at random.
        outside: read files outside the source's folder too, where its table or its links name them.
        caption: of several, the ``first`` or one at ``random`` by the seed and the row.
        training: leave out rows that a table marks as held out.
        more: further columns of a table of file names, read where it has them.

    Raises UserError: not there, no rows, no such column, a row without a caption.
    """
    found = _open(
        str(source),
        Wanted(
            split, image_column, text_column, limit, seed, outside, caption == "random", training, more=more
        ),
    )
    rows = range(len(found) if limit is None else min(limit, len(found)))
    empty = [row for row in rows if not found.texts[row]]
    if empty and not skip:
        raise UserError(
            f"{found.where}: the picture {short(found.names[empty[0]])} has no caption"
            f"{f', nor have {len(empty) - 1} others' if len(empty) > 1 else ''};"
            " write one, or leave such out with score.skip=true"
        )
    if not rows or len(empty) == len(rows):
        raise UserError(f"{found.where} has no picture with a caption; give a source with at least one row")
    if not empty and len(rows) == len(found):
        return found
    chosen = [row for row in rows if found.texts[row]]
    return _rows_of(found, chosen, len(empty))


def _rows_of(found: Pictures, rows: list[int], left_out: int) -> Pictures:
    """The source with ``rows`` only."""

    def of(column: Sequence[T]) -> list[T]:
        return [column[row] for row in rows]

    read, latents = found.read, found.latents
    return replace(
        found,
        texts=of(found.texts),
        names=of(found.names),
        read=None if read is None else lambda row: read(rows[row]),
        latents=None if latents is None else lambda wanted: latents([rows[row] for row in wanted]),
        seeds=None if found.seeds is None else of(found.seeds),
        keys={name: of(column) for name, column in found.keys.items()},
        scores={name: of(column) for name, column in found.scores.items()},
        left_out=left_out,
        made_from=None if found.made_from is None else of(found.made_from),
        more={name: of(column) for name, column in found.more.items()},
    )


def _open(source: str, wanted: Wanted) -> Pictures:
    if source == WORLD:
        return read_world(wanted.limit or WORLD_SIZE, wanted.seed)
    shards = expand(source)
    if shards is not None:
        return read_shards([home(shard) for shard in shards], wanted)
    path = find_pictures(source)
    if path is None:
        return read_hub(source, wanted)
    if is_folder(path):
        store = find_store(path)
        if store is not None:
            return read_candidates(store)
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return read_saved(path, wanted)
        return read_folder(path, wanted)
    return _file(path, wanted)


def _file(path: Path, wanted: Wanted) -> Pictures:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet([path], wanted)
    if suffix == ".tar":
        return read_shards([path], wanted)
    if suffix not in TABLES and (suffix == ".zip" or _is_packed(path)):
        raise UserError(f"{path} is compressed: its pictures cannot be read by their places; unpack it first")
    return read_listed(path, wanted)


def _is_packed(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except OSError:
        return False
