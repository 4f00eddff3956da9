"""The processes of ``accelerate launch``, or the one process there is: what they tell each other.

Gradients go by collectives. All else goes through the store in which the processes found each other (a small TCP
server on the first node), as a collective has a time limit and does not say why a process fails to come: here one may
wait for hours while another works, and knows within seconds that it has ended. No process looks at another's clock,
and what the first process sees in the shared folder counts for all, as file systems show changes to other nodes late.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from mitune import leaving
from mitune.errors import UserError, complain, first_line
from mitune.leaving import TEMPORARY, Leave

T = TypeVar("T")
SHOWN = 20.0  # seconds that a shared folder may take to show a new file to another node
GRACE = 30.0  # seconds for leaving once another process has ended
_LOST = "another process was lost (killed, out of memory, or its node is gone); the same command goes on from here"


@functools.lru_cache(maxsize=1)
def state() -> PartialState:
    """Tell this process its place among its peers; starts the process group on first use.

    The first ``PartialState`` of a process decides for all later ones: accelerate sees the peers of a process
    without accelerator only when it is told that the CPU is meant. Raises UserError if the peers do not come.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    try:
        return PartialState(cpu=asked or not torch.accelerator.is_available())
    except torch.distributed.DistError as error:
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        shown = ", ".join(f"{name}={os.environ.get(name, '')}" for name in names)
        raise UserError(
            f"the processes did not find each other ({shown}; {first_line(error)}); start as many as WORLD_SIZE says,"
            " with one MASTER_ADDR and a free MASTER_PORT"
        ) from error


@functools.lru_cache(maxsize=1)
def _peers() -> Peers | None:
    """The other processes, if there are any."""
    own = state()
    if own.num_processes == 1:
        return None
    store = torch.distributed.distributed_c10d._get_default_store()
    return Peers(store, own.process_index, own.num_processes)


def wait() -> None:
    """Until every process is here, however long that takes. Raises Leave when one of them has ended."""
    peers = _peers()
    if peers is not None:
        peers.wait()


def broadcast(make: Callable[[], T]) -> T:
    """Call ``make`` on the first process alone and give its value, which JSON can hold, to every process."""
    peers = _peers()
    return make() if peers is None else peers.broadcast(make)


def visible(path: Path) -> bool:
    """Tell whether ``path`` is there. Others than the first process look for a while: the first one made it, but a
    shared folder may take its time to show that to another node."""
    peers = _peers()
    if peers is not None and peers.rank != 0:
        until = time.monotonic() + min(SHOWN, peers.patience)
        while not path.exists() and time.monotonic() < until:
            leaving.check()
            time.sleep(0.5)
    return path.exists()


