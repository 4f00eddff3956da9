"""Two models compared, picture by picture, on the same prompts and seeds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from mitune.api.candidates import Candidates
from mitune.evaluate.evaluation import comparison, write_evaluation
from mitune.evaluate.judged import judged_by
from mitune.evaluate.watch import watched
from mitune.scores import SCORES, scorers_of
from mitune.stages.settings import EvaluateConfig


@dataclass(eq=False)
class Evaluation:
    """Compares a model before and after: every picture after with the one of the same prompt and noise before.

        evaluation = tuned.evaluate(prompts, scores=["elbo"])
        evaluation.table

    Attributes:
        before, after: the pictures of both models, with their scores.
        seed: of the pictures and of the bootstrap.
    """

    before: Candidates
    after: Candidates
    seed: int

    def __repr__(self) -> str:
        return f"Evaluation({len(self.after)} pictures a model)\n{self.table.to_string(index=False)}"

    @functools.cached_property
    def figures(self) -> dict[str, Any]:
        """Give what ``evaluation.json`` says: before, after, difference (paired, with 95 % intervals by a bootstrap
        over prompts), diversity."""
        return comparison(self.before.table, self.after.table, *self._pictures(), seed=self.seed)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each category (``all`` first) and score: before, after, difference, low and high end of its 95 %
        interval (NaN where there is one prompt), pictures, prompts."""
        rows = []
        for category, row in self.figures["difference"].items():
            for name, cell in row.items():
                if isinstance(cell, dict):
                    low, high = cell["ci95"] or (float("nan"), float("nan"))
                    means = {key: cell[key] for key in ("before", "after", "difference")}
                    counts = {"pictures": row["n"], "prompts": row["prompts"]}
                    rows.append(
                        {"category": category, "score": name, **means, "low": low, "high": high, **counts}
                    )
        return pd.DataFrame(rows)

    @property
    def judged_by(self) -> dict[str, dict[str, Any]]:
        """Say of each score who judged: the model itself or another, and whether it chose what was trained on."""
        before, combined, own = self.before, self.before.model.scorer.combined, [*self.before.judges]
        scorers = scorers_of(before.scores, combined, own)
        names = [
            *before.scores,
            *(column for name in scorers if name in SCORES for column in SCORES[name].columns),
        ]
        chosen = [by for by in (self.after.model.facts.get("by"),) if by is not None]
        made = {"model": before.model.identity, "judges": before.judges}
        return judged_by(names, combined, made, chosen, own)

    @property
    def watch(self) -> dict[str, Any]:
        """Hold the score that chose against those that did not (:func:`mitune.evaluate.watch.watched`)."""
        return self._watched(self.figures["difference"]["all"])

    def _watched(self, cells: dict[str, Any]) -> dict[str, Any]:
        by = self.after.model.facts.get("by")
        return watched(
            cells, [by] if by is not None else [], self.before.model.scorer.combined, [*self.before.judges]
        )

    def save(self, folder: str | Path, examples: int = EvaluateConfig.examples) -> None:
        """Write ``evaluation.json``, ``evaluation.parquet`` and pictures of ``examples`` pairs, as the stage
        ``evaluate`` does. Raises UserError where the disk refuses.
        """
        tables = self.before.table, self.after.table
        write_evaluation(
            folder,
            *tables,
            *self._pictures(),
            examples=examples,
            seed=self.seed,
            judged=self.judged_by,
            watch=self._watched,
        )

    def _pictures(self) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        return self.before.each_picture(), self.after.each_picture()
