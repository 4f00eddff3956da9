"""What the stages left, looked at before it is used: as it was written, made again, or refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from mitune.data.store import CandidateStore, Look
from mitune.errors import UserError
from mitune.files import user_errors
from mitune.runs import RunFolder
from mitune.stages.catalogue import STAGES
from mitune.stages.progress import warn

_told: set[Path] = set()  # the folders without digests that were spoken of


def files_in(*folders: Path) -> list[Path]:
    """List all files in the folders, in order; none of one that is not there."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def harmed(run: RunFolder, number: int, stage: str) -> list[Path]:
    """List what a stage that is marked done left, and is gone or changed since. Main process only."""
    result = run.round(number) / STAGES[stage].result[0]
    gone = [] if result.exists() else [result]
    noted = run.noted(number, stage)
    if noted is not None:
        changed = run.changed(number, stage)
        return gone + changed + _notes(run, noted, changed)
    tell_old(run.root)
    # Such a mark tells what is there no more, not what is another.
    return gone or (CandidateStore(result).missing() if stage == "generate" else [])


def _notes(run: RunFolder, noted: Iterable[str], changed: Iterable[Path]) -> list[Path]:
    """What the units of a stage took is told by notes of their own, not by its mark: the notes that are gone or harmed
    while the rest of their units is as it was. A unit without is not whole."""
    known = {(path.parent, path.stem) for path in changed}
    folders = [run.root / name for name in noted if name.endswith("/plan.json")]
    tables = [table for plan in folders if plan.is_file() for table in CandidateStore(plan.parent).missing()]
    return [table.with_suffix(".json") for table in tables if (table.parent, table.stem) not in known]


def require(
    run: RunFolder, number: int, stage: str, used: Callable[[Path], bool] = lambda path: True
) -> None:
    """Raises UserError unless a stage is done and what it left, as far as it is ``used``, is as it was. Main process
    only."""
    name, words = STAGES[stage].result
    place, again = run.round(number) / name, f"run mitune {stage} run={run.root} round={number}"
    if run.mark(number, stage) is None:
        raise UserError(f"{place} {words}; {again} first")
    if found := [path for path in harmed(run, number, stage) if path == place or used(path)]:
        raise UserError(f"{told(found)}; {again} to make it again")


def told(found: list[Path]) -> str:
    """Say which files are harmed, the first by name."""
    more = f", and {len(found) - 1} more" if found[1:] else ""
    return f"{found[0]} {'is not what was written there' if found[0].exists() else 'is gone'}{more}"


def clear(run: RunFolder, number: int, stage: str, found: Iterable[Path]) -> None:
    """Remove the harmed files of a stage that is about to make them again, and what is of one unit with them.

    Raises UserError where a folder has taken a file's place, or the disk refuses.
    """
    for path in found:
        if path == run.round(number) / STAGES[stage].result[0]:
            continue
        unit = path.name.startswith("unit-")
        for own in [path, *(path.parent.glob(f"{path.stem}.*") if unit else ())]:
            if own.is_dir() and not own.is_symlink():
                raise UserError(f"{own} is a folder, not the file that was written there; move it away")
            with user_errors(own), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                own.unlink()


def tell(store: CandidateStore, look: Look) -> None:
    """Say of units that are harmed that they are made again, and of those without digests that they are not compared.
    Main process only, before they are."""
    if found := sorted(look.harmed):
        more = f", and {len(found) - 1} more units" if found[1:] else ""
        first = store.table_path(found[0])
        warn(f"{first}, or what lies beside it, is not what was written there{more}: made again")
    if look.old:
        tell_old(store.folder)


def tell_old(folder: Path) -> None:
    """Say once of a folder that it is taken as it is."""
    place = folder.resolve()
    if not {place, *place.parents} & _told:
        _told.add(place)
        warn(f"{folder} was made before digests were kept; it is taken as it is")
