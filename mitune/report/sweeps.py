"""What the runs of a sweep reached: one table as Markdown, CSV and parquet, and a plot."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mitune.config import read_saved
from mitune.config.keys import keys
from mitune.errors import UserError, printable, short
from mitune.evaluate.drawings import as_png, explain, panels
from mitune.evaluate.judged import Judged, caption, in_markdown, sentence
from mitune.evaluate.tables import bounds, figure
from mitune.files import read_json, write_bytes, write_table, write_text
from mitune.hub.escape import literal, plain
from mitune.reading import is_folder
from mitune.runs import RunFolder
from mitune.stages.catalogue import ROUND

NOTE, SUMMARY = "sweep.json", "summary.json"
_ENDS = ("md", "csv", "parquet", "png")
_DEPTH = 3  # folders below the given one in which runs are looked for
_SIDES = ("before", "after", "gain")
_OWN = {"name", "run", "round", "rounds", "launch"}  # of a run itself, not of what it tries
_POOL = {"oracle_pool": "pool", "oracle_kept": "selected", "oracle_best": "best possible"}


def write_sweep(folder: Path) -> pd.DataFrame:
    """Write ``table.md``, ``.csv``, ``.parquet`` and ``.png`` into ``folder`` and print the table; gives it.

    Raises UserError where there is no run, or a summary that is none.
    """
    check_place(folder)
    table = collect(folder)
    scores = _scores(table)
    # First: it tells whose the others are.
    write_table(folder / "table.parquet", pa.Table.from_pandas(table, preserve_index=False))
    judged = _judged(folder)
    write_text(folder / "table.md", markdown(table) + "".join(f"\n{line}" for line in in_markdown(judged)))
    write_text(folder / "table.csv", table.map(_harmless).to_csv(index=False))
    if scores:
        write_bytes(folder / "table.png", plot(table, judged))
    console = Console(width=None if Console().is_terminal else 200, highlight=False)
    console.print(_printed(table))
    if judged:
        console.print(Text(printable(caption(judged))))
    console.print(Text(f"table: {(folder / 'table.md').resolve()}"))
    return table


def check_place(folder: Path) -> None:
    """Raises UserError if the folder holds a table that is none of a sweep: it would be replaced."""
    found = [path for path in (folder / f"table.{end}" for end in _ENDS) if os.path.lexists(path)]
    try:
        own = {"job", "round", "status"} <= set(pq.read_schema(folder / "table.parquet").names)
    except Exception:  # whatever a file that is none of ours brings
        own = False
    if found and not own:
        raise UserError(
            f"{found[0]} exists and was not written by mitune; move it away, or choose another folder"
        )


def collect(folder: Path) -> pd.DataFrame:
    """Collect a row for each round of each run below ``folder``: its job, what it tried, and what it reached.

    Columns: ``job``, a column for every swept key, ``round``, ``status`` (done, begun, or why it failed), ``loss``,
    ``oracle_pool``, ``oracle_kept``, ``oracle_best``, for every score of the evaluation ``SCORE_before``, ``_after``
    and ``_gain`` (their difference), each with ``_low`` and ``_high`` of its 95 % interval, ``forwards``, ``seconds``.
    """
    if not is_folder(folder):
        raise UserError(f"{folder} is no folder; give the folder of a sweep, or one that holds several runs")
    runs = _runs(folder)
    if not runs:
        raise UserError(f"{folder} holds no run (no {SUMMARY}); give the folder of a sweep")
    tried = _tried(runs)
    keys = list(dict.fromkeys(key for values in tried.values() for key in values))
    rows = []
    for run in runs:
        note = read_note(run)
        for entry in _rounds(run) or [{}]:
            row: dict[str, Any] = {"job": str(run.relative_to(folder))}
            row |= {key: tried[run].get(key) for key in keys}
            row |= {"round": entry.get("round"), "status": _status(note, entry)}
            try:
                row |= _figures(entry)
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{run} was not made by this version of mitune: its figures have no {error}"
                ) from error
            rows.append(row)
    table = pd.DataFrame(rows)
    table["round"] = table["round"].astype("Int64")
    for key in keys:
        table[key] = _numbers(table[key])
    return table


def _runs(folder: Path) -> list[Path]:
    found: set[Path] = set()
    for depth in range(1, _DEPTH + 1):
        for name in (NOTE, SUMMARY):
            found |= {path.parent for path in folder.glob("/".join(["*"] * depth + [name]))}
    return sorted(found)


def read_note(run: Path, says: Sequence[str] = ("code", "line")) -> dict[str, Any] | None:
    """Read how the job ended whose run this is; None where it was none of a sweep. Raises UserError for a note without
    what it ``says``."""
    path = run / NOTE
    if not path.is_file():
        return None
    note = read_json(path)
    if not isinstance(note, dict) or not isinstance(note.get("values"), dict) or not note.keys() >= {*says}:
        raise UserError(f"{path} is damaged; delete it, and the job is looked at anew, or move this run away")
    return note


def _tried(runs: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """What each run tried: what its sweep says, or else the keys in which the runs' configurations differ."""
    noted = {run: note["values"] for run in runs if (note := read_note(run)) is not None}
    if noted:
        return {run: noted.get(run, {}) for run in runs}
    configs = {run: _config(run) for run in runs}
    names = [name for name in keys() if name not in _OWN and not name.startswith(("sweep.", "export."))]
    differing = [
        name for name in names if len({str(config.get(name)) for config in configs.values() if config}) > 1
    ]
    return {run: {name: configs[run].get(name) for name in differing} for run in runs}


