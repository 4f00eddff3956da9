"""Tables of the documentation that come from the catalogues: ``python -m benchmarks.docs`` writes them again.

A file marks the place of a table by two lines, and what stands between them is replaced:

    <!-- table: stages -->
    <!-- end of table -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mitune.information.catalogue import Score
from mitune.parts import Part
from mitune.scores import SCORES

ROOT = Path(__file__).resolve().parents[1]
FILES = ("README.md",)
_PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(
    catalogue: Mapping[str, Part], what: str = "", columns: Mapping[str, Callable[[Any], str]] | None = None
) -> str:
    """Give a Markdown table with a row for each part: its name, its meaning, and what ``columns`` say of it.

    ``what``: the heading of the names; ``columns``: heading -> what is said of a part.
    """
    more = dict(columns or {})
    rows = [[what, "meaning", *more], *([["---"] * (2 + len(more))])]
    for name, part in catalogue.items():
        rows.append([f"`{name}`", part.meaning, *(say(part) for say in more.values())])
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _rows(score: Score) -> str:
    """How many network rows a candidate costs by default, in words."""
    return str(score.rows(score.own({})) or "none")


TABLES: dict[str, Callable[[], str]] = {
    "scores": lambda: table(
        SCORES, "score", {"measured on": lambda score: f"the {score.where}", "forwards by default": _rows}
    ),
}


def written(text: str) -> str:
    """Give ``text`` with every table in it as the catalogues say now. KeyError for a table that there is not."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def main() -> None:
    """Write the files again."""
    for name in FILES:
        path = ROOT / name
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
