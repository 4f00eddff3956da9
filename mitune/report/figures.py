"""The tables of a report, as its template takes them: a column that would say nothing is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mitune.evaluate.judged import FEW, few, judge_in_words
from mitune.evaluate.tables import figure

EACH = 100  # rows of the table of prompts, from each end
_COUNTS = ("n", "prompts")


def duration(seconds: float | None) -> str:
    """Write seconds as a person says them: ``7.5 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(value: float | None) -> str:
    """Write a whole number with its thousands set apart by narrow spaces."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u202f")


def selection_gain(select: Mapping[str, Any]) -> float | None:
    """Compute the share of the possible lift that selection reached: (kept − pool) / (best − pool)."""
    pool, kept, best = (select.get(f"oracle_{name}") for name in ("pool", "kept", "best"))
    if pool is None or kept is None or best is None or best <= pool:
        return None
    return (kept - pool) / (best - pool)


def score_tables(evaluation: Mapping[str, Any], leading: Sequence[str]) -> list[dict[str, Any]]:
    """Make a table a score: rows by category with before, after, difference and its place on a common scale, who
    judged, and which columns have anything to say. The ``leading`` scores come first.
    """
    before, after = evaluation.get("before") or {}, evaluation.get("after") or {}
    difference, judged = evaluation.get("difference") or {}, evaluation.get("judged_by") or {}
    everything = before.get("all") or after.get("all") or {}
    names = [
        name for name, value in everything.items() if name not in _COUNTS and isinstance(value, (int, float))
    ]
    tables = []
    for name in dict.fromkeys([*(name for name in leading if name in names), *names]):
        categories = list(dict.fromkeys([*before, *after]))
        if len(categories) == 2:  # the only one says the same as all of them
            categories = categories[:1]
        rows = _placed([_row(name, category, before, after, difference) for category in categories])
        entry = judged.get(name)
        tables.append(
            {
                "score": name,
                "rows": rows,
                "has": {key for row in rows for key, value in row.items() if value is not None},
                "judge": judge_in_words(entry) if entry else None,
                "itself": bool(entry and entry.get("itself")),
                "selected": bool(entry and entry.get("selected")),
                "few": _few([row["prompts"] for row in rows]),
            }
        )
    return tables


def _few(prompts: Sequence[int | None]) -> str:
    """What few prompts mean for the intervals of a table; the first number is of all categories together."""
    if said := few(prompts[0]):
        return said
    return (
        f"categories of fewer than {FEW} prompts: their intervals are wide" if any(map(few, prompts)) else ""
    )


def _row(name: str, category: str, *sides: Mapping[str, Any]) -> dict[str, Any]:
    """One category of a score, of what was found before, after, and as the difference."""
    old, new, difference = (side.get(category) or {} for side in sides)
    change = difference.get(name) or {}
    value = change.get("difference")
    if value is None and old.get(name) is not None and new.get(name) is not None:
        value = new[name] - old[name]
    return {
        "category": category,
        "n": (new or old).get("n"),
        "prompts": (new or old).get("prompts"),
        "before": old.get(name),
        "before_ci95": _interval(old, name),
        "after": new.get(name),
        "after_ci95": _interval(new, name),
        "difference": value,
        "ci95": change.get("ci95"),
        "verdict": _verdict(change.get("ci95")),
    }


def _interval(row: Mapping[str, Any], name: str) -> list[float] | None:
    return (row.get("ci95") or {}).get(name) or row.get(f"{name}_ci95")


def _verdict(interval: list[float] | None) -> str:
    """ "up" or "down" where the whole interval is on one side of zero, else "level"; "" without an
    interval."""
    if interval is None:
        return ""
    return "up" if interval[0] > 0 else "down" if interval[1] < 0 else "level"


def _placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ``bar`` = (low, value, high) in percent of a common axis with zero at 50, for the small interval plot."""
    reach = max((abs(bound) for row in rows if row["ci95"] for bound in row["ci95"]), default=0.0)
    for row in rows:
        points = [row["ci95"][0], row["difference"], row["ci95"][1]] if row["ci95"] and reach > 0 else None
        row["bar"] = points and [round(50 + 47 * point / reach, 2) for point in points]
    return rows


