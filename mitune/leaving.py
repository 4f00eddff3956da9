"""Leaving before the work is done: what a scheduler's signals do, and the exit codes that it can go by.

SIGTERM and SIGUSR1 ask a command to leave. It gives up the batch in hand and saves those of its unit that are finished
(a race, a search and a score of given pictures give up the unit), or, while it trains, ends the step and writes a
checkpoint; of several processes all leave together. Then it exits with
``TEMPORARY`` (75, EX_TEMPFAIL of sysexits.h): nothing is lost, the same command goes on from there.

    code     meaning
    0        done
    2        a mistake in the input, or a disk that refuses: running it again as it is does not help
    75       told to leave: run it again
    130      interrupted from the keyboard
    1        anything else: a fault of the program, or a process that was lost (killed, out of memory, a dead node)

What a batch script can rely on:

- One process (``mitune …``), or one process a task without a launcher (``srun mitune …`` with RANK=$SLURM_PROCID,
  WORLD_SIZE=$SLURM_NTASKS, LOCAL_RANK=$SLURM_LOCALID, MASTER_ADDR and MASTER_PORT set in each task): the codes above
  are seen as they are, as srun gives the highest of its tasks. If one process fails, the others end with its code.
- ``accelerate launch`` and ``torchrun`` exit with 1 whatever their children said. They hand SIGTERM on to the
  children and kill them 30 s later; SIGUSR1 ends the launcher itself at once (torchrun's ``--signals-to-handle``
  changes that, accelerate has no such option). So ask for SIGTERM (``#SBATCH --signal=TERM@120``) and go by the file
  ``.requeue`` in the run folder (beside a score's table: in the folder of its name): it is there just when all
  processes of the last command in that folder left with 75, and not when one was lost and the launcher sent the others
  away. The next command removes it when it begins.
- A signal in the first second, while Python starts, ends the process the plain way (143 or 138). Nothing was begun.
- A process that is lost is noticed at once where its connections break, else after ``MITUNE_PATIENCE`` seconds of
  silence (environment, default 300): the others end with 1, and the same command goes on. SLURM requeues a job whose
  node failed by itself (``--requeue``).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

TEMPORARY = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Leave(BaseException):
    """Ends the command with exit code ``code``; ``line``: what to say of it, None where another process does.

    Not an ``Exception``: nobody who catches errors means this.
    """

    def __init__(self, code: int, line: str | None = None) -> None:
        super().__init__(line or f"exit code {code}")
        self.code, self.line = code, line


class _Asked:
    """Keeps whether this process was asked to leave, and whether it may do so at once."""

    def __init__(self) -> None:
        self.leave: Leave | None = None
        self.raised = False
        self.deferred = 0


_asked = _Asked()


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Listen for the time of the block: a signal raises :class:`Leave` in the main thread, or waits (``deferred``).

    In another thread than the main one nothing is listened to: Python does not allow it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _asked
    _asked = _Asked()
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _asked = _Asked()


def _on_signal(number: int, frame: Any) -> None:
    if _asked.leave is None:
        name = signal.Signals(number).name
        _asked.leave = Leave(TEMPORARY, f"told to leave by {name}; the same command goes on from here")
    check()


def asked() -> bool:
    """Tell whether this process was asked to leave."""
    return _asked.leave is not None


def check() -> None:
    """Raises :class:`Leave`, once, if this process was asked to leave and may do so now."""
    leave = _asked.leave
    if leave is None or _asked.raised or (_asked.deferred and leave.code == TEMPORARY):
        return
    _asked.raised = True
    raise leave


def end(leave: Leave) -> None:
    """Another process has ended: so does this one. For any thread; the main one is interrupted.

    What asks for an end at once goes before what can wait.
    """
    if _asked.leave is None or (_asked.leave.code == TEMPORARY and not _asked.raised):
        _asked.leave = leave
    if signal.getsignal(SIGNALS[-1]) is _on_signal:
        import _thread

        _thread.interrupt_main(SIGNALS[-1])


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """For the time of the block a signal only makes ``asked`` true: the block ends by itself, at a good moment."""
    _asked.deferred += 1
    try:
        yield
    finally:
        _asked.deferred -= 1
