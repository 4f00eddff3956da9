"""The figures of a run: ``metrics.jsonl``, always; charts on request are those of :mod:`mitune.charts`.

A row of ``metrics.jsonl`` is ``{"time": seconds since 1970, "stage": str, "step": int, …values}``. A crash
can tear the last line only; opening the file again mends it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import netrc
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from mitune.errors import UserError, nearest
from mitune.files import user_errors, write_bytes
from mitune.reading import check_regular, is_there, is_whole, read_bytes

METRICS = "metrics.jsonl"
CHARTS = ("tensorboard", "wandb")
"""Trackers that may be asked for; what each does is in :mod:`mitune.charts`."""
_SECRET = re.compile(r"(^|[_.-])(token|password|passwd|secret|api_?key|credentials?)$", re.IGNORECASE)


class Tracker(Protocol):
    """Takes the figures of a run."""

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Record numbers (or short texts) under their names at ``step`` of ``stage``."""

    def truncate_after(self, stage: str, step: int) -> None:
        """Forget the rows of ``stage`` with a step ≥ ``step``: a resumed run is about to write them again."""

    def close(self) -> None:
        """Write out what is held back."""


class JsonLines:
    """Appends one JSON object a line to ``path``; NaN and infinities become null, which JSON has a word for.

    >>> JsonLines(folder / METRICS).log({"loss": 0.5}, step=3)
    >>> [(row["step"], row["loss"]) for row in read_metrics(folder / METRICS)]
    [(3, 0.5)]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with user_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if is_there(self.path):
            check_regular(self.path)  # a pipe would be waited for, for ever
        self._mend()
        self._open()

    def _open(self) -> None:
        with user_errors(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def _mend(self) -> None:
        """Drop a torn last line, so that the next row starts on a line of its own."""
        data = read_bytes(self.path) if self.path.exists() else b""
        if data and not data.endswith(b"\n"):
            write_bytes(self.path, data[: data.rfind(b"\n") + 1])

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Append a row and hand it to the operating system at once, so that SIGKILL loses nothing."""
        row = {"time": round(time.time(), 3), "stage": stage, "step": int(step)}
        row |= {name: _plain(value) for name, value in values.items()}
        with user_errors(self.path):
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def truncate_after(self, stage: str, step: int) -> None:
        """Rewrite the file without the rows of ``stage`` whose step is ≥ ``step``, atomically."""
        self._file.close()
        rows = read_metrics(self.path)
        kept = [row for row in rows if not (row.get("stage") == stage and row.get("step", -1) >= step)]
        if len(kept) < len(rows):
            write_bytes(
                self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()
            )
        self._open()

    def close(self) -> None:
        """Close the file. What a full disk did not take was said by ``log``; closing would only say it again."""
        with contextlib.suppress(OSError):
            self._file.close()


class Several:
    """Passes everything on to a list of trackers; without any, as in every process but the first, nothing is kept."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Log with each tracker."""
        for tracker in self.trackers:
            tracker.log(values, step, stage)

    def truncate_after(self, stage: str, step: int) -> None:
        """Truncate each tracker."""
        for tracker in self.trackers:
            tracker.truncate_after(stage, step)

    def close(self) -> None:
        """Close each tracker."""
        for tracker in self.trackers:
            tracker.close()


def check_trackers(names: Iterable[str]) -> None:
    """Raise UserError for an unknown tracker name or one whose package is not installed, before anything is loaded."""
    for name in names:
        if name not in CHARTS:
            raise UserError(
                f"unknown tracker '{name}'{nearest(name, CHARTS)} (tracker= takes {', '.join(CHARTS)})"
            )
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"tracker '{name}' is not installed: pip install {name}, or leave it out of tracker="
            )


def open_metrics(folder: str | Path, main: bool | None = None) -> Tracker:
    """Open ``metrics.jsonl`` in ``folder``. ``main``: whether this process writes; None asks the launcher's RANK."""
    if not (int(os.environ.get("RANK", "0")) == 0 if main is None else main):
        return Several([])
    return Several([JsonLines(Path(folder) / METRICS)])


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a ``metrics.jsonl``, each with its ``stage`` and ``step``; a torn last line is left out, a
    missing file is empty. UserError for other damage."""
    path = Path(path)
    if not path.exists():
        return []
    lines = read_bytes(path).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break was never finished
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is not a JSON object; delete that line") from error
        if not is_whole(row.get("step")) or not isinstance(row.get("stage"), str):
            raise UserError(f"{path} line {number} names no step of a stage; delete that line")
        rows.append(row)
    return rows


def wandb_mode() -> str:
    """Give the user's WANDB_MODE; else "online" where a login is found, "offline" where none is. Looks, never
    reads a key out."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        host = urlparse(address).hostname or "api.wandb.ai"
    except ValueError as error:
        raise UserError(f"WANDB_BASE_URL={address} is no address; mend it, or unset it") from error
    try:
        known = netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).hosts
    except (OSError, ValueError, netrc.NetrcParseError, RuntimeError):
        return "offline"
    return "online" if host in known else "offline"


def without_secrets(config: Any) -> Any:
    """Make a copy of nested mappings and lists with the values of keys such as token, password, api_key replaced
    by "***"."""
    if isinstance(config, Mapping):
        return {
            key: "***" if value and _SECRET.search(str(key)) else without_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [without_secrets(value) for value in config]
    return config


def _plain(value: Any) -> Any:
    """A value JSON can hold: tensors and NumPy scalars become numbers, NaN and infinities null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Give the finite numbers among ``values``."""
    plain = {name: _plain(value) for name, value in values.items()}
    return {name: float(value) for name, value in plain.items() if isinstance(value, (int, float))}
