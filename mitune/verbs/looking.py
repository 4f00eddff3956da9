"""A look at a run folder that neither writes nor trusts: what is damaged or somebody else's is none. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mitune.config.keys import keys
from mitune.errors import UserError, printable
from mitune.reading import home, is_file, is_folder, is_whole, read_bytes, read_json, reading
from mitune.stages.catalogue import ROUND

REQUEUE, CONFIG, SUMMARY, METRICS = ".requeue", "config.yaml", "summary.json", "metrics.jsonl"
_ROUND = re.compile(r"round-(\d{1,9})")
_NOTE = re.compile(rb"# mitune: \d{1,9} keys\r?\n")
_LARGEST = 1 << 24  # bytes of a file of settings or figures: a larger one is none of ours
_TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which the last row lies
_LATELY = 20  # units or rows that the pace is told by
_DEPTH, _MOST = (
    5,
    100_000,
)  # folders below the given one, and of them in all, that are looked through for runs
# Who looks at a mark that another version wrote, or somebody has changed, meets one of these.
STRANGE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def one_folder(verb: str, words: Sequence[str]) -> Path:
    """Give the run folder that the words of a verb name, as ``FOLDER`` or ``run=FOLDER``. Raises UserError where they
    name none, or it holds no run."""
    given = [word.removeprefix("run=") for word in words]
    if len(given) != 1 or not given[0]:
        raise UserError(f"{verb}: give the folder of one run; mitune ls lists the runs")
    folder = home(given[0])
    if not is_folder(folder):
        raise UserError(f"{verb}: there is no folder {printable(given[0])}; mitune ls lists the runs")
    if not is_run(folder):
        below = f"; mitune ls {folder} lists the runs in it" if next(runs_below(folder), None) else ""
        raise UserError(
            f"{verb}: {folder} holds no run (no {CONFIG} of mitune, no round-1){below or '; mitune ls lists the runs'}"
        )
    return folder


def is_run(folder: Path) -> bool:
    """Tell whether a command of ours has worked in a folder."""
    try:
        if any(_ROUND.fullmatch(entry.name) and entry.is_dir() for entry in os.scandir(folder)):
            return True
        return is_file(folder / CONFIG) and _NOTE.match(_head(folder / CONFIG)) is not None
    except OSError:
        return False


def runs_below(folder: Path) -> Iterator[Path]:
    """Find the runs in a folder and below it, in order; links are not followed, and a run's own folder not searched."""
    left = _MOST
    for place, names, _ in os.walk(folder):
        left -= 1
        here = Path(place)
        if is_run(here):
            yield here
            names.clear()
        elif left < 0 or len(here.relative_to(folder).parts) >= _DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


def bytes_of(path: Path) -> int:
    """Add up the bytes of a file, or of all files below a folder; a link counts as itself."""
    total = 0
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        for entry in os.scandir(path):
            total += bytes_of(Path(entry.path))
    return total


@dataclass(frozen=True)
class Progress:
    """Says how far something is.

    Attributes:
        done, total: of units or steps.
        pace: seconds that one took, lately; None where nothing tells.
        rows: pictures of all units.
    """

    done: int
    total: int
    pace: float | None
    rows: int = 0

    @property
    def left(self) -> float | None:
        """Seconds until all are done, at this pace."""
        return None if self.pace is None else self.pace * max(0, self.total - self.done)


