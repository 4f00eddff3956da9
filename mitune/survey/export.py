"""The answers and the tables as parquet and CSV files: without codes, clock times or anything else of a person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.files import write_table, write_text
from mitune.survey.counting import Person
from mitune.survey.design import Survey

_COLUMNS = {  # in their order: a table without rows has them too
    "answers": (
        "person", "group", "language", "verdict", "round", "kind", "category", "prompt", "shown", "chosen", "names",
        "seconds",
    ),
    "shares": ("table", "name", "group", "category", "share", "low", "high"),
}  # fmt: skip


def write_tables(
    folder: Path, survey: Survey, people: Sequence[Person], found: Mapping[str, Any]
) -> list[Path]:
    """Write ``answers`` and ``shares``, each as ``.parquet`` and ``.csv``; gives the files."""
    import pandas as pd
    import pyarrow as pa

    written = []
    for name, rows in (("answers", answer_rows(survey, people)), ("shares", share_rows(found))):
        table = pd.DataFrame(rows, columns=_COLUMNS[name])
        parquet, text = folder / f"{name}.parquet", folder / f"{name}.csv"
        write_table(parquet, pa.Table.from_pandas(table, preserve_index=False))
        write_text(text, table.map(_cell).to_csv(index=False))
        written += [parquet, text]
    return written


def _cell(value: Any) -> Any:
    """A cell of a CSV: a list with blanks, and nothing that a spreadsheet takes for a formula."""
    value = " ".join(value) if isinstance(value, (list, tuple)) else value
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value


def answer_rows(survey: Survey, people: Sequence[Person]) -> list[dict[str, Any]]:
    """Give a row an answer: the person's number here, what was shown in which order, what was chosen, the seconds."""
    rounds = {one.id: one for one in survey.rounds}
    rows = []
    for one in people:
        for name, answer in one.answers.items():
            shows = {own.id: own.shows for own in rounds[name].pictures}
            rows.append(
                {
                    "person": one.name,
                    "group": one.group,
                    "language": one.language,
                    "verdict": one.verdict,
                    "round": name,
                    "kind": rounds[name].kind,
                    "category": rounds[name].category,
                    "prompt": rounds[name].prompt,
                    "shown": list(answer.shown),
                    "chosen": list(answer.chosen),
                    "names": [own for picture in answer.chosen for own in shows.get(picture, ())],
                    "seconds": round(answer.seconds, 1),
                }
            )
    return rows


def share_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give a row a share of any table, with its interval."""
    rows = []

    def add(table: str, name: str, group: str, category: str, cell: Mapping[str, Any]) -> None:
        low, high = cell["ci95"] or (None, None)
        rows.append(
            {
                "table": table,
                "name": name,
                "group": group,
                "category": category,
                "share": cell["share"],
                "low": low,
                "high": high,
            }
        )

    for table in ("combinations", "marginals", "differences"):
        for row in found.get(table) or ():
            name = f"{row['name']} - {row['other']}" if "other" in row else row["name"]
            for group, cell in row["by_group"].items():
                add(table, name, group, "", cell)
    for row in found.get("categories") or ():
        for name, cell in row["by_name"].items():
            add("categories", name, "", row["category"], cell)
    return rows