def work_queue(items: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Yield (place, item) of the items that fall to this process: each takes the next when it is free, so that all
    finish together, whatever an item costs and however fast a machine is. ``items`` are the same everywhere.
    """
    peers = _peers()
    places = range(len(items)) if peers is None else peers.work_queue(len(items))
    for place in places:
        leaving.check()
        yield place, items[place]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Bound the time in which the processes of a command work together.

    An error ends them all: the others raise Leave with the exit code it stands for, and say nothing more of it.
    """
    try:
        _peers()
        wait()
        yield
        wait()  # nobody goes while another still works
    except BaseException as error:
        first = _abandon(error)
        stop(patient=False)
        if first is not None:
            raise first from error
        raise
    stop()


@contextlib.contextmanager
def said_first() -> Iterator[None]:
    """Tell the others of the first process's error before it cleans away what they work on: they would report that."""
    try:
        yield
    except BaseException as error:
        if state().is_main_process:
            _abandon(error)
        raise


def _abandon(error: BaseException) -> Leave | None:
    """Tell the others that this process ends; gives the Leave of one that ended before, which this one follows."""
    peers = _peers() if _peers.cache_info().currsize else None
    if peers is None:
        return None
    if isinstance(error, Leave):
        return peers.abandon(error.code, error.line)
    code = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    return peers.abandon(code, first_line(error))


def all_leave() -> bool:
    """Tell whether all processes end well together; False where one was lost, and a launcher sent the others away.

    For the first process, once it was told to leave."""
    peers = _peers()
    return peers is None or peers.all_leave()


def stop(patient: bool = True) -> None:
    """Leave the process group, so that the launcher sees a clean end. ``patient``: everybody is known to come."""
    peers = _peers() if _peers.cache_info().currsize else None
    if peers is not None:
        peers.depart(GRACE if patient else 5.0)
        _peers.cache_clear()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Guard a collective: Leave where it fails because a process has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what gloo raises when a connection breaks has no type of its own
        peers = _peers()
        raise (Leave(1, _LOST) if peers is None else peers.lost()) from error


def _patience(text: str) -> float:
    """Seconds of silence after which a process is given up. Raises UserError for a text that says none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"MITUNE_PATIENCE={text}: give seconds, a number above 0, or unset it")
    return seconds


class Peers:
    """Reaches the other processes by a store that all of them share.

    Each counts up a number of its own about once a second; the first process watches all of them, the others watch
    the first. Silence is counted in own beats, so that a job that was suspended as a whole finds nobody dead.
    """

    def __init__(self, store: Any, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.patience = _patience(os.environ.get("MITUNE_PATIENCE", "300"))
        # Connections of its own: a blocking call of torch on the first one would keep all others waiting.
        self._store = torch.distributed.PrefixStore("mitune", store.clone())
        self._beats = torch.distributed.PrefixStore("mitune", store.clone())
        self._number = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mitune-peers", daemon=True)
        self._thread.start()

    # -- working together ------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until all have called it as often as this one."""
        key = f"wait/{next(self._number)}"
        with self._reaching():
            if self._store.add(key, 1) == self.ranks:
                self._store.set(f"{key}/all", "1")
            self._until(f"{key}/all")

    def broadcast(self, make: Callable[[], T]) -> T:
        """Give the first process's value to all."""
        key = f"broadcast/{next(self._number)}"
        if self.rank == 0:
            text = json.dumps(make())
            with self._reaching():
                self._store.set(key, text)
        else:
            with self._reaching():
                self._until(key)
                text = self._store.get(key).decode()
        return json.loads(text)  # type: ignore[no-any-return]

    def work_queue(self, count: int) -> Iterator[int]:
        """Yield the numbers below ``count`` that fall to this process."""
        key = f"queue/{next(self._number)}"
        while True:
            with self._reaching():
                place = self._store.add(key, 1) - 1
            if place >= count:
                return
            yield place

    def _until(self, key: str) -> None:
        pause = 0.001
        while not self._store.check([key]):
            leaving.check()
            time.sleep(pause)
            # Slowly: what is waited for in a training takes milliseconds, and all wait for the one that looks last.
            pause = min(1.1 * pause, 0.1 + self.ranks / 1000)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except torch.distributed.DistError as error:
            raise self.lost() from error

    # -- ending together -------------------------------------------------------------------------------------

    def abandon(self, code: int, line: str | None) -> Leave | None:
        """Say that this process ends; the Leave of the one that said so first, None if it is this one."""
        own = {"rank": self.rank, "host": platform.node(), "code": code, "line": line}
        try:
            self._store.add("leaving", self.rank > 0)
            before = json.loads(self._store.compare_set("end", "", json.dumps(own)))
        except torch.distributed.DistError:
            return None
        return None if before["rank"] == self.rank else self._follow(before)

    def _follow(self, first: dict[str, Any]) -> Leave:
        """The Leave of those who follow the ``first`` one. Said again only once a node, where that one is another's."""
        elsewhere = first["host"] != platform.node() and os.environ.get("LOCAL_RANK", "0") == "0"
        said = first["line"] and elsewhere
        return Leave(
            first["code"], f"process {first['rank']} on {first['host']}: {first['line']}" if said else None
        )

    def all_leave(self) -> bool:
        """Tell whether all others say within seconds that they end, too (first process only)."""
        until = time.monotonic() + min(10.0, self.patience)
        with contextlib.suppress(torch.distributed.DistError):
            while self._store.add("leaving", 0) < self.ranks - 1:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
            return True
        return False

    def lost(self) -> Leave:
        """Make the error that ends this process when it cannot reach another: that one's own reason, if it gave one."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            leaving.check()
            try:
                if self._store.check(["end"]):
                    return self._follow(json.loads(self._store.get("end")))
            except torch.distributed.DistError:
                break
            time.sleep(0.1)
        return Leave(1, _LOST)

    def depart(self, patience: float) -> None:
        """Leave; the last call. The first process stays until the others are gone, as it may have the store."""
        self._over.set()
        self._thread.join(timeout=GRACE)
        until = time.monotonic() + patience
        with contextlib.suppress(torch.distributed.DistError):
            gone = self._store.add("left", 1)
            while self.rank == 0 and gone < self.ranks and time.monotonic() < until:
                if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    break  # the launcher has it
                time.sleep(0.02)
                gone = self._store.add("left", 0)

    # -- the thread ------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        period = 1 + self.ranks / 64
        watched = list(range(1, self.ranks)) if self.rank == 0 else [0]
        beats: dict[int, bytes] = {}
        silence = dict.fromkeys(watched, 0.0)
        for number in itertools.count(1):
            try:
                self._beats.set(f"beat/{self.rank}", str(number))
                if self._over.wait(period):
                    return
                if self._beats.check(["end"]):
                    first = json.loads(self._beats.get("end"))
                    if first["rank"] != self.rank:
                        self._end(self._follow(first))
                    return
                there = [rank for rank in watched if rank in beats or self._beats.check([f"beat/{rank}"])]
                found = dict(
                    zip(there, self._beats.multi_get([f"beat/{rank}" for rank in there]), strict=True)
                )
            except torch.distributed.DistError:
                if not leaving.asked():  # on the way out anyway: the launcher may be gone already
                    self._end(Leave(1, _LOST))
                return
            for rank in watched:
                silence[rank] = silence[rank] + period if beats.get(rank) == found.get(rank) else 0.0
            beats |= found
            silent = [rank for rank in watched if silence[rank] >= self.patience]
            if silent:
                line = (
                    f"process {silent[0]} has not been heard of for {self.patience:g} s; the same command goes on"
                    " from here"
                )
                self._end(self.abandon(1, line) or Leave(1, line))
                return

    def _end(self, leave: Leave) -> None:
        """End the main thread; where it hangs in a call that does not return, end the process."""
        leaving.end(leave)
        if not self._over.wait(self.patience if leave.code == TEMPORARY else GRACE):
            if leave.line:
                complain(leave.line)
            os._exit(leave.code)
