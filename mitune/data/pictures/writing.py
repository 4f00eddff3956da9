"""Write pictures and captions as a dataset that everybody's tools open."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from mitune.files import atomic_folder

if TYPE_CHECKING:
    import pandas as pd

_FILE, _MARK = "train-00000.parquet", "mitune.pictures"
_SHARD = 256  # pictures a row group of a written dataset


def write_pictures(
    folder: str | Path,
    table: pd.DataFrame,
    contents: Callable[[int], bytes],
    order: Sequence[int] | None = None,
) -> None:
    """Write rows of (image, text, further columns) as parquet that ``datasets.load_dataset`` opens, atomically.

    ``table`` needs ``text``; ``contents(i)`` gives the file contents of its i-th picture. Pictures are copied as they
    are, ``_SHARD`` in memory at a time. ``order``: all places in the order in which ``contents`` is quick; they then
    wait in a file beside until it is their turn.
    """
    rest = pa.Table.from_pandas(table.reset_index(drop=True), preserve_index=False)
    rest = rest.drop_columns([name for name in ("image",) if name in rest.column_names])
    kinds = {name: _kind(rest.schema.field(name).type) for name in rest.column_names}
    features = {"image": {"_type": "Image"}} | {
        name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()
    }
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema([("image", cell), *((name, rest.schema.field(name).type) for name in kinds)])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}}), _MARK: "1"})
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(atomic_folder(folder))
        if order is not None:
            waiting = stack.enter_context(tempfile.TemporaryFile(dir=partial))
            contents = _in_order(waiting, contents, order)
        writer = stack.enter_context(pq.ParquetWriter(partial / _FILE, schema))
        for start in range(0, len(table), _SHARD):
            part = rest.slice(start, _SHARD)
            cells = [{"bytes": contents(start + row), "path": None} for row in range(len(part))]
            writer.write_table(
                pa.table([pa.array(cells, type=cell), *part.columns], schema=schema), row_group_size=_SHARD
            )


def _in_order(
    waiting: IO[bytes], contents: Callable[[int], bytes], order: Sequence[int]
) -> Callable[[int], bytes]:
    """All ``contents``, asked for in ``order`` and kept in the file ``waiting``."""
    places: dict[int, tuple[int, int]] = {}
    for place in order:
        data = contents(place)
        places[place] = (waiting.tell(), len(data))
        waiting.write(data)

    def read(place: int) -> bytes:
        start, size = places[place]
        waiting.seek(start)
        return waiting.read(size)

    return read


def written_here(folder: Path) -> bool:
    """Tell whether a folder holds nothing but what :func:`write_pictures` wrote."""
    try:
        metadata = pq.read_schema(folder / _FILE).metadata or {}
    except Exception:  # whatever a file that is none of ours brings
        return False
    return _MARK.encode() in metadata and [path.name for path in folder.iterdir()] == [_FILE]


def _kind(kind: pa.DataType) -> str:
    """Arrow's name of a type as ``datasets`` writes it."""
    return {"double": "float64", "float": "float32", "large_string": "string"}.get(str(kind), str(kind))
