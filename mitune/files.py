"""Atomic writes: a reader sees the old file or the whole new one, never a part, even after SIGKILL.

Every writer fills a temporary file in the target's own folder and renames it into place. What a killed process
leaves behind carries the prefix ``.partial-`` and is removed by :func:`clean_partial`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import safetensors

from mitune import reading
from mitune.errors import UserError

if TYPE_CHECKING:  # a command that is refused imports neither
    import pyarrow as pa
    from torch import Tensor

PARTIAL = ".partial-"
LOCK = ".lock"  # of a folder in which one command at a time is at work
REPLACED = ".replaced-"
PLACE = ContextVar("PLACE", default="run")
"""The key that names the folder of the present command, for messages."""

# Where these say what went wrong, the system says it in words: libraries written in Rust raise types of their own.
_WORDS = ((errno.ENOSPC, "os error 28"), (errno.EDQUOT, "os error 122"), (errno.EROFS, "os error 30"))

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder with {place}=",
    errno.EACCES: "permission denied; choose a folder you may write to with {place}=",
    errno.EPERM: "permission denied; choose a folder you may write to with {place}=",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder with {place}=",
    errno.EEXIST: "a file is where a folder is needed; choose another folder with {place}=",
    errno.EISDIR: "a folder is where a file is needed; move it away, or choose another place",
    errno.ELOOP: "the links on this path go in a circle; choose another folder with {place}=",
    errno.ENAMETOOLONG: "the path is too long; choose a shorter one",
    errno.EIO: "the disk does not take it (input/output error); look after it, and run the same command again",
    errno.ESTALE: "the shared folder is gone; mount it again, and run the same command again",
    errno.ENOTCONN: "the shared folder is gone; mount it again, and run the same command again",
    errno.EBUSY: "the place is in use; choose another folder",
    errno.ETXTBSY: "the place is in use; choose another folder",
    errno.EFBIG: "the file is larger than this disk, or your limit, takes; choose another folder",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n), and run the same command again",
    errno.ENFILE: "too many files are open; run the same command again",
    errno.ENODEV: "there is no disk behind this place; choose another folder",
    errno.ENXIO: "there is no disk behind this place; choose another folder",
    errno.EOPNOTSUPP: "the file system does not take it; choose another folder",
}


def refusal(error: BaseException) -> str | None:
    """Say what to do about the operating system's refusal that ``error`` is; None for any other error."""
    number = None
    if isinstance(error, OSError):
        number = error.errno
    elif isinstance(error, safetensors.SafetensorError):
        number = next((number for number, words in _WORDS if words in str(error)), None)
    reason = _REASONS.get(number or 0)
    return None if reason is None else reason.replace("{place}", PLACE.get())


@contextlib.contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into a :class:`UserError` that says what to do."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = refusal(error)
        if reason is None and isinstance(error, OSError) and _about(error, path):
            reason = _unforeseen(error)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}") from error


def _about(error: OSError, path: Path) -> bool:
    """Whether the refusal is one of ``path`` or what lies around it: another file's would be a fault of ours, and a
    connection's has nothing to do with it."""
    if error.errno is None or isinstance(error, ConnectionError):
        return False
    if not isinstance(error.filename, (str, os.PathLike)):
        return True
    place, named = Path(os.path.abspath(path)), Path(os.path.abspath(error.filename))
    return named.is_relative_to(place.parent) or place.is_relative_to(named)


def _unforeseen(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "its folder is gone, or none can be made there; choose another folder"
    said = error.strerror or os.strerror(error.errno or 0)
    return f"the system refuses it ({said}); choose another folder"


def check_writable(path: Path) -> None:
    """Raise UserError unless a file can be written at ``path``: asked before hours are spent on what belongs there."""
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        os.close(handle)
        os.unlink(partial)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, making its folder if needed. Raises UserError on a full or closed disk."""
    with atomic_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to; on leaving without an error it takes the place of ``path``, whose folder is made.

    Raises UserError on a full or closed disk.
    """
    path = Path(path)
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file of ours. Raises UserError when it is missing or not JSON."""
    return reading.read_json(path, "delete it and run the stage again")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write named tensors as safetensors, atomically; gives what was written."""
    import safetensors.numpy
    import safetensors.torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    more = dict(metadata) if metadata else None
    try:  # the same bytes in a third of the time, where there are hundreds of tensors
        data = safetensors.numpy.save({name: tensor.numpy() for name, tensor in contiguous.items()}, more)
    except TypeError:  # a type that numpy has not
        data = safetensors.torch.save(contiguous, more)
    write_bytes(path, data)
    return data


def write_table(path: str | Path, table: pa.Table) -> None:
    """Write an Arrow table as parquet, atomically."""
    write_bytes(path, table_bytes(table))


def write_tables(path: str | Path, parts: Iterable[pa.Table]) -> None:
    """Write Arrow tables, one at least, below each other as one parquet file, atomically: one of them is in memory. The
    first says the types."""
    import pyarrow.parquet as pq

    with atomic_file(path) as file, contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(file, part.schema))
            writer.write_table(part.cast(writer.schema))


def table_bytes(table: pa.Table) -> bytes:
    """Give an Arrow table as a parquet file holds it."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on leaving without an error it takes the place of ``path``.

    A folder cannot be renamed over a full one, so an old one first steps aside under a name that says whose it is;
    whatever happens between the two renames, :func:`clean_partial` puts it back.
    """
    path = Path(path)
    aside = path.parent / f"{REPLACED}{path.name}"
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its name says what it was to be, for whoever finds it.
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name[:100]}-", dir=path.parent))
        try:
            yield partial
            os.chmod(partial, 0o755)
            _settle(aside)
            if path.exists():
                os.replace(path, aside)
            os.replace(partial, path)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            _settle(aside)
            raise


def _settle(aside: Path) -> None:
    """Decide about a folder that stepped aside: back to its place if that is empty, else superseded and removed."""
    if aside.exists():
        path = aside.parent / aside.name.removeprefix(REPLACED)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(aside, path)


def clean_partial(folder: str | Path) -> None:
    """Remove what killed processes left half-written directly inside ``folder``; put back what had stepped aside."""
    for path in Path(folder).glob(f"{REPLACED}*"):
        _settle(path)
    for path in Path(folder).glob(f"{PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a folder meanwhile; a killed process lets go by itself. Raises UserError(``refusal``) while
    another has it."""
    path = folder / LOCK
    with user_errors(path):
        if path.exists():
            reading.check_regular(path)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(refusal) from error
            # A file system without locks: go on without one.
        yield
    finally:
        os.close(handle)


def at_work(root: Path) -> bool:
    """Tell whether a command holds the lock of a folder now; nothing is written, and the lock is not kept."""
    try:
        handle = os.open(root / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
    return False
