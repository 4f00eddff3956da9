"""Many people at once, and a server that is killed in the middle: nothing is lost, nothing is there twice."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `survey` is not installed: its server is not tested")

from benchmarks.survey_load import load
from benchmarks.survey_servers import Server, make_survey, postgresql, postgresql_programs


def check(folder: Path, people: int, rounds: int, database: str = "") -> None:
    found = load(folder, people, rounds, think=0.02, database=database)
    assert len(found.crowd.given) == people * rounds
    assert found.lost == 0
    assert found.doubled == 0
    assert found.down > 0
    assert found.crowd.retried > 0  # the kill was felt


def raw(server: Server, *pieces: bytes) -> bytes:
    """What a server says to bytes that are no browser's."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        said = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                said += piece
    return said


def test_a_running_server_bears_what_no_browser_sends_and_says_nothing_of_whom(tmp_path: Path) -> None:
    make_survey(tmp_path, rounds=1)
    server = Server(tmp_path).start()
    try:
        head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        piece = b"a" * 100_000
        assert b" 413 " in raw(server, head + b"Content-Length: 10000000\r\n\r\n", *[piece] * 100)
        chunks = [b"186a0\r\n" + piece + b"\r\n"] * 100
        assert b" 413 " in raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
        assert b" 400 " in raw(server, b"\x16\x03\x01 nonsense \x00\r\n\r\n")
        for path in (
            b"/static/../pages.py",
            b"/picture/../../survey.json",
            b"/static//etc/passwd",
            b"//etc/passwd",
        ):
            said = raw(server, b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 404 "), path
        assert b" 400 " in raw(
            server, b"GET / HTTP/1.1\r\nHost: evil.example.org\r\nConnection: close\r\n\r\n"
        )
        assert b" 200 " in raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    finally:
        code = server.stop()
    assert code == 0
    assert "127.0.0.1" not in server.log
    assert "Traceback" not in server.log


def test_a_kill_in_the_middle_loses_no_answer_and_doubles_none(tmp_path: Path) -> None:
    check(tmp_path, people=20, rounds=5)


@pytest.mark.exhaustive
def test_two_hundred_people_lose_none_either(tmp_path: Path) -> None:
    check(tmp_path, people=200, rounds=20)


@pytest.mark.exhaustive
def test_the_same_on_postgresql() -> None:
    if postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to the user postgres
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "survey").mkdir()
        with postgresql(folder / "server") as url:
            check(folder / "survey", people=60, rounds=10, database=url)
