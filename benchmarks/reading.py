"""Memory that reading a user's tables takes above the imports: prompts and pictures of large parquet files.

    python -m benchmarks.reading

Each case is read in a process of its own, whose largest resident size is taken before and after. Pictures are random
bytes: nothing packs them, as nothing packs JPEGs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import common

PROMPTS, PICTURES = 300.0, 40.0  # MiB, the targets
_BEFORE = """
import resource, sys, torch
from mitune.data.pictures.loading import load_pictures
from mitune.data.prompts import load_prompts
def most():
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Not ru_maxrss: Linux counts in what the process that started this one had held.
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
before = most()
path, column = sys.argv[1], sys.argv[2] or None
"""
_AFTER = "\nprint(most() - before)"
_WORK = {
    "prompts": "load_prompts(path)",
    "captions": "load_pictures(path, image_column=column)",
    "pictures": "found = load_pictures(path, image_column=column)\nfor row in range(len(found)): found.read(row)",
}


def memory(work: str, path: Path, column: str = "") -> float:
    """MiB above the imports that ``work`` takes on the file."""
    words = [sys.executable, "-c", _BEFORE + _WORK[work] + _AFTER, str(path), column]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=common.ROOT)
    return float(done.stdout.split()[-1])


def write_rows(path: Path, rows: int, size: int, columns: Sequence[str], group: int | None) -> None:
    """A parquet file of captions and ``columns`` of ``size`` random bytes a row, in groups of so many rows (or one)."""
    generator = np.random.default_rng(0)
    schema = pa.schema([("caption", pa.string()), *((name, pa.binary()) for name in columns)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, group or rows):
            n = min(group or rows, rows - start)
            cells = [[generator.bytes(size) for _ in range(n)] for _ in columns]
            captions = [f"a small red circle, number {start + row}" for row in range(n)]
            writer.write_table(pa.table([captions, *cells], schema=schema), row_group_size=n)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings and figures."""
    with tempfile.TemporaryDirectory() as name:
        figures = list(_figures(Path(name), options.mib))
    return {"settings": common.settings_of(options, "device"), "comparisons": [], "figures": figures}


def _figures(folder: Path, mib: int) -> Iterator[dict[str, Any]]:
    small, one, many = (folder / f"{name}.parquet" for name in ("small", "one", "many"))
    write_rows(small, mib * 500, 2048, ["image"], None)
    yield _figure(f"prompts: {mib * 500} rows of 2 kB in one row group", memory("prompts", small), PROMPTS)
    yield _figure("pictures of the same file, read one by one", memory("pictures", small), PROMPTS)
    small.unlink()
    pairs, size = mib * 3, 170_000  # a row of Pick-a-Pic is two pictures
    sides = ["jpg_0", "jpg_1"]
    for path, group, words in ((many, 100, "row groups of 100"), (one, None, "one row group")):
        write_rows(path, pairs, size, sides, group)
        what = f"pairs of pictures, {path.stat().st_size / 2**20:.0f} MiB, {words}"
        yield _figure(f"{what}: captions", memory("captions", path), PICTURES)
        yield _figure(f"{what}: every picture of jpg_1", memory("pictures", path, "jpg_1"), PICTURES)
        yield _figure(f"{what}: every picture of both", memory("pictures", path), PICTURES)
        path.unlink()


def _figure(name: str, value: float, at_most: float) -> dict[str, Any]:
    entry = common.figure(name, value, "MiB", note=f"target ≤ {at_most:g} MiB")
    return entry | {"reached": value <= at_most}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = common.parser("reading", __doc__, "reading", mib=(200, "of each file, about"))
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
