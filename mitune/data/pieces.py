"""Rows on their way into a set: written in pieces, by any process, and read one by one, in any order.

Nobody holds more than a row: a piece is an Arrow file of one row a record batch, which is looked at where it lies.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from mitune.distributed import visible
from mitune.files import user_errors

Place = tuple[int, int]  # number of a piece, row in it


class Pieces:
    """Pieces are files in a ``folder`` that is there for no longer than the set is made.

    >>> pieces = Pieces(folder)
    >>> pieces.write(0, [{"image": b"one"}, {"image": b"two"}])
    >>> [row["image"] for row in pieces.read([(0, 1), (0, 0)])]
    [b'two', b'one']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Name the file of a piece."""
        return self.folder / f"piece-{number:06d}.arrow"

    def write(self, number: int, rows: Iterable[Mapping[str, bytes]]) -> None:
        """Write the rows of a piece as they come; all have the same names. UserError where the disk refuses."""
        with user_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            with self.path(number).open("wb") as file:
                writer = None
                for row in rows:
                    batch = pa.record_batch(
                        {name: pa.array([value], pa.binary()) for name, value in row.items()}
                    )
                    writer = writer or pa.ipc.new_file(file, batch.schema)
                    writer.write_batch(batch)
                if writer is not None:
                    writer.close()

    def read(self, places: Sequence[Place]) -> Iterator[dict[str, bytes]]:
        """Give the rows at ``places``, in their order; one piece is open at a time, and once where its rows follow each
        other."""
        number, reader = -1, None
        for wanted, row in places:
            if reader is None or wanted != number:
                reader, number = None, wanted  # the other one is let go before this one is opened
                visible(self.path(number))
                reader = pa.ipc.open_file(pa.memory_map(str(self.path(number))))
            batch = reader.get_batch(row)
            yield {name: batch.column(name)[0].as_py() for name in batch.schema.names}

    def remove(self) -> None:
        """Remove the files; call it on one process, once all have read what they need."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def size(self, places: Sequence[Place], name: str) -> int:
        """Add up the bytes of ``name`` in all rows; none of them is read."""
        total = 0
        for number in sorted({number for number, _ in places}):
            visible(self.path(number))
            reader = pa.ipc.open_file(pa.memory_map(str(self.path(number))))
            for row in range(reader.num_record_batches):
                total += len(reader.get_batch(row).column(name)[0].as_buffer())
        return total
