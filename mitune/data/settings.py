"""The keys of a source of prompts: ``prompts.*`` and ``evaluate.prompts.*``. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.settings import ROWS, Settings, key


@dataclass
class PromptsConfig(Settings):
    source: str = key(
        "shapes",
        "txt, csv, tsv, json, jsonl, parquet, a folder of them, a Hub dataset id, or 'shapes'",
        path=True,
    )
    split: str | None = key(
        None, "split of a folder or Hub dataset (default: train, or a held-out one to evaluate)"
    )
    limit: int | None = key(None, "at most this many prompts, evenly over the categories", low=1, high=ROWS)
    per_category: int | None = key(None, "at most this many prompts of each category", low=1, high=ROWS)
    column: str | None = key(None, "text column (default: prompt, text or caption)")
    category_column: str | None = key(None, "category column (default: category or tag, where there is one)")
    strict: bool = key(False, "refuse prompts too long for the text encoder; else warn, naming what is cut")
