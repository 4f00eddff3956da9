"""Parquet files that users bring: opened so that little of one is in memory, and that damage to its pages is seen."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mitune.reading import check_regular, reading

_INDEX = re.compile(r"__index_level_\d+__")


def reading_parquet(path: Path) -> AbstractContextManager[None]:
    """Turn whatever is raised within the block about the file into a UserError."""
    return reading(f"{path} is not a readable parquet file: it", "fetch or write it again")


def open_parquet(path: Path, buffer: int) -> Any:
    """Open the ``pyarrow.parquet.ParquetFile``, its pages' checksums looked at where they have one; a column chunk is
    read ``buffer`` bytes at a time, not as a whole. Raises UserError for what is no parquet file.
    """
    import pyarrow.parquet as pq

    check_regular(path)
    with reading_parquet(path):
        return pq.ParquetFile(path, page_checksum_verification=True, buffer_size=buffer, pre_buffer=False)


def column_names(path: Path, file: Any) -> list[str]:
    """List an open file's columns, without the index that pandas saves. Raises UserError for types that are none."""
    with reading_parquet(path):
        names = list(file.schema_arrow.names)
    return [name for name in names if not _INDEX.fullmatch(name)] or names
