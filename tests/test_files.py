from __future__ import annotations

import errno
import io
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from mitune import files
from mitune.errors import UserError


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(f"{files.PARTIAL}*")]


def fail_with(code: int) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


class FullDisk(io.BytesIO):
    """A file that takes ten bytes and then says that the disk is full."""

    def __init__(self, handle: int) -> None:
        super().__init__()
        self.handle = handle

    def write(self, data: Any) -> int:
        os.write(self.handle, bytes(data)[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if not self.closed:
            os.close(self.handle)
        super().close()


def test_round_trips(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "text", "größer\n")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "größer\n"

    value = {"prompt": "ein rotes Ω", "score": [1.5, None], "n": 3}
    files.write_json(tmp_path / "value.json", value)
    assert files.read_json(tmp_path / "value.json") == value

    tensors = {"x": torch.arange(6.0).reshape(2, 3).T, "h": torch.ones(2, dtype=torch.bfloat16)}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"round": "1"})
    with safe_open(str(tmp_path / "t.safetensors"), "pt") as stored:
        assert stored.metadata() == {"round": "1"}
        assert torch.equal(stored.get_tensor("x"), tensors["x"])
        assert stored.get_tensor("h").dtype == torch.bfloat16

    table = pa.table({"seed": [1, 2**62], "score": [0.1, float("nan")]})
    files.write_table(tmp_path / "t.parquet", table)
    assert pq.read_table(tmp_path / "t.parquet")["seed"].to_pylist() == [1, 2**62]
    assert not leftovers(tmp_path)


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "file", b"x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
def test_a_failure_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    monkeypatch.setattr(files.os, step, fail_with(errno.EBUSY))
    with pytest.raises(UserError, match="in use"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_a_full_disk_is_one_line_that_names_the_file_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    files.write_json(path, {"old": True})
    monkeypatch.setattr(files.os, "fdopen", lambda handle, mode: FullDisk(handle))
    with pytest.raises(UserError) as caught:
        files.write_json(path, {"new": list(range(100))})
    message = str(caught.value)
    assert str(path) in message
    assert "disk is full" in message
    assert "\n" not in message
    monkeypatch.undo()
    assert files.read_json(path) == {"old": True}
    assert not leftovers(tmp_path)


def test_refusals_of_the_system_become_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in errno.errorcode:
        if isinstance(OSError(code, ""), ConnectionError):
            continue  # of no disk
        monkeypatch.setattr(files.tempfile, "mkstemp", fail_with(code))
        with pytest.raises(UserError, match="cannot write"):
            files.write_text(tmp_path / "file", "x")
        with pytest.raises(UserError, match="cannot write"):
            files.check_writable(tmp_path / "file")


@pytest.mark.parametrize("write", [files.write_text, lambda path, _: files.check_writable(path)])
def test_a_place_where_the_system_makes_nothing(write: Any) -> None:
    for place in ("/proc/x", "/proc/x/file", "/sys/x"):
        with pytest.raises(UserError, match=f"cannot write {place}: "):
            write(Path(place), "x")


def test_what_is_not_about_the_written_file_is_not_blamed_on_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_folder(tmp_path / "out"):
        Path("/nowhere/at/all").read_bytes()
    with pytest.raises(ConnectionResetError), files.atomic_folder(tmp_path / "out"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="run"):
        files.write_text(tmp_path / "run" / "deep" / "file", "x")


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"score": float("nan")})
    assert files.read_json(path) == 1


def test_read_json_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"torn\.json is not valid JSON"):
        files.read_json(tmp_path / "torn.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path / "bytes.json")


def test_clean_partial_removes_only_what_was_left_half_written(tmp_path: Path) -> None:
    (tmp_path / f"{files.PARTIAL}file").write_text("half")
    (tmp_path / f"{files.PARTIAL}folder" / "inner").mkdir(parents=True)
    (tmp_path / "kept.json").write_text("{}")
    (tmp_path / "kept").mkdir()
    files.clean_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.json"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    versions = [
        json.dumps({"version": number, "filler": "x" * 300_000 * (number + 1)}) for number in range(2)
    ]
    files.write_text(path, versions[0])
    seen: list[int] = []
    broken: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            text = path.read_text()
            if text in versions:
                seen.append(versions.index(text))
            else:
                broken.append(text[:40])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(40):
            files.write_text(path, versions[turn % 2])
    finally:
        stop.set()
        reader.join()
    assert not broken
    assert seen


def test_atomic_folder_takes_its_place_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    with files.atomic_folder(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    assert (target / "one").read_text() == "1"

    with pytest.raises(RuntimeError, match="half way"), files.atomic_folder(target) as folder:  # noqa: PT012
        (folder / "two").write_text("2")
        raise RuntimeError("half way")
    assert [path.name for path in target.iterdir()] == ["one"]

    with files.atomic_folder(target) as folder:
        (folder / "three").write_text("3")
    assert [path.name for path in target.iterdir()] == ["three"]
    assert not leftovers(tmp_path)


def test_atomic_folder_on_a_full_disk_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset"), files.atomic_folder(tmp_path / "dataset"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not leftovers(tmp_path)


def test_atomic_folder_keeps_the_old_folder_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "dataset"
    with files.atomic_folder(target) as folder:
        (folder / "old").write_text("1")
    real = os.replace

    def replace(source: Any, destination: Any) -> None:
        # The new folder's rename into place fails; putting the old one aside and back works.
        if Path(destination) == target and (Path(source) / "new").exists():
            raise OSError(errno.EBUSY, "busy error")
        real(source, destination)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(UserError, match="in use"), files.atomic_folder(target) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_folder_that_stepped_aside_before_a_kill_is_put_back(tmp_path: Path) -> None:
    aside = tmp_path / f"{files.REPLACED}dataset"
    aside.mkdir()
    (aside / "old").write_text("1")
    files.clean_partial(tmp_path)
    assert (tmp_path / "dataset" / "old").read_text() == "1"
    assert not aside.exists()


def test_a_superseded_folder_is_removed_and_the_new_one_kept(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / f"{files.REPLACED}dataset").mkdir()
    files.clean_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_library_s_own_words_for_a_full_disk_are_understood(tmp_path: Path) -> None:
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(UserError, match="disk is full"), files.atomic_folder(tmp_path / "folder"):
        raise safetensors.SafetensorError(words)
    with pytest.raises(safetensors.SafetensorError), files.atomic_folder(tmp_path / "folder"):
        raise safetensors.SafetensorError("header too large")
    assert not list(tmp_path.iterdir())
    assert files.refusal(ValueError("os error 28")) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_are_written_as_safetensors_itself_writes_them(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {f"b.{number}": torch.arange(6).reshape(2, 3).to(dtype) for number in range(12)}
    tensors |= {"a.none": torch.zeros(0), "a.one": torch.tensor(3.0), "z.view": torch.ones(4, 2).t()}
    for metadata in (None, {"kind": "test"}):
        written = files.write_tensors(tmp_path / "file", tensors, metadata)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        assert written == (tmp_path / "file").read_bytes() == safetensors.torch.save(whole, metadata)
