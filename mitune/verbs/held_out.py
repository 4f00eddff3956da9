"""The prompts of a new preset: read, and parted where none are held out yet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.data.settings import SUFFIXES
from mitune.errors import UserError, short
from mitune.reading import home, is_file, is_folder, is_hub_id
from mitune.tasks import UNCATEGORISED, Task

SHARE, MOST = 5, 200  # one prompt in so many is held out, and no more than so many in all
_COLUMNS = ("split", "column", "category_column", "picture_column")  # keys that say how a source is read
_NEW = ("training", "held-out")  # ends of the names of the two new files


@dataclass(frozen=True)
class Prompts:
    """Says what is trained on and what is held out.

    Attributes:
        source, held_out_source: as the preset has them.
        count, held_out_count: how many there are; None where nobody has looked.
        said: more in words.
        new: files to be written.
        parts: what goes into them.
        in_splits: one source has both, by its splits.
    """

    source: str
    held_out_source: str
    count: int | None = None
    held_out_count: int | None = None
    said: str = ""
    new: tuple[Path, ...] = ()
    parts: tuple[tuple[Task, ...], ...] = ()
    in_splits: bool = False


def prompts_of(source: str, held_out: str | None, folder: Path, keys: Mapping[str, Any]) -> Prompts:
    """Read the prompts. Raises UserError for what cannot be read, or parted.

    Args:
        source, held_out: as they were given.
        folder: where new files would be.
        keys: {key: value} that may say which columns and split are meant.
    """
    if _elsewhere(source) or (held_out is not None and _elsewhere(held_out)):
        other = _place(held_out or source)
        return Prompts(_place(source), other, said="of the Hub, not looked at", in_splits=held_out is None)
    training = _read(source, "prompts", keys)
    if held_out is not None:
        own = _read(held_out, "evaluate.prompts", keys)
        both = {task.id for task in training} & {task.id for task in own}
        said = f"{len(both)} of the held-out ones are trained on too: the comparison flatters" if both else ""
        return Prompts(_place(source), _place(held_out), len(training), len(own), said)
    own = _held_out_there(source, keys)
    if own and not {task.text for task in training} & {task.text for task in own}:
        place = _place(source)
        said = f"by the splits of {source}"
        return Prompts(place, place, len(training), len(own), said, in_splits=True)
    if not is_file(home(source)) or any(task.picture for task in training):
        raise UserError(f"init: {source} has no held-out prompts; give a file of them as a third word")
    return _parted(source, training, folder)


def _read(source: str, section: str, keys: Mapping[str, Any]) -> list[Task]:
    from mitune.data.prompts import load_prompts

    own = {name: keys.get(f"{section}.{name}") for name in _COLUMNS}
    return load_prompts(home(source), held_out=section != "prompts", **own)


def _held_out_there(source: str, keys: Mapping[str, Any]) -> list[Task]:
    try:
        return _read(source, "evaluate.prompts", keys)
    except UserError:
        return []


def _elsewhere(source: str) -> bool:
    path = home(source)
    return (
        not is_file(path)
        and not is_folder(path)
        and is_hub_id(source)
        and path.suffix.lower() not in SUFFIXES
    )


def _place(source: str) -> str:
    path = home(source)
    return str(written_out(path)) if is_file(path) or is_folder(path) else source


def written_out(path: Path) -> Path:
    """Give a path that means the same from every folder."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _parted(source: str, training: Sequence[Task], folder: Path) -> Prompts:
    """One file in two: of every category the same share, by the prompts' own digests, whatever their order."""
    if len(training) < 2:
        raise UserError(f"init: {source} has one prompt; give more, or held-out prompts as a third word")
    held = _chosen(training)
    parts = (
        tuple(task for task in training if task.id not in held),
        tuple(task for task in training if task.id in held),
    )
    end = ".csv" if any(task.category != UNCATEGORISED for task in training) else ".txt"
    new = tuple(folder / f"{home(source).stem}-{name}{end}" for name in _NEW)
    first, second = (str(written_out(path)) for path in new)
    return Prompts(first, second, len(parts[0]), len(parts[1]), f"of {short(source, 200)}", new, parts)


def _chosen(training: Sequence[Task]) -> set[str]:
    """The ids that are held out."""
    share = min(1 / SHARE, MOST / len(training))
    by_category: dict[str, list[str]] = {}
    for task in training:
        by_category.setdefault(task.category, []).append(task.id)
    found = [one for ids in by_category.values() for one in sorted(ids)[: math.floor(share * len(ids))]]
    return set(found or [min(task.id for task in training)])


def without_columns(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the keys that say how a source is read: new files have columns of their own."""
    sections = ("prompts", "evaluate.prompts")
    gone = {f"{section}.{name}" for section in sections for name in _COLUMNS}
    return {name: value for name, value in keys.items() if name not in gone}


def write_prompts(prompts: Prompts) -> None:
    """Write the new files: a prompt a line, or a table where there are categories. UserError where the disk refuses."""
    from mitune.files import write_text

    for path, tasks in zip(prompts.new, prompts.parts, strict=True):
        if path.suffix == ".txt":
            text = "".join(f"{task.text}\n" for task in tasks)
        else:
            table = io.StringIO()
            rows = csv.writer(table, lineterminator="\n")
            rows.writerow(["prompt", "category"])
            rows.writerows([task.text, task.category] for task in tasks)
            text = table.getvalue()
        write_text(path, text)
