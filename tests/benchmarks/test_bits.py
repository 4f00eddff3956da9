from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmarks.bits import OBJECTIVES, SAMPLERS, SMALL, commands, compared, digest
from mitune.sampling.catalogue import SAMPLERS as catalogue
from tests.cli import compose


def test_every_case_is_a_command_that_can_be_given() -> None:
    cases = dict(commands())
    for words in cases.values():
        for _, *given in words:
            compose([*SMALL, *given])
    assert len(cases) > 2 * (len(SAMPLERS) + len(OBJECTIVES))


def test_a_case_that_the_file_lacks_is_new_and_not_moved() -> None:
    assert compared("a", "1f", {"a": "1f"}) == ""
    assert compared("a", "2e", {"a": "1f"}) == "moved: a"
    assert compared("b", "2e", {"a": "1f"}).startswith("new")


def test_every_sampler_of_the_catalogue_is_a_case() -> None:
    given = " ".join(word for runs in dict(commands()).values() for words in runs for word in words)
    assert [name for name in catalogue.names if f"sampler={name}" not in given] == []


def test_a_digest_sees_every_number_and_nothing_else(tmp_path: Path) -> None:
    def made(score: float, weight: float, note: str) -> str:
        pq.write_table(pa.table({"score": [1.0, score], "prompt": ["a", note]}), tmp_path / "unit.parquet")
        save_file({"w": np.array([weight], dtype=np.float32)}, tmp_path / "unit.safetensors", {"note": note})
        return digest(tmp_path)

    before = made(0.5, 1.0, "x")
    assert made(0.5, 1.0, "y") == before
    assert made(np.nextafter(0.5, 1), 1.0, "x") != before
    assert made(0.5, np.nextafter(np.float32(1), np.float32(2)), "x") != before