def _config(run: Path) -> dict[str, str]:
    """{key: value as text} of the configuration a run was made with; empty where there is none."""
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    found = read_saved(path)
    return {name: str(found.get(name)) for name in keys()}


def _rounds(run: Path) -> list[dict[str, Any]]:
    """The rounds of the summary; of a run without one, what its stages noted so far."""
    if (run / SUMMARY).is_file():
        summary = read_json(run / SUMMARY)
        if not isinstance(summary, dict) or not isinstance(summary.get("rounds"), list):
            raise UserError(f"{run / SUMMARY} is no summary of mitune run; move it away")
        return summary["rounds"]
    folder, found, number = RunFolder(run), [], 1
    while folder.mark(number, "generate") is not None:
        marks = {stage: folder.mark(number, stage) for stage in ROUND}
        found.append({"round": number} | {stage: mark for stage, mark in marks.items() if mark is not None})
        number += 1
    return found


def _judged(folder: Path) -> dict[str, dict[str, Any]]:
    """Who judged the scores of all runs; a score that had several judges names them all."""
    found: dict[str, dict[str, Any]] = {}
    for run in _runs(folder):
        for entry in _rounds(run):
            for name, own in (entry.get("evaluate", {}).get("judged_by") or {}).items():
                before = found.setdefault(name, dict(own))
                judges = dict.fromkeys(
                    [*str(before["judge"]).split(" and "), *str(own["judge"]).split(" and ")]
                )
                selected = before["selected"] or own["selected"]
                found[name] = {**before, "judge": " and ".join(judges), "selected": selected}
    return found


def _status(note: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> str:
    if note is not None and note["code"]:
        return f"failed: {note['line']}" if note["line"] else f"failed: exit code {note['code']}"
    return "done" if note is not None or "evaluate" in entry else "begun"


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"loss": entry.get("train", {}).get("loss")}
    row |= {name: entry.get("select", {}).get(name) for name in _POOL}
    if (evaluation := entry.get("evaluate")) is not None:
        for name, cell in evaluation["difference"]["all"].items():
            if not isinstance(cell, dict):
                continue
            for side in ("before", "after"):
                interval = evaluation[side]["all"]["ci95"].get(name)
                row |= _cells(f"{name}_{side}", cell[side], interval)
            row |= _cells(f"{name}_gain", cell["difference"], cell["ci95"])
    parts = [part for part in entry.values() if isinstance(part, dict)]
    row["forwards"] = sum(part.get("forwards", 0) for part in parts)
    row["seconds"] = round(sum(part.get("seconds", 0.0) for part in parts), 3)
    return row


