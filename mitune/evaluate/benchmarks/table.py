"""The table of a benchmark, as a paper prints it: a row a model, a column a category; with intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mitune.evaluate.bootstrap import Estimate, mean_ci, mean_of_means_ci, paired_difference
from mitune.evaluate.catalogue import Benchmark
from mitune.evaluate.tables import in_words

OVERALL = "overall"
BASE, TUNED, PICTURES = "base", "tuned", "pictures"
_NAMES = {BASE: "base model", TUNED: "tuned model", PICTURES: "these pictures"}


def model_figures(table: pd.DataFrame, benchmark: Benchmark, seed: int = 0) -> dict[str, Any]:
    """Give the figures of one model: ``{"categories": {name: cell}, "overall", "correct"}``.

    ``table``: a row a picture: category, text, value, and ``correct`` where the judge says it. A cell is ``{"mean",
    "ci95", "pictures", "prompts"}``; pictures of one text are one cluster. ``overall``: the mean of the categories'
    means, of a benchmark that has one. ``correct``: ``{"pictures", "prompts"}``, the shares of pictures that are
    correct, and of prompts with any correct picture.
    """
    cells = {}
    for name in _present(table, benchmark):
        own = table[table["category"] == name]
        estimate = mean_ci(own["value"], own["text"].to_numpy(), seed)
        cells[name] = _cell(estimate) | {"pictures": len(own), "prompts": own["line"].nunique()}
    found: dict[str, Any] = {"categories": cells}
    if benchmark.overall:
        groups, parts = table["text"].to_numpy(), table["category"].to_numpy()
        found[OVERALL] = _cell(mean_of_means_ci(table["value"], groups, parts, seed))
    if "correct" in table:
        any_correct = table.groupby(["category", "line"])["correct"].any()
        found["correct"] = {"pictures": float(table["correct"].mean()), "prompts": float(any_correct.mean())}
    return found


def differences(
    before: pd.DataFrame, after: pd.DataFrame, benchmark: Benchmark, seed: int = 0
) -> dict[str, Any]:
    """Give the paired difference after − before of each category, and ``overall``, as cells."""
    both = before.merge(after, on=["category", "line", "picture"], suffixes=("", "_after"), validate="1:1")
    found = {}
    for name in _present(both, benchmark):
        own = both[both["category"] == name]
        estimate = paired_difference(own["value"], own["value_after"], own["text"].to_numpy(), seed)
        found[name] = {"difference": estimate.mean, "ci95": estimate.interval}
    if benchmark.overall:
        gained = (both["value_after"] - both["value"]).to_numpy()
        estimate = mean_of_means_ci(gained, both["text"].to_numpy(), both["category"].to_numpy(), seed)
        found[OVERALL] = {"difference": estimate.mean, "ci95": estimate.interval}
    return found


def _present(table: pd.DataFrame, benchmark: Benchmark) -> list[str]:
    there = set(table["category"])
    return [one.name for one in benchmark.categories if one.name in there]


def _cell(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "ci95": estimate.interval}


def rows_of(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Give the table in words: its heads, and a row for each model, for the difference, and for what was published."""
    categories = list(figures["judged_by"])
    columns = [*categories, *([OVERALL] if figures["has_overall"] else [])]
    rows = []
    for side, model in figures["models"].items():
        cells = model["categories"] | {OVERALL: model.get(OVERALL)}
        name = _NAMES.get(side, side)
        if side == TUNED:
            name += f" (round {figures['round']})"
        rows.append([name, *(in_words(cells.get(column), ".4f") for column in columns)])
    if figures["difference"]:
        cells = {name: cell | {"mean": cell["difference"]} for name, cell in figures["difference"].items()}
        rows.append(["difference, paired", *(in_words(cells.get(column), "+.4f") for column in columns)])
    for one in figures["published"]:
        told = [one["scores"].get(column) for column in columns]
        rows.append(
            [f"{one['model']} (published)", *("–" if value is None else f"{value:g}" for value in told)]
        )
    return ["model", *columns], rows


def notes_of(figures: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the table does not: who judged, what is beside it and what is not, what to watch."""
    judges: dict[str, list[str]] = {}
    for name, entry in figures["judged_by"].items():
        form = f", form {entry['form']}" if entry.get("form") else ""
        judges.setdefault(f"{entry['name']} ({entry['judge']}{form})", []).append(name)
    found = ["Mean over pictures, with 95 % intervals over prompts (bootstrap)."]
    found += [f"{', '.join(names)}: judged by {judge}." for judge, names in judges.items()]
    for side, model in figures["models"].items():
        if correct := model.get("correct"):
            found.append(
                f"{_NAMES.get(side, side).capitalize()}: {correct['pictures']:.2%} of pictures are correct,"
                f" {correct['prompts']:.2%} of prompts have any correct picture."
            )
    found += [f"{one['model']}: {one['source']}." for one in figures["published"]]
    found += figures["notes"]
    if watch := figures.get("watch"):
        said = watch["said"]
        found.append(f"{said[0].upper()}{said[1:]}.")
    return found


def markdown(figures: Mapping[str, Any], escape: Any = str) -> str:
    """Write the table as Markdown; ``escape``: makes a text safe in it."""
    heads, rows = rows_of(figures)
    lines = [f"# {figures['title']}", "", f"| {' | '.join(map(escape, heads))} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(map(escape, row))} |" for row in rows]
    lines += ["", *(f"- {escape(note)}" for note in notes_of(figures)), ""]
    return "\n".join(lines)


def beside(
    benchmark: Benchmark, original: Mapping[str, bool], judges: Mapping[str, str], why_not: str = ""
) -> tuple[list[dict[str, Any]], list[str]]:
    """Give the published rows that may stand beside the table, and say why others do not.

    Args:
        benchmark: whose.
        original: of each category judged, whether its judge is the published one.
        judges: the name of each category's judge.
        why_not: why nothing here can stand beside what was published.
    """
    if why_not:
        return [], [f"Published numbers are not shown beside it: {why_not}."]
    alike = [name for name, same in original.items() if same]
    rows = []
    for one in benchmark.published:
        scores = {name: one.scores[name] for name in alike if name in one.scores}
        if len(alike) == len(benchmark.categories) and OVERALL in one.scores:
            scores[OVERALL] = one.scores[OVERALL]
        if scores:
            rows.append({"model": one.model, "source": one.source, "scores": scores})
    said: dict[tuple[str, str, str], list[str]] = {}
    for name, same in original.items():
        if not same:
            judge = benchmark.category(name).original
            said.setdefault((judge.said, judge.why, judges[name]), []).append(name)
    notes = [_not_alike(names, *key) for key, names in said.items()]
    return rows, notes


def _not_alike(names: Sequence[str], original: str, why: str, judge: str) -> str:
    reason = f" ({why})" if why else ""
    return (
        f"Published numbers of {', '.join(names)} are not shown: they were judged by {original}{reason}, these by"
        f" {judge}: the two scales are not the same."
    )
