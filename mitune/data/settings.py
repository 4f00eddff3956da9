"""The keys of prompts, ``prompts.*`` and ``evaluate.prompts.*``, and of selection; the forms of their files.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitune.settings import CANDIDATES, ROWS, Settings, key

SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""What such a file's name ends in."""
FORMS = ".txt (a prompt a line), .csv, .tsv, .json, .jsonl, .ndjson or .parquet"
"""The same in words."""
WORLD = "shapes"
"""The source of prompts and pictures that is the embedded world."""


@dataclass
class PromptsConfig(Settings):
    source: str | None = key(
        None,
        "txt, csv, tsv, json, jsonl, parquet, a folder of them, a Hub dataset id, or 'shapes'",
        path=True,
        basic=True,
    )
    split: str | None = key(
        None, "split of a folder or Hub dataset (default: train, or a held-out one to evaluate)"
    )
    limit: int | None = key(
        None, "at most this many prompts, evenly over the categories", low=1, high=ROWS, basic=True
    )
    per_category: int | None = key(None, "at most this many prompts of each category", low=1, high=ROWS)
    column: str | None = key(None, "text column (default: prompt, text or caption)")
    category_column: str | None = key(None, "category column (default: category or tag, where there is one)")
    picture_column: str | None = key(
        None, "column that names the picture to be edited, a file beside the table"
    )
    strict: bool = key(False, "refuse prompts too long for the text encoder; else warn, naming what is cut")


@dataclass
class SelectConfig(Settings):
    """These keys say which candidates are trained on; :mod:`mitune.data.selection` obeys them.

    >>> SelectConfig(k=0).check("select.")
    Traceback (most recent call last):
    mitune.errors.UserError: select.k=0: must be at least 1
    """

    by: str = key(
        "contrast",
        "the score, or weighted sum of scores, that chooses; random and oracle are controls",
        basic=True,
    )
    k: int = key(1, "winners a prompt", low=1, high=CANDIDATES, basic=True)
    losers: int = key(
        0, "losers a prompt, for preference training (train.objective=dpo)", low=0, high=CANDIDATES
    )
    threshold: float | None = key(
        None, "lowest score of a winner; k is then the most a prompt may have, and a prompt may have none"
    )
    fraction: float = key(
        1.0, "share of the prompts kept: those whose winners stand out most", above=0, high=1
    )
    balance: bool = key(False, "as many prompts of every category: the clearest of each")
    difficulty: float = key(
        0.0,
        "hard prompts count exp(difficulty) times as much for every standard deviation their pool scores lower",
        low=0,
        high=100,
    )
    real: str | None = key(
        None, "real pictures to mix in, chosen by the same score: as score.source, or 'shapes'", path=True
    )
    real_fraction: float = key(
        0.25,
        "share of the training set that is real; they take candidates' places (1: all, and candidates need no score)",
        low=0,
        high=1,
    )
    real_limit: int | None = key(
        None, "real pictures looked at, at most (of 'shapes': 4 times those needed)", low=1, high=ROWS
    )
