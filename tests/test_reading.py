from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mitune import reading
from mitune.errors import UserError


def test_lines_are_cut_at_line_feeds_and_carriage_returns_before_them_only() -> None:
    odd = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\rj"
    assert reading.lines(f"{odd}\nsecond\r\nthird\n") == [odd, "second", "third"]
    assert reading.lines("") == []
    assert reading.lines("\n\na") == ["", "", "a"]
    assert reading.lines("a\n\n") == ["a", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_a_text_is_meant(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.txt").write_bytes("ein rotes Viereck, größer\n".encode(encoding))
    assert reading.read_text(tmp_path / "t.txt") == "ein rotes Viereck, größer\n"


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"\xff\xfeX", "UTF-8"), (b"caf\xe9", "byte 3"), (b"a\0b", "NUL"), ("a b".encode("utf-16-le"), "NUL")],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(UserError, match=word):
        reading.read_text(tmp_path / "t.txt")


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        listener.bind("socket")
        for name, kind in (
            ("pipe", "a named pipe"), ("link", "a device"), ("folder", "a folder"), ("socket", "a socket")
        ):  # fmt: skip
            with pytest.raises(UserError, match=kind):
                reading.read_bytes(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        reading.read_bytes(tmp_path / "nothing")
    with pytest.raises(UserError, match="no path"):
        reading.read_bytes("a\0b")
    with pytest.raises(UserError, match="too long"):
        reading.read_bytes("a" * 5000)
    (tmp_path / "good").symlink_to(tmp_path / "real")
    (tmp_path / "real").write_bytes(b"x")
    assert reading.read_bytes(tmp_path / "good") == b"x"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "digits"),
        (r'{"a": "\ud800"}', "surrogates"),
        (r'"\uDFFF"', "surrogates"),
    ],
)
def test_json_that_cannot_be_is_refused(text: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        reading.parse_json(text, "the file")


def test_json_with_a_pair_of_surrogates_is_a_character() -> None:
    assert reading.parse_json(r'"\ud83d\ude00"', "x") == "\U0001f600"


@pytest.mark.parametrize(
    "error", [ValueError("bad\nnews"), KeyError("x"), MemoryError(), RecursionError(), OSError(5, "io")]
)
def test_what_a_library_raises_about_a_file_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^a\.parquet cannot be read") as caught,
        reading.reading("a.parquet"),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_our_own_refusals_pass_the_door_unchanged() -> None:
    with pytest.raises(UserError, match=r"^as it was$"), reading.reading("x"):
        raise UserError("as it was")


def test_homes_and_paths_that_cannot_be() -> None:
    with pytest.raises(UserError, match="no such user"):
        reading.home("~nobody-of-this-name/x")
    with pytest.raises(UserError, match="NUL"):
        reading.home("a\0b")
    assert reading.home("~") == Path.home()
    assert not reading.is_file("a" * 5000)
    assert not reading.is_folder("a\0b")
