"""The judging of a benchmark's pictures, unit by unit: what a killed command loses is one unit at most."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune import digests
from mitune.data.pictures.contents import Contents
from mitune.distributed import broadcast, wait, work_queue
from mitune.errors import UserError
from mitune.evaluate.benchmarks.judging import judge_all
from mitune.evaluate.benchmarks.lines import Answer, Shown
from mitune.files import clean_partial, read_json, write_json
from mitune.reading import read_bytes
from mitune.stages.benchmark_judges import Chosen
from mitune.stages.progress import progress, warn_of_idle

WORK = "work"
"""The folder, in that of a benchmark, of what is no result: candidates, and what was judged unit by unit."""
_CONTENTS = "pictures_sha256"
_ASKED = "prompts_sha256"


@dataclass(frozen=True)
class _Unit:
    """Some pictures of one category, judged and committed together."""

    category: str
    number: int
    rows: tuple[int, ...]


class JudgedPictures:
    """Keeps what was said of the pictures of one model. Many processes may write, each its own units.

    Args:
        root: of the benchmark.
        side: whose pictures they are.
        shown: the pictures.
        size: of a unit.
    """

    def __init__(self, root: Path, side: str, shown: Sequence[Shown], size: int) -> None:
        self.root, self.side, self.shown = root, side, shown
        self.folder = root / WORK / side / "judged"
        self.units: list[_Unit] = []
        for category in dict.fromkeys(one.line.category for one in shown):
            rows = [row for row, one in enumerate(shown) if one.line.category == category]
            parts = (tuple(rows[start : start + size]) for start in range(0, len(rows), size))
            self.units += [_Unit(category, number, part) for number, part in enumerate(parts)]

    def path(self, unit: _Unit) -> Path:
        """Name the file of a unit."""
        return self.folder / f"{unit.category}-{unit.number:06d}.json"

    def judge(self, chosen: Mapping[str, Chosen], batch_size: int) -> None:
        """Judge what is not judged yet, or was another picture then, on all processes; ``chosen``: by category."""
        names = {category: one.name for category, one in chosen.items()}

        def begin() -> list[int]:
            clean_partial(self.folder)
            return [place for place, unit in enumerate(self.units) if self._read(unit, names) is None]

        todo = [self.units[place] for place in broadcast(begin)]
        if not todo:
            return
        warn_of_idle(len(todo), "units", "benchmark.rows_per_unit")
        opened: dict[str, Any] = {}
        total, left = len(self.shown), sum(len(unit.rows) for unit in todo)
        with progress(f"{self.side}: judge", total, total - left, unit="pictures") as bar:
            shown = 0
            for place, unit in work_queue(todo):
                bar(sum(len(other.rows) for other in todo[shown:place]))  # the others'
                shown = place + 1
                category = unit.category
                if category not in opened:
                    alike = [one for one in opened if chosen[one].like == chosen[category].like]
                    opened[category] = opened[alike[0]] if alike else chosen[category].open()
                self._judge_unit(unit, opened[category], names[category], batch_size)
                bar(len(unit.rows))
        wait()

    def _judge_unit(self, unit: _Unit, reward: Any, name: str, batch_size: int) -> None:
        began, contents = time.perf_counter(), Contents()
        own = [self.shown[row] for row in unit.rows]
        answers = list(judge_all(reward, name, own, batch_size, contents))
        rows = [
            {"line": one.line.number, "picture": one.number, "value": answer.value, "more": dict(answer.more)}
            for one, answer in zip(own, answers, strict=True)
        ]
        note = {
            "name": name,
            "judge": reward.identity,
            "seconds": round(time.perf_counter() - began, 3),
            _CONTENTS: contents.digest,
            _ASKED: self._asked(unit),
            "rows": rows,
        }
        write_json(self.path(unit), digests.seal(note | {digests.FILES: {}}))

    def _asked(self, unit: _Unit) -> str:
        """What the judge is told of a unit's pictures: the prompts, and what the benchmark's file says of them."""
        told = [(self.shown[row].line.text, dict(self.shown[row].line.note)) for row in unit.rows]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _read(self, unit: _Unit, names: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """What was said of a unit; None where it is not there, not as it was written, or of other pictures or
        prompts."""
        path = self.path(unit)
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = read_json(path)
        except UserError:
            return None
        if not digests.intact(found) or digests.FILES not in found:
            return None
        if found.get(_ASKED) != self._asked(unit):
            return None
        if names is not None and found["name"] != names[unit.category]:
            return None
        told = [(row["line"], row["picture"]) for row in found["rows"]]
        if told != [(self.shown[row].line.number, self.shown[row].number) for row in unit.rows]:
            return None
        if names is not None:
            contents = Contents()
            for row in unit.rows:
                contents.picture(read_bytes(self.shown[row].path))
            if contents.digest != found[_CONTENTS]:
                return None
        return found

    @functools.cached_property
    def _all(self) -> list[dict[str, Any]]:
        """What was said of every unit, read once all are judged."""
        found = []
        for unit in self.units:
            one = self._read(unit)
            if one is None:
                raise UserError(f"{self.path(unit)} is gone or damaged; run the same command again")
            found.append(one)
        return found

    def answers(self) -> list[Answer]:
        """Read what was said of all pictures, in their order. One process asks."""
        found: dict[int, Answer] = {}
        for unit, one in zip(self.units, self._all, strict=True):
            for row, said in zip(unit.rows, one["rows"], strict=True):
                found[row] = Answer(said["value"], said["more"])
        return [found[row] for row in range(len(self.shown))]

    def identity(self, category: str) -> str:
        """Name the judge of a category. Raises UserError where there were two: its weights have changed meanwhile."""
        said = {
            one["judge"] for unit, one in zip(self.units, self._all, strict=True) if unit.category == category
        }
        if len(said) != 1:
            raise UserError(
                f"{self.folder} holds what {' and '.join(sorted(said))} said of {category}: one judge is wanted; delete"
                " that folder, or choose another benchmark.out="
            )
        return str(said.pop())

    @property
    def seconds(self) -> float:
        """Add up what the judging took."""
        return sum(one["seconds"] for one in self._all)
