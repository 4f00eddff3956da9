"""Digests: of what is there now, and of nothing that is not a file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from mitune import digests


def test_a_digest_is_of_what_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"", b"one", b"two", os.urandom(3_000_000)):
        path.write_bytes(data)
        assert digests.sha256(path) == hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    time.sleep(0.2)
    first = digests.sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_content", lambda *_: pytest.fail("it was read again"))
        assert digests.sha256(path) == first
    kept = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # whoever sets the clock back
    assert digests.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_only_files_have_digests(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for name in ("pipe", "absent", "file/below", "."):
        assert digests.sha256(tmp_path / name) is None


def test_a_seal_tells_every_change(tmp_path: Path) -> None:
    value = {"seconds": 0.1 + 0.2, "cuts": {3: "é"}, "none": None, digests.FILES: {"a": "b"}}
    sealed = digests.seal(value)
    assert digests.intact(sealed)
    assert digests.intact(digests.seal(sealed))
    for harmed in (sealed | {"seconds": 0.3}, sealed | {"more": 1}, sealed | {digests.FILES: {"a": "c"}}):
        assert not digests.intact(harmed)
    assert digests.intact({"seconds": 0.3})  # of a version without
    assert not digests.intact(value)
    for other in ([], 3, {digests.FILES: []}, {digests.FILES: {"a": 1}}):
        assert not digests.intact(other)
