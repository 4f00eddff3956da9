"""``mitune status RUN``: what is done, what is at work, what comes next. It reads, and never takes the lock."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from mitune.errors import printable, short
from mitune.reading import is_file
from mitune.stages.catalogue import ROUND
from mitune.stages.telling import did
from mitune.verbs.looking import METRICS, REQUEUE, STRANGE, Look, at_work, last_row, one_folder, size, units

_AGO = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))


def status(words: list[str]) -> int:
    """``mitune status RUN``."""
    look = Look(one_folder("status", words))
    for line in told(look):
        print(printable(line))
    return 0


def told(look: Look) -> Iterator[str]:
    """Say line by line what there is."""
    working = at_work(look.root)
    yield f"{look.root}: {short(look.model, 80)}, {look.planned} round{'s' if look.planned > 1 else ''}"
    if look.trouble:
        yield f"  the configuration cannot be read: {look.trouble}"
    for number, marks in look.rounds.items():
        for stage in ROUND:
            if stage in marks:
                yield f"  round {number}: {stage}: {_did(stage, marks[stage])}"
    here = _present(look)
    if look.present is not None and (here or working):
        number, stage = look.present
        yield f"  round {number}: {stage}: {'at work' if working else 'begun'}{here and f', {here}'}"
    for place in look.studies():
        if counted := units(place):
            busy = ", at work" if place != look.root and (at_work(place) or at_work(place.parent)) else ""
            yield f"  {place.relative_to(look.root.parent if place == look.root else look.root)}: {_units(counted)}{busy}"
    yield f"at work: {'yes, a command holds this folder' if working else 'no'}"
    if (look.root / REQUEUE).exists():
        yield f"told to leave: the last command saved all and left ({REQUEUE}); run it again"
    yield f"disk: {decimal(size(look.root))}; mitune clean {shlex.quote(str(look.root))} lists what can be made again"
    if look.written is not None:
        yield f"last written: {moment(look.written)} ({_ago(time.time() - look.written)})"
    yield f"next: {_next(look, working)}"


def _did(stage: str, figures: dict[str, Any]) -> str:
    try:
        return did(stage, figures)
    except STRANGE:
        return "done (its mark is damaged, or of another version)"


def _present(look: Look) -> str:
    """How far the first stage is that is not done; empty where it has not begun."""
    if look.present is None:
        return ""
    number, stage = look.present
    folder = look.round(number)
    if stage == "train":
        return _training(look, folder)
    places = {"generate": [folder / "candidates"], "select": [folder / "real"]}
    drawn = places.get(stage, [*sorted(look.root.glob("baseline-*")), folder / "after"])
    return "; ".join(f"{place.name}: {_units(counted)}" for place in drawn if (counted := units(place)))


def _units(counted: tuple[int, int, int]) -> str:
    there, planned, rows = counted
    return f"{there} of {planned} units ({rows} pictures in all)"


def _training(look: Look, folder: Path) -> str:
    row = last_row(folder / METRICS, "train")
    saved = [path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*") if path.is_dir()]
    steps = sorted(int(name) for name in saved if name.isdigit())
    parts = []
    if row is not None:
        loss = row.get("loss")
        parts.append(f"step {row['step']} of {look.value('train.steps')}")
        parts += [f"loss {loss:.4f}"] if isinstance(loss, float) else []
    if steps:
        parts.append(f"saved at step {steps[-1]}")
    return ", ".join(parts)


def moment(seconds: float) -> str:
    """Write a time as people here do: ``2026-11-30 15:23``."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _ago(seconds: float) -> str:
    for length, unit in _AGO:
        if seconds >= 2 * length or length == 1:
            return f"{max(0, round(seconds / length))} {unit} ago"
    return ""


def _next(look: Look, working: bool) -> str:
    run = f"run={shlex.quote(str(look.root))}"
    if working:
        return "wait for it; mitune status shows how far it is"
    if is_file(look.root / "sweep.json") and look.present is not None:
        return "the sweep's own command, which goes on with this job"
    if not look.rounds and look.studies():
        return f"nothing is missing of a run here; mitune run {run} would begin one"
    if look.present is not None:
        return f"mitune run {run}"
    return f"mitune export {run}    (the report: {look.root / 'report.html'})"
