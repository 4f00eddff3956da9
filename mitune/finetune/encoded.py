"""What a training reads again and again: latents, and what its texts were encoded to.

Few of them are held in memory. Many lie in files, and a batch's rows are read from there: by plain reads, as pages of a
mapped file count as this process's memory. Files that are not there yet are written by all processes, each a share.
"""

from __future__ import annotations

import bisect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mitune import distributed
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.files import PARTIAL, user_errors

CHUNK = 64  # prompts or pictures encoded at once
ON_DEVICE = 4 * 2**30  # bytes that may be held in a GPU's memory,
HELD = 64 * 2**20  # and in the machine's own


def most_held(device: torch.device) -> int:
    """Give the bytes that may be held on ``device``."""
    return HELD if device.type == "cpu" else ON_DEVICE


def chunks(count: int) -> list[slice]:
    """Cut so many rows into those that are encoded at once."""
    return [slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]


@dataclass(frozen=True)
class Segment:
    """It is ``rows`` rows side by side in a file, the first of them at byte ``offset``."""

    path: Path
    offset: int
    rows: int


class FileRows:
    """Rows of ``width`` bytes each, in the order of their ``segments``; every file is open meanwhile."""

    def __init__(self, segments: Sequence[Segment], width: int) -> None:
        self.width = width
        self._segments, self._starts = segments, [0]
        self._files: dict[Path, IO[bytes]] = {}
        for segment in segments:
            if segment.path not in self._files:
                distributed.visible(segment.path)
                with user_errors(segment.path):
                    self._files[segment.path] = segment.path.open("rb", buffering=0)
            self._starts.append(self._starts[-1] + segment.rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, rows: Sequence[int]) -> Tensor:
        """Give the bytes of ``rows``, [n, width] uint8 on the CPU. UserError where a file cannot be read."""
        found = torch.empty(len(rows), self.width, dtype=torch.uint8)
        memory, width = _memory(found), self.width
        for place, row in enumerate(rows):
            number = bisect.bisect_right(self._starts, row) - 1
            segment = self._segments[number]
            offset = segment.offset + (row - self._starts[number]) * width
            file = self._files[segment.path]
            with user_errors(segment.path):
                there = os.preadv(file.fileno(), [memory[place * width : (place + 1) * width]], offset)
            if there != width:
                raise UserError(f"{segment.path} was cut short while it was read; run the same command again")
        return found


