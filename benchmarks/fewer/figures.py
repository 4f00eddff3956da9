"""What pools are compared by: pictures, winners, how scores rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mitune.data.selection import select
from mitune.evaluate.agreement import tau
from mitune.evaluate.bootstrap import cell

SCORES = ("mi", "llr", "elbo", "contrast")
BY = "z(contrast)+z(elbo)"  # what the preset chooses by


def of_prompts(table: pd.DataFrame, column: str = "oracle") -> pd.Series:
    """Mean of a column by prompt."""
    return table.groupby("prompt_id", sort=True)[column].mean()


def difference(own: pd.DataFrame, base: pd.DataFrame, column: str = "oracle") -> dict[str, Any]:
    """Mean over the prompts of both of ``own`` − ``base``, in pairs, with its 95 % interval."""
    pairs = of_prompts(own, column) - of_prompts(base, column)
    return cell(pairs.dropna().to_numpy())


def chosen(table: pd.DataFrame, by: str, k: int) -> pd.DataFrame:
    """Give the k best of each prompt by a score or a weighted sum of scores."""
    return select(table, by, k)


def ranks(table: pd.DataFrame, scores: Sequence[str], referee: str = "oracle") -> dict[str, Any]:
    """Kendall's τ of each score with the referee, the mean over prompts and its 95 % interval."""
    groups = [rows for _, rows in table.groupby("prompt_id", sort=True)]
    return {
        name: cell(
            [tau(rows[name].to_numpy(np.float64), rows[referee].to_numpy(np.float64)) for rows in groups]
        )
        for name in scores
    }
