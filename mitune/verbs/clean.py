"""``mitune clean RUN``: what of a run folder can be made again; with ``--yes`` it is deleted.

Nothing is deleted but by the names that stages write, in real folders of the run: what a link leads to belongs to
others too (candidates that runs of a sweep share), and what is put among our files is the user's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mitune.digests import FILES, changed, intact
from mitune.errors import UserError, printable
from mitune.files import PARTIAL, at_work, hold, user_errors
from mitune.reading import is_file
from mitune.stages.catalogue import STAGES
from mitune.verbs.amounts import size
from mitune.verbs.looking import STRANGE, Look, bytes_of, one_folder

YES, DRAWN = "--yes", "--drawn"
_LATENTS = re.compile(r"unit-\d{6,}\.safetensors")
_BEGUN = re.compile(r"begun-\d{6,}\.safetensors")  # batches of a unit that is not finished
_CHECKPOINT = re.compile(r"(step|best)-\d{6,}")
_OF_CHECKPOINT = re.compile(r"[\w.-]+\.(safetensors|json)")
# Whose candidates lie in a folder: what its command writes last.
_LAST = ("agreement.json", "calibration.json", "sample.json")


@dataclass(frozen=True)
class Found:
    """Holds what can be made again.

    Attributes:
        place: the folder that it lies in.
        paths: files and folders to delete.
        what: it is, and how it comes back.
        drawn: a later command may ask for it, and would draw it again.
    """

    place: Path
    paths: tuple[Path, ...]
    what: str
    drawn: bool

    @property
    def bytes(self) -> int:
        """The bytes that it takes."""
        return sum(map(bytes_of, self.paths))


def clean(words: list[str]) -> int:
    """``mitune clean RUN [--yes] [--drawn]``."""
    options = {word for word in words if word in (YES, DRAWN)}
    folder = one_folder("clean", [word for word in words if word not in options])
    if YES not in options:
        _list(folder, found_in(folder), options)
        return 0
    refusal = f"clean: another mitune is at work in {folder}; wait for it, and clean then"
    with hold(folder, refusal):  # .requeue stays
        chosen = [one for one in found_in(folder) if DRAWN in options or not one.drawn]
        freed = 0
        for one in chosen:
            line, freed = f"deleted {_told(one)}", freed + one.bytes
            for path in one.paths:
                _delete(path)
            _say(line)
    _say(f"freed {size(freed)}" if chosen else "there was nothing to delete")
    return 0


def _list(folder: Path, found: list[Found], options: set[str]) -> None:
    kinds = {
        False: f"no later command asks for ({YES} deletes it)",
        True: f"can be drawn again, and is where a later command needs it ({YES} {DRAWN} deletes it too)",
    }
    for drawn, heading in kinds.items():
        own = [one for one in found if one.drawn == drawn]
        if own:
            _say(f"{size(sum(one.bytes for one in own))} that {heading}:")
            for one in own:
                _say(f"  {_told(one)}")
    if not found:
        _say(f"nothing in {folder} can be made again")
    for link in _links(folder):
        _say(f"left alone: {link} leads out of this run, to what others may share")
    if at_work(folder):
        _say("a command is at work there: nothing can be deleted now")
    elif found:
        _say("nothing was deleted")


def _told(one: Found) -> str:
    return f"{one.place}: {one.what}, {size(one.bytes)}"


def _say(line: str) -> None:
    print(printable(line))


def found_in(folder: Path) -> list[Found]:
    """List what can be made again, what nobody asks for first. A stage whose mark is damaged keeps all."""
    look = Look(folder)
    found = [*_leftovers(look)]
    for number, whole in look.rounds.items():
        place = look.round(number)
        marks = {stage: mark for stage, mark in whole.items() if mark and intact(mark)}
        if "train" in marks and _is_there(folder, marks["train"], place / "adapter"):
            found += _checkpoints(folder, place / "checkpoints")
        if "select" in marks:
            found += _latents(folder, place / "candidates", _cost(marks.get("generate", {})))
        if "evaluate" in marks:
            found += _latents(folder, place / "after", "the pictures of its evaluation")
    if look.rounds and look.present is None:
        for place in sorted(folder.glob("baseline-*")):
            found += _latents(folder, place, "the base model's pictures of the evaluation")
    for place in look.studies():
        if any(is_file(place.parent / name) for name in _LAST) and not at_work(place.parent):
            found += _latents(folder, place, "the same command in this folder draws them again")
    return sorted(found, key=lambda one: one.drawn)


def _is_there(root: Path, mark: dict[str, object], adapter: Path) -> bool:
    """Whether the adapter is as it was written: else its training may have to be ended from a checkpoint."""
    noted = mark.get(FILES, {})
    try:
        return any(adapter.iterdir()) and not changed(noted, root)  # type: ignore[arg-type]
    except (*STRANGE, OSError, UserError):
        return False


def _checkpoints(root: Path, place: Path) -> Iterator[Found]:
    if not _is_own(root, place):
        return
    own = [path for path in _entries(place) if _CHECKPOINT.fullmatch(path.name) and _is_plain(path)]
    if own:
        # The folder itself stays: it says that a training has begun, and its settings are fixed.
        yield Found(place, tuple(own), f"{_many(len(own), 'checkpoint')} of a finished training", False)


def _is_plain(checkpoint: Path) -> bool:
    """Whether a checkpoint's folder holds nothing but what a training writes there."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return False
    return all(
        _is_plain(path) if path.name == "adapter" and path.is_dir() else _is_written(path, _OF_CHECKPOINT)
        for path in _entries(checkpoint)
    )


