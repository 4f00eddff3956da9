"""The run folder: where a run keeps its rounds, remembers its configuration and marks the stages that are done."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune import digests
from mitune.config import flatten, read_saved, saved_text
from mitune.config.keys import keys
from mitune.distributed import all_leave, broadcast, state, visible, wait
from mitune.errors import UserError, listed
from mitune.files import (
    LOCK,
    PARTIAL,
    PLACE,
    clean_partial,
    hold,
    read_json,
    user_errors,
    write_bytes,
    write_json,
    write_text,
)
from mitune.leaving import TEMPORARY, Leave
from mitune.reading import home, is_file
from mitune.stages.catalogue import ROUND, STAGES, begun, covers

_ROUND = re.compile(r"round-(\d+)")
REQUEUE = ".requeue"  # there just when the last command in the folder was told to leave (mitune.leaving)
_SEALS = (digests.FILES, digests.OWN)

# What each node may spell its own way: whether it means the same is seen by what lies there.
_PLACES = {"run", "model.device"}


def dependencies(config: DictConfig, stage: str) -> dict[str, Any]:
    """{key: value} of every key that what ``stage`` makes depends on."""
    return {name: value for name, value in flatten(config).items() if covers(STAGES[stage].binds, name)}


# What commands write in their folder, after its config.yaml: where that is not there, it is somebody else's. What
# sample writes is looked after by itself: a folder of pictures may well lie where a run is to be.
_WRITTEN = tuple(pattern for stage in STAGES.values() for pattern in stage.writes)


class RunFolder:
    """Keeps what a run leaves; ``round(n)`` is the folder of a round.

    >>> run = RunFolder(folder)
    >>> run.mark(1, "select"), run.write_mark(1, "select", {"kept": 3}), run.mark(1, "select")
    (None, {'kept': 3}, {'kept': 3})
    """

    def __init__(self, root: str | Path) -> None:
        self.root = home(root)

    def round(self, number: int) -> Path:
        return self.root / f"round-{number}"

    def prepare(self, number: int) -> None:
        """Make the folder of a round and remove what killed processes left half-written in it (main process only)."""
        folder = self.round(number)
        with user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / "done", folder / "pictures", folder / "checkpoints"):
            clean_partial(place)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second command out of the folder while one is at work. A killed process lets go by itself.

        Main process only. A command that is told to leave leaves ``REQUEUE``.
        """
        with user_errors(self.root / LOCK):
            self.root.mkdir(parents=True, exist_ok=True)
        refusal = (
            f"another mitune is at work in {self.root}; wait for it, or choose another {PLACE.get()}= folder"
        )
        with hold(self.root, refusal):
            clean_partial(self.root)  # nobody else is at work here: what is half-written was left by a kill
            with user_errors(self.root):
                (self.root / REQUEUE).unlink(missing_ok=True)
            try:
                yield
            except Leave as leave:
                if leave.code == TEMPORARY and all_leave():
                    with contextlib.suppress(OSError):
                        (self.root / REQUEUE).touch()
                raise

    def check_peers(self, config: DictConfig) -> None:
        """Check that all processes were started alike and see one folder; on every process, in the lock of the first.

        Raises UserError on one that has other settings, or whose ``root`` is another node's own folder.
        """
        if state().num_processes == 1:
            return
        rank, own = state().process_index, json.loads(json.dumps(flatten(config)))
        first: dict[str, Any] = broadcast(lambda: {"settings": flatten(config), "host": platform.node()})
        different = sorted(
            name
            for name, value in first["settings"].items()
            if name not in _PLACES and value != own.get(name)
        )
        if different:
            shown = ", ".join(
                f"{name} ({first['settings'][name]} there, {own.get(name)} here)" for name in different
            )
            raise UserError(
                f"process {rank} on {platform.node()} was started with other settings than process 0 on"
                f" {first['host']}: {shown}; start all with the same command"
            )
        name = f"{PARTIAL}here-{uuid.uuid4().hex}"  # a name that no node has looked for before: nothing is cached
        if rank == 0:
            with user_errors(self.root):
                (self.root / name).touch()
        name = broadcast(lambda: name)
        if not visible(self.root / name):
            raise UserError(
                f"{self.root} of process {rank} on {platform.node()} is not the folder that process 0 works in on"
                f" {first['host']}: give run= a folder that all nodes share"
            )
        wait()
        if rank == 0:
            (self.root / name).unlink(missing_ok=True)

    def trained(self) -> list[int]:
        """Find the rounds whose adapter is done, ascending."""
        found = (match for path in self.root.glob("round-*") if (match := _ROUND.fullmatch(path.name)))
        rounds = sorted(int(match[1]) for match in found)
        return [number for number in rounds if self.mark(number, "train") is not None]

    def remember(self, config: DictConfig, place: str = "run") -> None:
        """Write ``config.yaml``, or compare with the one there; ``place``: the key that chooses another folder.

        Raises UserError naming every key that differs and that a stage already begun depends on. Keys of later stages,
        more rounds, another device or batch are taken over. Raises it too where something would be replaced that no
        command wrote.
        """
        path = self.root / "config.yaml"
        if not path.exists():
            self._check_free()
        else:
            changed = self._changed(path, config)
            if changed:
                shown = listed(
                    [f"{name} ({old} there, {new} now)" for name, (old, new) in changed.items()],
                    most=8,
                    length=200,
                    quote="",
                )
                raise UserError(
                    f"{self.root} was made with another configuration: {shown}; choose another {place}=, or set them"
                    " back"
                )
        write_text(path, saved_text(config))

    @contextlib.contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Put ``config.yaml`` back as it was where what is done inside is refused before it has begun anything: later
        commands do not start from words that were refused. Main process only."""
        path = self.root / "config.yaml"
        before, signs = (path.read_bytes() if is_file(path) else None), set(begun(self.root))
        try:
            yield
        except UserError:
            if before is not None and set(begun(self.root)) == signs:
                with contextlib.suppress(OSError):
                    write_bytes(path, before)
            raise

    def _check_free(self) -> None:
        """Every command writes ``config.yaml`` first. Raises UserError where what it would write is there without."""
        found = sorted(path for name in _WRITTEN for path in self.root.glob(name))
        if found:
            raise UserError(
                f"{found[0]} is there, but no config.yaml beside it: it was not written by mitune; move it away, or"
                " choose another folder"
            )

    def _changed(self, path: Path, config: DictConfig) -> dict[str, tuple[Any, Any]]:
        old = read_saved(path)
        now = flatten(config)
        fixed = self._fixed(config)
        changed = {}
        for name, key in keys().items():
            # A key that came with a later version had its default's effect.
            before = old.get(name, key.default)
            if before != now[name] and any(covers(binds, name) for binds in fixed):
                changed[name] = (before, now[name])
        return changed

    def _fixed(self, config: DictConfig) -> list[str]:
        """What stages already begun depend on, of each what :func:`covers` takes."""
        begun = [stage for stage in STAGES.values() if any(any(self.root.glob(sign)) for sign in stage.begun)]
        fixed = [stage.binds for stage in begun]
        some = (config.generate.keep or 0) < config.generate.candidates or config.generate.passes is not None
        if STAGES["generate"] in begun and some:
            fixed.append(
                STAGES["select"].binds
            )  # which latents were kept, and who was scored, follows from what selects
        return fixed

    def mark_path(self, number: int, stage: str) -> Path:
        """The file that says that a stage is done."""
        return self.round(number) / "done" / f"{stage}.json"

    def mark(self, number: int, stage: str) -> dict[str, Any] | None:
        """Read the figures of a stage that is done, or None. Raises UserError for a mark that is damaged."""
        whole = self._mark(number, stage)
        return whole and {name: value for name, value in whole.items() if name not in _SEALS}

    def _mark(self, number: int, stage: str) -> dict[str, Any] | None:
        path = self.mark_path(number, stage)
        if not path.exists():
            return None
        whole = read_json(path)
        outside = digests.intact(whole) and any(
            name.startswith("/") or ".." in name.split("/") for name in whole.get(digests.FILES, {})
        )
        if not digests.intact(whole) or outside:
            raise UserError(f"{path} is damaged; delete it and run the {stage} stage again")
        return whole  # type: ignore[no-any-return]

    def noted(self, number: int, stage: str) -> dict[str, str] | None:
        """{file below ``root``: digest} of what a stage left; None where it is not done, or its mark is of a version
        that noted none."""
        return (self._mark(number, stage) or {}).get(digests.FILES)

    def changed(self, number: int, stage: str) -> list[Path]:
        """List the files of a stage that are gone, or not as its mark says."""
        return digests.changed(self.noted(number, stage) or {}, self.root)

    def intact(self) -> bool:
        """Tell whether all that finished stages left is as their marks say, and the marks as they were written."""
        marks = [
            (_ROUND.fullmatch(path.parent.parent.name), path)
            for path in self.root.glob("round-*/done/*.json")
        ]
        try:
            return not any(match and self.changed(int(match[1]), path.stem) for match, path in marks)
        except UserError:
            return False

    def write_mark(
        self,
        number: int,
        stage: str,
        figures: dict[str, Any],
        files: Iterable[Path] = (),
        known: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Say that a stage is done, and what it left below ``root``. Written last: everything it speaks of is on disk.
        Gives the figures that count: the first ones, where the same was made again.

        Args:
            number, stage: of the round, and which.
            figures: what the stage found.
            files: what it left, to be read for their digests.
            known: {path below ``root``: digest} of what it left besides, as that was noted when it was written.

        Raises UserError where other files came out than those that a later stage has used.
        """
        before, now = self.noted(number, stage), {**(known or {}), **digests.note(files, self.root)}
        if before is not None:
            different = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
            if not different:
                return self.mark(number, stage) or figures
            if users := self._users(number, stage):
                raise UserError(
                    f"{self.root / different[0]} came out different from what it was (by another machine, library or"
                    f" number of processes?), and {users[0]} rests on that; put the old file back, choose another"
                    f" run= folder, or delete {users[0].parent} to make again what follows"
                )
        mark = {name: value for name, value in figures.items() if name not in _SEALS}
        write_json(self.mark_path(number, stage), digests.seal({**mark, digests.FILES: now}))
        return figures

    def _users(self, number: int, stage: str) -> list[Path]:
        """The marks of stages that went on from what a stage left, the next one first."""
        after = ROUND[ROUND.index(stage) + 1 :] if stage in ROUND else ()
        paths = [self.mark_path(number, other) for other in after]
        if after:
            paths.append(self.mark_path(number + 1, "generate"))
        return [path for path in paths if path.exists()]
