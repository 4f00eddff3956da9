"""Tables of scores by prompt category: means with intervals, and paired differences of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mitune.errors import UserError
from mitune.evaluate.bootstrap import Estimate, mean_ci, paired_difference

# Columns that say which picture a row is about; every other numeric column is a score.
_PICTURE = {"prompt_id", "prompt", "category", "candidate", "seed", "picture"}
IDENTITY = frozenset(_PICTURE | {"kept", "preferred", "round", "model", "unit", "rank", "row", "index"})
CONTRACT = ("oracle", "exact", "mi")  # always in a summary, null where the table has no such column


def score_columns(table: pd.DataFrame) -> list[str]:
    """Names of the score columns: numeric or boolean, no identity column, not wholly empty; contract names first."""
    names = [
        str(name)
        for name in table.columns
        if name not in IDENTITY
        and pd.api.types.is_numeric_dtype(table[name].dtype)
        and not table[name].isna().all()
    ]
    return [name for name in CONTRACT if name in names] + [name for name in names if name not in CONTRACT]


def summarise(table: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Give the mean of every score over all rows and in each category, with cluster-bootstrap 95 % intervals.

    ``table`` has a row a picture: prompt_id, category, candidate and one column a score. Gives ``{"all": row, category:
    row, …}``, each row ``{"oracle", "exact", "mi", other scores, "n", "prompts", "oracle_ci95", "ci95": {score: [low,
    high]}}``; n counts pictures. Raises UserError for an empty table or a score that is not finite.
    """
    _check(table)
    names = score_columns(table)
    return {category: _summary_row(rows, names, seed) for category, rows in _by_category(table)}


def compare(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Paired difference after − before of every score both tables hold, over all rows and in each category.

    Rows are paired by (prompt_id, candidate). Gives ``{"all": {score: {"before", "after", "difference", "ci95"}, "n",
    "prompts"}, category: …}``. Raises UserError when the two tables are not about the same pictures.
    """
    _check(before)
    _check(after)
    after = after.iloc[alignment(before, after)].reset_index(drop=True)
    before = before.reset_index(drop=True)
    names = [name for name in score_columns(before) if name in score_columns(after)]
    result: dict[str, dict[str, Any]] = {}
    for category, rows in _by_category(before):
        tuned = after.loc[rows.index]
        groups = rows["prompt_id"].to_numpy()
        row: dict[str, Any] = {}
        for name in names:
            old, new = rows[name].to_numpy(dtype=np.float64), tuned[name].to_numpy(dtype=np.float64)
            difference = paired_difference(old, new, groups, seed)
            row[name] = {
                "before": float(old.mean()),
                "after": float(new.mean()),
                "difference": difference.mean,
                "ci95": difference.interval,
            }
        result[category] = {**row, "n": len(rows), "prompts": int(rows["prompt_id"].nunique())}
    return result


def alignment(before: pd.DataFrame, after: pd.DataFrame) -> list[int]:
    """Find the position in ``after`` of every row of ``before``, paired by (prompt_id, candidate) with equal seeds.
    Raises UserError when they are not the same pictures."""
    old, new = _keys(before, "before"), _keys(after, "after")
    advice = "evaluate both models on the same prompts, candidates and seed"
    for side, missing in (("after", old.keys() - new.keys()), ("before", new.keys() - old.keys())):
        if missing:
            prompt, candidate = min(missing)
            raise UserError(
                f"prompt {prompt} candidate {candidate} has no picture in the {side} table; {advice}"
            )
    order = [new[key] for key in old]
    if "seed" in before and "seed" in after:
        differ = before["seed"].to_numpy() != after["seed"].to_numpy()[order]
        if differ.any():
            row = before.iloc[int(np.argmax(differ))]
            name = f"prompt {row['prompt_id']} candidate {row.get('candidate', 0)}"
            raise UserError(f"{name} has another seed before than after; {advice}")
    return order


def _keys(table: pd.DataFrame, side: str) -> dict[tuple[str, int], int]:
    """Row position by (prompt_id, candidate); a table without candidates has one picture a prompt."""
    candidates: Sequence[Any] = table["candidate"].tolist() if "candidate" in table else [0] * len(table)
    keys: dict[tuple[str, int], int] = {}
    for position, (prompt, candidate) in enumerate(zip(table["prompt_id"].tolist(), candidates, strict=True)):
        if (prompt, candidate) in keys:
            raise UserError(f"prompt {prompt} candidate {candidate} stands twice in the {side} table")
        keys[prompt, candidate] = position
    return keys


def _by_category(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield ("all", everything), then each named category in the order of its first row."""
    yield "all", table
    if "category" not in table:
        return
    named = table["category"].fillna("").astype(str)
    for category in named.unique():
        if category == "all" and (named == "all").all():
            continue  # the same rows again
        if category:
            # "all" stands for everything: a category the user called so keeps its rows under a name of its
            # own.
            yield ("all (category)" if category == "all" else category), table[named == category]


def _summary_row(rows: pd.DataFrame, names: list[str], seed: int) -> dict[str, Any]:
    groups = rows["prompt_id"].to_numpy()
    estimates: dict[str, Estimate] = {
        name: mean_ci(rows[name].to_numpy(dtype=np.float64), groups, seed) for name in names
    }
    means: dict[str, Any] = dict.fromkeys(CONTRACT)
    means |= {name: estimate.mean for name, estimate in estimates.items()}
    intervals = {name: estimate.interval for name, estimate in estimates.items()}
    return {
        **means,
        "n": len(rows),
        "prompts": int(rows["prompt_id"].nunique()),
        "oracle_ci95": intervals.get("oracle"),
        "ci95": intervals,
    }


def _check(table: pd.DataFrame) -> None:
    """Raise UserError for an empty table and for the first score that is not finite, naming prompt and candidate."""
    if table.empty:
        raise UserError(
            "there is no picture to evaluate: the table is empty; check prompts= and evaluate.prompts="
        )
    for name in score_columns(table):
        wrong = ~np.isfinite(table[name].to_numpy(dtype=np.float64, na_value=np.nan))
        if wrong.any():
            row = table.iloc[int(np.argmax(wrong))]
            raise UserError(
                f"score '{name}' of prompt {row['prompt_id']} ({row.get('prompt', '')!r}), candidate "
                f"{row.get('candidate', 0)}, is no finite number; try dtype=float32 or leave this scorer out"
            )
