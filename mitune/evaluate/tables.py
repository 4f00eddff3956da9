"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mitune.errors import printable
from mitune.evaluate.judged import Judged, caption

_COUNTS = ("n", "prompts")


def figure(value: float | None, sign: bool = False) -> str:
    """A figure as a person reads it: three decimals below ten, one above, a dash for null; ``sign``: with + or −."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 10 else 1
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def bounds(interval: list[float] | None, sign: bool = False) -> str:
    """Write ``[low, high]``, or a dash."""
    return "–" if interval is None else f"[{figure(interval[0], sign)}, {figure(interval[1], sign)}]"


def in_words(cell: Mapping[str, Any] | None, style: str = "+.2f", interval: bool = True) -> str:
    """Write ``{"mean", "ci95"}`` as ``+0.12 (+0.05 … +0.19)``, each number by ``style``; a dash where it is null."""
    if cell is None or cell["mean"] is None:
        return "–"
    text = f"{cell['mean']:{style}}"
    if interval and cell["ci95"] is not None:
        low, high = cell["ci95"]
        text += f" ({low:{style}} … {high:{style}})"
    return text.replace("-", "−")


def comparison_table(
    comparison: Mapping[str, Mapping[str, Any]], title: str = "", judged: Judged | None = None
) -> Table:
    """Rows of category × score: before, after, paired difference with its interval (:func:`categories.compare`).

    A difference is green where its whole interval is above zero, red where it is below. ``judged``: who judged, for the
    line below the table.
    """
    # Names and categories are the user's: as Text they are never read as rich markup.
    said = caption(judged or {}, comparison.get("all", {}).get("prompts"))
    table = Table(title=Text(title) if title else None, caption=Text(printable(said)) if said else None)
    for column in ("category", "score", "before", "after", "difference", "95 % interval", "pictures"):
        table.add_column(Text(column), justify="left" if column in ("category", "score") else "right")
    for category, row in comparison.items():
        names = [name for name in row if name not in _COUNTS]
        for name in names:
            cell = row[name]
            table.add_row(
                Text(category if name == names[0] else ""),
                Text(name),
                figure(cell["before"]),
                figure(cell["after"]),
                Text(figure(cell["difference"], sign=True), style=_style(cell["ci95"])),
                Text(bounds(cell["ci95"], sign=True)),
                str(row["n"]),
                end_section=name == names[-1],
            )
    return table


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Make a table of texts: the first column names the rows."""
    table = Table(title=Text(title) if title else None)
    for number, head in enumerate(heads):
        table.add_column(Text(printable(head)), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _style(interval: list[float] | None) -> str:
    """Colour of a difference whose interval leaves zero on one side."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "green" if interval[0] > 0 else "red"