def units(folder: Path) -> Progress | None:
    """Count the units of a folder with a plan; None for one without."""
    plan = figures(folder / "plan.json")
    if plan is None or not is_whole(plan.get("units")) or not is_whole(plan.get("rows")):
        return None
    times = []
    for path in folder.glob("unit-*.parquet"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return Progress(len(times), plan["units"], _pace(sorted(times)[-_LATELY:]), plan["rows"])


def _pace(times: Sequence[float]) -> float | None:
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def figures(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None for what is none."""
    try:
        if not is_file(path) or path.stat().st_size > _LARGEST:
            return None
        value = read_json(path)
    except (UserError, OSError):
        return None
    return value if isinstance(value, dict) else None


def last_rows(path: Path, stage: str) -> list[dict[str, Any]]:
    """Read the last whole rows of a stage in ``metrics.jsonl``, which may be being written."""
    if not is_file(path):
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines if stage.encode() in line and line.endswith(b"}")]
    except (OSError, ValueError, RecursionError):
        return []
    return [
        row
        for row in rows
        if isinstance(row, dict) and row.get("stage") == stage and is_whole(row.get("step"))
    ][-_LATELY:]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


@dataclass(frozen=True)
class Look:
    """Shows what is in a run folder.

    >>> Look(folder).config, Look(folder).rounds, Look(folder).present
    ({}, {}, (1, 'generate'))
    """

    root: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as it was written, in sections; empty where it cannot be read (:attr:`trouble`)."""
        return self._read[0]

    @property
    def trouble(self) -> str:
        """Why the configuration cannot be read, in words; empty where it can."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[dict[str, Any], str]:
        path = self.root / CONFIG
        if not is_file(path):
            return {}, f"{path} is gone"
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where it was built
        try:
            if path.stat().st_size > _LARGEST:
                return {}, f"{path} is too large for a configuration"
            with reading(path, "restore it"):
                found = yaml.load(read_bytes(path), loader)
        except (UserError, OSError) as error:
            return {}, str(error)
        return (found, "") if isinstance(found, dict) else ({}, f"{path} holds no configuration")

    def value(self, name: str) -> Any:
        """Give a key's value there, or its default where the configuration says none of its kind."""
        found: Any = self.config
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        key = keys()[name]
        return found if isinstance(found, key.kind) and not isinstance(found, bool) else key.default

    @cached_property
    def rounds(self) -> dict[int, dict[str, dict[str, Any]]]:
        """{round: {stage that is done: its figures}}, ascending; the figures of a damaged mark are empty."""
        found = {}
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.root):
                if (match := _ROUND.fullmatch(entry.name)) and entry.is_dir():
                    marks = {stage: Path(entry.path) / "done" / f"{stage}.json" for stage in ROUND}
                    found[int(match[1])] = {
                        stage: figures(path) or {} for stage, path in marks.items() if is_file(path)
                    }
        return dict(sorted(found.items()))

    @cached_property
    def planned(self) -> int:
        """The number of rounds that it shall have."""
        return max([int(self.value("rounds")), *self.rounds])

    @cached_property
    def present(self) -> tuple[int, str] | None:
        """(round, stage) that is the first not done; None where all are."""
        for number in range(1, self.planned + 1):
            for stage in ROUND:
                if stage not in self.rounds.get(number, {}):
                    return number, stage
        return None

    @cached_property
    def last(self) -> tuple[int, str] | None:
        """(round, stage) that was done last; None where none is."""
        done = [(number, stage) for number, marks in self.rounds.items() for stage in ROUND if stage in marks]
        return done[-1] if done else None

    @property
    def model(self) -> str:
        """The model, as the configuration names it, or else the first round's."""
        named = self.value("model.path") if self.config else None
        generated = next((marks.get("generate", {}) for marks in self.rounds.values()), {})
        return str(named or generated.get("model") or "?")

    def round(self, number: int) -> Path:
        """Give the folder of a round."""
        return self.root / f"round-{number}"

    def studies(self) -> list[Path]:
        """The folders beside the rounds in which candidates are drawn or pictures scored: of ``sample``, ``agree``…"""
        patterns = ("plan.json", "*/plan.json", "*/candidates/plan.json", "*/*/candidates/plan.json")
        found = {path.parent for pattern in patterns for path in self.root.glob(pattern)}
        of_rounds = ("round-", "baseline-")
        return sorted(
            path for path in found if not path.relative_to(self.root).as_posix().startswith(of_rounds)
        )

    @cached_property
    def written(self) -> float | None:
        """When something of a run was last written there, in seconds since 1970."""
        places = [self.root / CONFIG, self.root / SUMMARY, self.root / REQUEUE]
        for number in self.rounds:
            folder = self.round(number)
            places += [folder / METRICS, *(folder / "done" / f"{stage}.json" for stage in ROUND)]
            places += [folder / place for place in ("candidates", "after", "checkpoints", "real")]
        times = []
        for path in [*places, *self.studies()]:
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
        return max(times, default=None)


def gain(evaluated: Mapping[str, Any], chosen_by: str) -> tuple[str, float, list[float] | None] | None:
    """Give (score, difference, its 95 % interval) of the score that says most in an evaluation's figures: the oracle,
    or else one that did not choose, where there is one. None where they have none."""
    try:
        cells = {
            name: cell for name, cell in evaluated["difference"]["all"].items() if isinstance(cell, dict)
        }
        told = sorted(cells, key=lambda name: (name != "oracle", chose(name, chosen_by)))
        cell = cells[told[0]]
        interval = cell.get("ci95")
        return told[0], float(cell["difference"]), [float(one) for one in interval] if interval else None
    except STRANGE:
        return None


def chose(score: str, by: str) -> bool:
    """Tell whether a score is, or is a part of, what selects."""
    return score in re.split(r"\W+", by)
