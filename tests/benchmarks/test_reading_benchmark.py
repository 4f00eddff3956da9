"""The benchmark of reading tables, run whole at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import reading as benchmark


def test_the_whole_benchmark(tmp_path: Path) -> None:
    assert benchmark.main(["--mib", "2", "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "reading.json").read_text())["figures"]
    assert len(figures) == 8
    assert all(entry["value"] >= 0 and entry["reached"] for entry in figures)


def test_the_files_are_what_they_are_called(tmp_path: Path) -> None:
    benchmark.write_rows(tmp_path / "a.parquet", 25, 100, ["jpg_0", "jpg_1"], 10)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == 3
    assert file.schema_arrow.names == ["caption", "jpg_0", "jpg_1"]
    assert len(set(file.read(["jpg_0"]).column(0).to_pylist())) == 25