def leading_scores(evaluation: Mapping[str, Any], chosen: str | None) -> list[str]:
    """Order the scores by how much they tell: the oracle, then who judged from outside and did not select, then who did
    not select, then what selected, then the rest."""
    judged = evaluation.get("judged_by") or {}
    free = [name for name, entry in judged.items() if not entry.get("selected")]
    outside = [name for name in free if not judged[name].get("itself")]
    selecting = [name for name, entry in judged.items() if entry.get("selected")]
    known = ["oracle", "exact", *outside, *([chosen] if chosen and not judged else []), *free, *selecting]
    return list(dict.fromkeys([*known, *([chosen] if chosen else []), "mi"]))


def headline(rounds: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Give the last evaluated round's leading figures, the most telling score first."""
    evaluated = [entry for entry in rounds if entry["tables"]]
    if not evaluated:
        return None
    last = evaluated[-1]
    return {
        "round": last["number"],
        "scores": [(table, table["rows"][0]) for table in last["tables"][:4]],
        "diversity": last["diversity"],
        "watch": last.get("watch"),
    }


def table_of(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Make a plain table of texts, without the columns in which every cell is a dash or empty; the first column names
    the rows."""
    kept = [
        place for place in range(len(heads)) if place == 0 or any(row[place] not in ("", "–") for row in rows)
    ]
    return {
        "title": title,
        "heads": [heads[place] for place in kept],
        "rows": [[row[place] for place in kept] for row in rows],
    }


def round_tables(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make the tables of what each round generated and selected, trained, and what it cost."""
    made, cost = [], []
    for entry in rounds:
        generate, select, train = (entry[stage] for stage in ("generate", "select", "train"))
        real, gain = select["real"], entry["selection_gain"]
        kept = count(select["kept"])
        if real:
            kept += f" and {count(real.get('pictures'))} real of {count(real.get('looked_at'))}"
        made.append([
            str(entry["number"]), count(generate["prompts"]), count(generate["candidates"]), str(select["by"] or "–"),
            count(select["k"]), kept, *(figure(select[f"oracle_{name}"]) for name in ("pool", "kept", "best")),
            "–" if gain is None else f"{100 * gain:.0f} %",
        ])  # fmt: skip
        cost.append([
            str(entry["number"]), count(train["steps"]), figure(train["loss"]), count(train["trainable_parameters"]),
            count(generate["forwards"]), duration(generate["seconds"]), duration(train["seconds"]),
        ])  # fmt: skip
    heads = ["round", "prompts", "candidates", "selected by", "k", "kept"]
    heads += ["oracle of all", "of the kept", "best possible", "share of the gain"]
    costs = ["round", "training steps", "loss", "trained weights", "forwards to generate"]
    costs += ["time to generate", "time to train"]
    return [
        table_of("What each round generated and selected", heads, made),
        table_of("What it trained, and what it cost", costs, cost),
    ]


def prompt_table(before: pd.DataFrame, after: pd.DataFrame, score: str) -> dict[str, Any] | None:
    """Make a table of every held-out prompt by its gain in ``score``, the largest first; of many, both ends. None where
    there is no such score."""
    if score not in before or score not in after:
        return None
    means = [table.groupby("prompt_id", sort=False)[score].mean() for table in (before, after)]
    gain = (means[1] - means[0]).dropna().sort_values(ascending=False, kind="stable")
    texts = before.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    shown = gain if len(gain) <= 2 * EACH else pd.concat([gain.head(EACH), gain.tail(EACH)])
    rows = [
        [
            str(texts[key]),
            figure(float(means[0][key])),
            figure(float(means[1][key])),
            figure(float(value), True),
        ]
        for key, value in shown.items()
    ]
    left = len(gain) - len(shown)
    return table_of(score, ["prompt", "before", "after", "gain"], rows) | {"left_out": left} if rows else None
