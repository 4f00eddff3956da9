"""The fault campaign sees the faults that it looks for."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults import kills, speed
from benchmarks.faults.__main__ import figures
from benchmarks.faults.job import TOLERANCE, Verdict, arguments, judge
from benchmarks.faults.server import fellows
from benchmarks.faults.speed import BOOKKEEPING
from mitune import digests
from mitune.files import read_json, write_json
from tests.cli import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign's job, undisturbed."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    assert main(arguments("generate", folder)) == 0
    assert main(arguments("select", folder)) == 0
    return folder


def lose_unit(folder: Path) -> None:
    (folder / "round-1" / "candidates" / "unit-000001.parquet").unlink()


def double_unit(folder: Path) -> None:
    place = folder / "round-1" / "candidates"
    for ending in ("parquet", "safetensors"):
        shutil.copy(place / f"unit-000001.{ending}", place / f"unit-000009.{ending}")
    note = read_json(place / "unit-000001.json")
    files = {
        name.replace("unit-000001", "unit-000009"): digest for name, digest in note[digests.FILES].items()
    }
    write_json(place / "unit-000009.json", digests.seal(note | {digests.FILES: files}))


def cut_file(folder: Path) -> None:
    path = folder / "round-1" / "candidates" / "unit-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def leave_half(folder: Path) -> None:
    (folder / "round-1" / ".partial-dataset-abcdefgh").mkdir()


def change_set(folder: Path) -> None:
    (path,) = (folder / "round-1" / "dataset").glob("*.arrow")
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (lose_unit, "lost"),
        (double_unit, "duplicates"),
        (cut_file, "corrupt"),
        (leave_half, "leftovers"),
        (change_set, "selection_equal"),
    ],
)
def test_every_kind_of_harm_is_seen(
    harm: Callable[[Path], None], seen: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    assert judge(folder, whole).good(exact=True)
    harm(folder)
    verdict = judge(folder, whole)
    assert not verdict.good(exact=False)
    value = getattr(verdict, seen)
    assert value is False if isinstance(value, bool) else value > 0


def test_an_adapter_may_differ_by_rounding_only_where_the_number_of_processes_changed() -> None:
    def verdict(adapter: float) -> Verdict:
        return Verdict(0, 0, 0, 0, True, True, True, adapter, 0.0)

    assert verdict(0.0).good(exact=True)
    assert not verdict(TOLERANCE / 2).good(exact=True)
    assert verdict(TOLERANCE / 2).good(exact=False)
    assert not verdict(2 * TOLERANCE).good(exact=False)


def test_the_figures_count_what_struck() -> None:
    clean = {"lost": 0, "duplicates": 0, "corrupt": 0, "leftovers": 0, "candidates_equal": True}
    clean |= {"selection_equal": True, "adapter": 0.0, "good": True, "exact": True}
    lives = [{"ranks": 2, "killed": True}, {"ranks": 2, "killed": False}]
    found = {entry["name"]: entry for entry in figures([clean | {"lives": lives}], [clean | {"refused": 7}])}
    assert found["SIGKILLs that struck"]["value"] == 1
    assert found["SIGKILLs that struck"]["reached"] is False
    assert found["writes refused, each once"]["value"] == 7
    assert found["lost units"]["reached"]
    bad = clean | {"lives": lives, "lost": 2, "good": False}
    found = {entry["name"]: entry for entry in figures([bad], [])}
    assert found["lost units"] == {"name": "lost units", "value": 2, "unit": "", "at_least": None} | {
        "reached": False,
        "note": "",
    }
    assert found["jobs without any fault"]["value"] == 0


def test_names_of_what_is_timed_exist() -> None:
    import pkgutil

    assert all(callable(pkgutil.resolve_name(name)) for name in speed.BOOKKEEPING)
    assert set(kills.COMMANDS) <= {"generate", "train", "run"}
    assert fellows(0, 1) == {}
    assert fellows(1, 2)["RANK"] == "1"


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_what_is_timed_as_bookkeeping_is_there(name: str) -> None:
    assert callable(pkgutil.resolve_name(name))
