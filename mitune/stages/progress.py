"""How far a command is: bars on a terminal, elsewhere a line every so often. On standard error, main process only."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mitune.distributed import state
from mitune.errors import bounded, complain, printable
from mitune.pace import in_time, log_every


class Bar:
    """Counts what a stage has done. Other threads read it; what they show was noted here, so no device is waited for.

    >>> bar = Bar("generate", 8, done=2)
    >>> bar(4, {"mi": [1.0, 2.0, None, 3.0]})
    >>> bar.done, bar.figures
    (6, {'mi': 2.0})
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "candidates") -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self.figures: dict[str, float] = {}
        self.changed: Callable[[], None] = lambda: None
        self._sums: dict[str, tuple[float, int]] = {}
        self._began = self._last = time.monotonic()
        self._before = done

    def __call__(
        self, count: int = 1, columns: Mapping[str, Sequence[float | None]] | None = None, here: bool = True
    ) -> None:
        """Count ``count`` more as done. ``columns``: their scores, for the running means; ``here``: not done by an
        earlier command, so that the rate is this one's."""
        self.done += count
        self._before += 0 if here else count
        self._last = time.monotonic()
        for name, values in (columns or {}).items():
            told = [value for value in values if value is not None and math.isfinite(value)]
            total, number = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + math.fsum(told), number + len(told))
            if self._sums[name][1]:
                self.figures[name] = self._sums[name][0] / self._sums[name][1]
        self.changed()

    def show(self, figures: Mapping[str, float]) -> None:
        """Show these figures as they are, such as the loss that was just written down."""
        self.figures |= figures
        self.changed()

    @property
    def rate(self) -> float:
        """Tell how many are done a second, up to the last that was counted; 0 before the first."""
        return max(0, self.done - self._before) / max(self._last - self._began, 1e-9)

    @property
    def left(self) -> float:
        """Tell the seconds that are left, where there is a rate."""
        return max(0.0, (self.total - self.done) / self.rate - (time.monotonic() - self._last))

    @property
    def shown(self) -> str:
        """Say the figures."""
        said = ", ".join(
            f"{name} {value:.4g}" for name, value in list(self.figures.items())
        )  # written meanwhile
        others = self._sums and state().num_processes > 1
        return f"{said} (process {state().process_index})" if others else said

    @property
    def speed(self) -> str:
        """Say the rate."""
        if not self.rate:
            return ""
        return f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"

    def line(self) -> str:
        """Say all of it in one line."""
        parts = [f"{self.title} {self.done}/{self.total} {self.unit}"]
        if self.rate:
            parts += [self.speed, f"{in_time(self.left)} left"]
        else:
            parts += [f"{in_time(time.monotonic() - self._began)} so far"]
        return ", ".join(parts) + (f"; {self.shown}" if self.figures else "")


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0, unit: str = "candidates") -> Iterator[Bar]:
    """Yield the bar of what is at work, to be called with what was done; shown on the main process.

    Args:
        title: what is done.
        total: how many there are to do.
        done: those that an earlier command did.
        unit: what is counted.
    """
    bar = Bar(title, total, done, unit)
    if not state().is_main_process:
        yield bar
    elif _on_terminal():
        with _drawn() as display:
            task = display.add_task(title, total=total, completed=done, text=unit)

            def changed() -> None:
                text = f"{unit} {bar.speed}{f'; {bar.shown}' if bar.figures else ''}"
                display.update(task, completed=bar.done, text=printable(text))

            bar.changed = changed
            try:
                yield bar
            finally:
                display.remove_task(task)
    else:
        with _told(bar):
            yield bar


@contextlib.contextmanager
def overall(title: str, total: int, unit: str = "stages") -> Iterator[Callable[[], None]]:
    """Yield what counts a part of the whole command as done: one bar over those of its parts, or "stage 2 of 8"."""
    if state().is_main_process and _on_terminal():
        with _drawn() as display:
            task = display.add_task(title, total=total, text=unit, whole=True)
            yield lambda: display.advance(task)
        return
    _place[:] = [1, total]

    def finished() -> None:
        _place[0] += 1

    try:
        yield finished
    finally:
        _place.clear()


_place: list[int] = []  # which stage of how many is at work, where lines say it


def logs() -> bool:
    """Tell whether this process writes lines of progress: the main one, where nobody watches it on a terminal."""
    return state().is_main_process and log_every() > 0 and not _on_terminal()


def note(line: str) -> None:
    """Say what is done, as one line on standard error with the time, where :func:`logs`."""
    if logs():
        _write(line)


def _write(line: str) -> None:
    """One line in one write, as :func:`mitune.errors.complain`; no error, so it does not begin as one."""
    shown = bounded(printable(" ".join(line.split())))
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(f"mitune {time.strftime('%H:%M:%S')} {shown}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _told(bar: Bar) -> Iterator[None]:
    """A line every so often, by a thread of its own: also while one batch takes longer than that."""
    every = log_every()
    over = threading.Event()

    def tell() -> None:
        while not over.wait(every):
            stage = "stage {} of {}, ".format(*_place) if _place else ""
            _write(stage + bar.line())

    if not every:
        yield
        return
    thread = threading.Thread(target=tell, name="mitune-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- on a terminal -----------------------------------------------------------------------------------------------------


def _on_terminal() -> bool:
    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


class _Left(TimeRemainingColumn):
    """The time that a stage still takes; of all stages nobody knows it, as they count different things."""

    def render(self, task: Task) -> Text:
        return Text("") if task.fields.get("whole") else super().render(task)


_displays: list[Progress] = []  # the one at work: bars within bars are drawn together


@contextlib.contextmanager
def _drawn() -> Iterator[Progress]:
    if _displays:
        yield _displays[-1]
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        _Left(),
    )
    # What goes to a file goes there, and not above the bars.
    display = Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    )
    with display:
        _displays.append(display)
        try:
            yield display
        finally:
            _displays.pop()


# -- lines that stay ---------------------------------------------------------------------------------------------------


def say(message: RenderableType) -> None:
    """Print a line or table on the main process; text is never read as markup."""
    if state().is_main_process:
        wide = 200 if not sys.stdout.isatty() else None
        if isinstance(message, str):
            message = Text("\n".join(map(printable, message.split("\n"))))
        Console(width=wide, highlight=False).print(message)


def warn(message: str) -> None:
    """Print a warning line on standard error, main process only."""
    if state().is_main_process:
        complain(f"warning: {message}")


def warn_of_idle(todo: int, what: str, key: str) -> None:
    """Warn where there are more processes than things to do."""
    processes = state().num_processes
    if 0 < todo < processes:
        warn(
            f"{processes} processes for {todo} {what} to do: the others wait; fewer processes do, or a new run= folder"
            f" with a lower {key}"
        )