@dataclass(frozen=True, eq=False)
class FileLatents:
    """They stand for a tensor of latents [rows, …] float32 on the CPU, of which some rows are asked for at a time."""

    rows: FileRows
    shape: tuple[int, ...]
    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Read rows ``index`` [n]."""
        return self.rows.read(index.tolist()).view(torch.float32).view(-1, *self.shape)


def blocks(latents: Tensor | FileLatents) -> Iterator[Tensor]:
    """Give all rows in their order, on the CPU, some at a time."""
    for part in chunks(len(latents)):
        yield latents[torch.arange(part.start, part.stop)].cpu()


class FileConditions:
    """They stand for the conditions of ``count`` texts, and of each with ``dropped`` parts left out."""

    def __init__(
        self,
        rows: FileRows,
        form: Condition,
        nothing: Condition,
        retold: Callable[[Condition, Condition], Condition],
        dropped: Sequence[Sequence[str]],
    ) -> None:
        """Take what was written.

        Args:
            rows: the whole conditions, as ``packed``.
            form: a condition of the same tensors.
            nothing: ∅, one row.
            retold: as of a denoiser.
            dropped: what is left out of rows count · i …, for i = 0, 1, …
        """
        self._rows, self._retold, self._dropped = rows, retold, dropped
        self._form = {name: (value.dtype, value.shape[1:]) for name, value in form.tensors.items()}
        self._nothing = nothing.to("cpu")
        self.tensors: Mapping[str, Tensor] = self._nothing.tensors  # says where the rows come to lie

    def __getitem__(self, index: Tensor) -> Condition:
        """Read rows ``index`` [n]."""
        count = len(self._rows)
        number = index // count
        result = told = self._unpacked(self._rows.read((index % count).tolist()))
        for place in number.unique().tolist():
            drop = self._dropped[place]
            if drop:
                nothing = self._nothing[torch.zeros(len(index), dtype=torch.long)]
                rest, text = (nothing if part in drop else told for part in ("picture", "text"))
                result = _where(number == place, self._retold(rest, text), result)
        return result

    def _unpacked(self, data: Tensor) -> Condition:
        tensors, at = {}, 0
        for name, (dtype, shape) in self._form.items():
            size = dtype.itemsize * shape.numel()
            tensors[name] = data[:, at : at + size].contiguous().view(dtype).view(-1, *shape)
            at += size
        return Condition(tensors)


def packed(condition: Condition) -> Tensor:
    """Put the tensors of each row side by side: [n, bytes] uint8 on the CPU."""
    return torch.cat([as_bytes(value) for value in condition.tensors.values()], dim=1)


def as_bytes(rows: Tensor) -> Tensor:
    """Give the bytes of each of ``rows`` [n, …]: [n, bytes] uint8 on the CPU."""
    return rows.cpu().contiguous().view(len(rows), -1).view(torch.uint8)


def _memory(rows: Tensor) -> memoryview:
    """The bytes of a uint8 tensor, where they are."""
    flat: Any = rows.numpy().reshape(-1)
    return memoryview(flat)


def _where(rows: Tensor, one: Condition, other: Condition) -> Condition:
    """Rows of ``one`` where ``rows`` [n] says so, else of ``other``."""
    return Condition(
        {
            name: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), one.tensors[name], value)
            for name, value in other.tensors.items()
        }
    )


class Scratch:
    """It has the files that a training writes for itself, in ``folder``; they go with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Path] = []

    def write(self, count: int, encode: Callable[[slice], Tensor]) -> FileRows:
        """Encode ``count`` rows, each process some of the chunks, and give them to all; ``encode`` gives the bytes of a
        chunk [n, width].

        Call it on all processes. Raises UserError where the disk refuses; nothing is left then.
        """
        try:
            with distributed.said_first():
                return self._write(count, encode)
        except BaseException:
            self.close()
            raise

    def _write(self, count: int, encode: Callable[[slice], Tensor]) -> FileRows:
        own = distributed.state()
        place, parts = Path(distributed.broadcast(self._make)), chunks(count)
        distributed.visible(place)
        names = [place / f"rows-{rank}" for rank in range(own.num_processes)]
        path, width = names[own.process_index], 0
        with user_errors(path), path.open("wb") as file:
            for part in parts[own.process_index :: own.num_processes]:
                data = encode(part)
                width = data.shape[1]
                file.write(_memory(data))
        width = distributed.broadcast(lambda: width)  # the first process has the first chunk
        distributed.wait()
        ranks = own.num_processes
        segments = [
            Segment(names[number % ranks], number // ranks * CHUNK * width, part.stop - part.start)
            for number, part in enumerate(parts)
        ]
        rows = FileRows(segments, width)
        distributed.wait()
        if _one_machine(own.num_processes):
            self.close()  # open files stay readable, and nothing is left by a kill
        return rows

    def _make(self) -> str:
        with user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made.append(Path(tempfile.mkdtemp(prefix=f"{PARTIAL}encoded-", dir=self.folder)))
        return str(self._made[-1])

    def close(self) -> None:
        """Remove the files, once no process reads them by name any more."""
        while self._made:
            shutil.rmtree(self._made.pop(), ignore_errors=True)


def _one_machine(processes: int, environment: Mapping[str, Any] = os.environ) -> bool:
    """Whether all processes run here."""
    return processes == 1 or environment.get("LOCAL_WORLD_SIZE") == str(processes)