def _cells(name: str, value: float | None, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _numbers(column: pd.Series) -> pd.Series:
    """A column of texts as numbers, where all of them are."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().eq(column.notna()).all() and numbers.notna().any() else column


def _scores(table: pd.DataFrame) -> list[str]:
    return [name.removesuffix("_gain") for name in table.columns if str(name).endswith("_gain")]


def _keys(table: pd.DataFrame) -> list[str]:
    columns = list(table.columns)
    return columns[1 : columns.index("round")]


def markdown(table: pd.DataFrame) -> str:
    """Write the table for people: a row a round, each score as before, after and gain with its 95 % interval."""
    header, rows = _shown(table)
    lines = [[_cell(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text in a Markdown cell: figures and plain words stay readable, of anything else no markup is left."""
    return text if re.fullmatch(r"[\w.,:=+−–… -]*|[+−–]?[\d.,]+ \[[\d.,+− ]+\]", text) else literal(text)


def _printed(table: pd.DataFrame) -> Table:
    header, rows = _shown(table)
    shown = Table(title="what the runs reached, on held-out prompts")
    for name in header:
        shown.add_column(Text(name))
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _shown(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells as texts on one line each."""
    keys, scores = _keys(table), _scores(table)
    pools = [name for name in _POOL if table[name].notna().any()]
    header = [*(keys or ["job"]), "round", *(f"{_POOL[name]} (oracle)" for name in pools)]
    header += [f"{name} {side}" for name in scores for side in _SIDES] + ["status"]
    rows = []
    for _, row in table.iterrows():
        cells = [_text(row[key]) for key in keys or ["job"]]
        cells += [_text(row["round"]), *(figure(_value(row[name])) for name in pools)]
        for name in scores:
            for side in _SIDES:
                value = _value(row[f"{name}_{side}"])
                low, high = (_value(row[f"{name}_{side}_{end}"]) for end in ("low", "high"))
                sign = side == "gain"
                interval = "" if low is None or high is None else f" {bounds([low, high], sign)}"
                cells.append(figure(value, sign) + interval)
        rows.append([*cells, plain(str(row["status"]), 120)])
    return [plain(name) for name in header], rows


def _value(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _text(value: Any) -> str:
    if value is None or (not isinstance(value, (list, dict)) and pd.isna(value)):
        return "–"
    return f"{value:g}" if isinstance(value, float) else plain(str(value), 80)


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value


def plot(table: pd.DataFrame, judged: Judged | None = None) -> bytes:
    """Draw, for every score, its gain in each round of each run, with the 95 % interval, as PNG; ``judged``: who says
    so."""
    scores, keys = _scores(table), _keys(table)
    done = table[table[[f"{name}_gain" for name in scores]].notna().any(axis=1)]
    names = []
    for _, row in done.iterrows():
        words = [f"{key}={_text(row[key])}" for key in keys] or [str(row["job"])]
        several = done["round"].nunique() > 1
        # A dollar sign would begin a formula.
        names.append(
            short(", ".join(words + ([f"round {row['round']}"] if several else [])), 60).replace("$", r"\$")
        )
    drawn, columns = panels(4 + 4 * len(scores), 2.1 + 0.32 * len(done), len(scores), sharey=True)
    places = list(range(len(done)))[::-1]
    for axes, name in zip(columns, scores, strict=True):
        gains = done[f"{name}_gain"].to_numpy(dtype=float)
        low = gains - done[f"{name}_gain_low"].to_numpy(dtype=float)
        high = done[f"{name}_gain_high"].to_numpy(dtype=float) - gains
        axes.errorbar(gains, places, xerr=[low, high], fmt="o", markersize=4, capsize=2, color="tab:blue")
        axes.axvline(0.0, color="grey", linewidth=0.8, linestyle="--")
        axes.set_title(textwrap.fill(f"gain in {name}", 34).replace("$", r"\$"), fontsize=10)
        axes.set_yticks(places, names)
    text = "What each run gained on held-out prompts: tuned model minus base model, with 95 % intervals over prompts."
    explain(drawn, f"{text} Right of the dashed line is a gain. {sentence(judged or {})}")
    return as_png(drawn)