def _latents(root: Path, place: Path, how: str) -> Iterator[Found]:
    """The latents of a folder of candidates whose tables are there."""
    if not _is_own(root, place):
        return
    own = [
        path
        for path in _entries(place)
        if _is_written(path, _LATENTS) and is_file(path.with_suffix(".parquet"))
    ]
    if own:
        yield Found(place, tuple(own), f"{_many(len(own), 'file')} of latents ({how})", True)


def _cost(generated: dict[str, object]) -> str:
    try:
        seconds, forwards = float(generated["seconds"]), int(generated["forwards"])  # type: ignore[arg-type, call-overload]
        return f"{forwards} network evaluations, {seconds:.0f} s of drawing"
    except STRANGE:
        return "drawn from their seeds"


def _leftovers(look: Look) -> Iterator[Found]:
    """What killed commands left half-written."""
    # A sample command has a lock of its own.
    free = [place for place in look.studies() if not (at_work(place) or at_work(place.parent))]
    places = [look.root, *free, *look.root.glob("baseline-*")]
    for number in look.rounds:
        folder = look.round(number)
        places += [folder, *(path for path in _entries(folder) if path.is_dir())]
    for place in places:
        own = [path for path in _entries(place) if _is_left(path)] if _is_own(look.root, place) else []
        if own:
            what = f"{_many(len(own), 'half-written file')} of a killed command"
            yield Found(place, tuple(own), what, False)


def _is_left(path: Path) -> bool:
    """Whether a file or folder was never finished, and what it was to be is there, or is made from the beginning."""
    if _is_written(path, _BEGUN):
        return is_file(path.with_name(f"unit-{path.stem.removeprefix('begun-')}.parquet"))
    return path.name.startswith(PARTIAL) and not path.is_symlink()


def _links(root: Path) -> list[Path]:
    """Folders of candidates that are links, as in a sweep."""
    names = {STAGES["generate"].result[0], "real"}
    inside = [path for name in names for path in root.glob(f"round-*/{name}")]
    return sorted(path for path in [*inside, *root.glob("baseline-*")] if path.is_symlink())


def _is_own(root: Path, place: Path) -> bool:
    """Whether a folder is there, with no link on the way from the run's to it."""
    way = [place, *place.parents]
    inside = way[: way.index(root)] if root in way else []
    return (
        (place == root or bool(inside)) and place.is_dir() and not any(path.is_symlink() for path in inside)
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_written(path: Path, name: re.Pattern[str]) -> bool:
    """Whether a regular file, no link, has a name that stages write."""
    try:
        return name.fullmatch(path.name) is not None and stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _delete(path: Path) -> None:
    """Delete a file or folder; half a deletion of a folder does not look like one."""
    with user_errors(path), contextlib.suppress(FileNotFoundError):
        if not path.is_dir():
            path.unlink()
            return
        aside = path if path.name.startswith(PARTIAL) else path.with_name(PARTIAL + path.name)
        if aside != path:
            os.replace(path, aside)
        shutil.rmtree(aside)
