"""Many people at once, and a server that is killed in the middle: nothing is lost, nothing is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `survey` is not installed: its server is not tested")

from benchmarks.survey_load import load
from benchmarks.survey_servers import postgresql, postgresql_programs


def check(folder: Path, people: int, rounds: int, database: str = "") -> None:
    found = load(folder, people, rounds, think=0.02, database=database)
    assert len(found.crowd.given) == people * rounds
    assert found.lost == 0
    assert found.doubled == 0
    assert found.down > 0
    assert found.crowd.retried > 0  # the kill was felt


def test_a_kill_in_the_middle_loses_no_answer_and_doubles_none(tmp_path: Path) -> None:
    check(tmp_path, people=20, rounds=5)


@pytest.mark.exhaustive
def test_two_hundred_people_lose_none_either(tmp_path: Path) -> None:
    check(tmp_path, people=200, rounds=20)


@pytest.mark.exhaustive
def test_the_same_on_postgresql() -> None:
    import tempfile

    if postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to the user postgres
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "survey").mkdir()
        with postgresql(folder / "server") as url:
            check(folder / "survey", people=60, rounds=10, database=url)
