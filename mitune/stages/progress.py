"""Progress on a terminal: bars with rate and time left on the main process, nothing at all anywhere else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mitune.distributed import state
from mitune.errors import complain, printable


@contextlib.contextmanager
def progress(
    title: str, total: int, done: int = 0, unit: str = "candidates"
) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``. Shown on the main process when standard error is a terminal."""
    console = Console(stderr=True)
    visible = state().is_main_process and console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not visible, transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, unit=unit, rate="")

        def advance(count: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=count, rate=f"({speed:.1f}/s)" if speed else "")

        yield advance


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
