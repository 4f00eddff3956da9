"""``mitune status RUN``: what is done, what is at work, what comes next. It reads, and never takes the lock."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mitune.errors import printable, short
from mitune.files import at_work
from mitune.reading import is_file, is_number
from mitune.stages.catalogue import ROUND
from mitune.stages.telling import did
from mitune.verbs.amounts import duration, size
from mitune.verbs.looking import (
    METRICS,
    REQUEUE,
    STRANGE,
    Look,
    Progress,
    bytes_of,
    last_rows,
    one_folder,
    units,
)


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
    here = _present(look, working)
    if look.present is not None and (here or working):
        number, stage = look.present
        yield f"  round {number}: {stage}: {'at work' if working else 'begun'}{here and f', {here}'}"
    for place in look.studies():
        if made := units(place):
            name = "pictures scored" if place == look.root else place.relative_to(look.root)
            busy = place != look.root and (at_work(place) or at_work(place.parent))
            yield f"  {name}: {_units(made, busy)}{', at work' if busy else ''}"
    yield f"at work: {'yes, a command holds this folder' if working else 'no'}"
    if (look.root / REQUEUE).exists():
        yield f"told to leave: the last command saved all and left ({REQUEUE}); run it again"
    yield f"disk: {size(bytes_of(look.root))}; mitune clean {shlex.quote(str(look.root))} lists what can be made again"
    if look.written is not None:
        yield f"last written: {moment(look.written)} ({duration(time.time() - look.written)} ago)"
    yield f"next: {_next(look, working)}"


def _did(stage: str, figures: dict[str, Any]) -> str:
    try:
        return did(stage, figures)
    except STRANGE:
        return "done (its mark is damaged, or of another version)"


def _present(look: Look, working: bool) -> str:
    """How far the first stage is that is not done; empty where it has not begun."""
    if look.present is None:
        return ""
    number, stage = look.present
    folder = look.round(number)
    if stage == "train":
        return _training(look, folder, working)
    places = {"generate": [folder / "candidates"], "select": [folder / "real"]}
    drawn = places.get(stage, [*sorted(look.root.glob("baseline-*")), folder / "after"])
    found = [(place.name, made) for place in drawn if (made := units(place))]
    return "; ".join(f"{name}: {_units(made, working and made.done < made.total)}" for name, made in found)


def _units(made: Progress, working: bool = False) -> str:
    return f"{made.done} of {made.total} units ({made.rows} pictures in all){_left(made) if working else ''}"


def _left(made: Progress) -> str:
    return f", about {duration(made.left)} left" if made.left else ""


def _training(look: Look, folder: Path, working: bool) -> str:
    rows = last_rows(folder / METRICS, "train")
    saved = [path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*") if path.is_dir()]
    steps = sorted(int(name) for name in saved if name.isdigit())
    parts = []
    if rows:
        made = Progress(rows[-1]["step"], look.value("train.steps"), _pace(rows))
        loss = rows[-1].get("loss")
        parts.append(f"step {made.done} of {made.total}")
        parts += [f"loss {loss:.4f}"] if isinstance(loss, float) else []
    if steps:
        parts.append(f"saved at step {steps[-1]}")
    return ", ".join(parts) + (_left(made) if rows and working else "")


def _pace(rows: list[dict[str, Any]]) -> float | None:
    """Seconds a step; None for a single row, or one after a break in the steps."""
    first, last = rows[0], rows[-1]
    steps = last["step"] - first["step"]
    told = is_number(first.get("time")) and is_number(last.get("time"))
    return (last["time"] - first["time"]) / steps if told and steps > 0 else None


def moment(seconds: float) -> str:
    """Write a time as people here do: ``2026-11-30 15:23``."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


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
