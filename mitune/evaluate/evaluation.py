"""The evaluation of one round: base and tuned model on the same prompts and seeds, written for people and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from torch import Tensor

from mitune.evaluate.categories import alignment, compare, score_columns, summarise
from mitune.evaluate.diversity import Distances, compare_distances
from mitune.evaluate.drawings import histogram, pairs, png, to_image
from mitune.evaluate.judged import Judged
from mitune.files import write_bytes, write_json, write_table

SCHEMA = 1


def write_evaluation(
    folder: str | Path,
    before: pd.DataFrame,
    after: pd.DataFrame,
    before_pictures: Iterable[Tensor],
    after_pictures: Iterable[Tensor],
    examples: int = 24,
    seed: int = 0,
    judged: Judged | None = None,
    watch: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compare two models picture by picture, write the result to a folder and give it back.

    Args:
        folder: the round's.
        before, after: a row a picture (see :func:`categories.summarise`), paired by (prompt_id, candidate).
        before_pictures, after_pictures: [3, H, W] float in [0, 1], row by row of their table; they are taken one by
            one, and few are held.
        examples: pairs to show; ``seed``: of their choice.
        judged: who judged (:func:`judged.judged_by`), where it is known.
        watch: says of the differences of all pictures whether the reward was hacked (:func:`watch.watched`).

    Writes ``pictures/before-000.png``,
    ``pictures/after-000.png``, …, ``pictures/before-after.png``, ``pictures/SCORE-histogram.png``,
    ``evaluation.parquet`` (all rows, column ``model``) and, last, ``evaluation.json``::

        {"schema", "before": {"all": …, category: …}, "after": {…}, "difference": {"all": {score: {…}}, …},
         "diversity": {"before", "after", "ratio", "ratio_ci95", "prompts"},
         "examples": [{"prompt", "category", "before", "after", "scores_before", "scores_after"}],
         "judged_by": {score: {"judge", "itself", "selected"}}, "watch": {"chosen", "witnesses", "hacked", "said", …}}

    Raises UserError when the tables are not about the same pictures or a score is not finite.
    """
    folder = Path(folder)
    chosen = choose_examples(before, examples)
    numbers = {row: number for number, row in enumerate(chosen)}
    shown: dict[str, dict[int, Image.Image]] = {"before": {}, "after": {}}

    def show(side: str, row: int, picture: Tensor) -> None:
        if row in numbers:
            shown[side][row] = to_image(picture)
            write_bytes(folder / f"pictures/{side}-{numbers[row]:03d}.png", png(shown[side][row]))

    figures = comparison(before, after, before_pictures, after_pictures, seed, show)
    order = alignment(before, after)
    before, after = before.reset_index(drop=True), after.iloc[order].reset_index(drop=True)
    result = {
        "schema": SCHEMA,
        **figures,
        "examples": [
            {
                "prompt": str(before["prompt"][row]),
                "category": _category(before, row),
                "before": f"pictures/before-{number:03d}.png",
                "after": f"pictures/after-{number:03d}.png",
                "scores_before": _scores(before, row),
                "scores_after": _scores(after, row),
            }
            for number, row in enumerate(chosen)
        ],
        **({} if judged is None else {"judged_by": judged}),
        **({} if watch is None else {"watch": watch(figures["difference"]["all"])}),
    }
    if chosen:
        sheet = pairs(
            [shown["before"][row] for row in chosen],
            [shown["after"][row] for row in chosen],
            [str(before["prompt"][row]) for row in chosen],
        )
        write_bytes(folder / "pictures/before-after.png", png(sheet))
    for name in score_columns(before):
        if name in after and name != "exact":
            drawing = histogram(before[name].to_numpy(), after[name].to_numpy(), name)
            write_bytes(folder / f"pictures/{_file_name(name)}-histogram.png", drawing)
    rows = pd.concat([before.assign(model="before"), after.assign(model="after")], ignore_index=True)
    write_table(folder / "evaluation.parquet", pa.Table.from_pandas(rows, preserve_index=False))
    write_json(folder / "evaluation.json", result)
    return result


def comparison(
    before: pd.DataFrame,
    after: pd.DataFrame,
    before_pictures: Iterable[Tensor],
    after_pictures: Iterable[Tensor],
    seed: int = 0,
    show: Callable[[str, int, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Give the figures of a comparison: ``{"before", "after", "difference", "diversity"}`` of ``evaluation.json``.

    Args:
        before, after, before_pictures, after_pictures: as of :func:`write_evaluation`.
        seed: of the bootstrap.
        show: is given every picture as it comes: its side, "before" or "after", and the row of ``before`` that it
            belongs to.

    Raises UserError as :func:`write_evaluation`, ValueError where tables and pictures differ in length.
    """
    for table, pictures in ((before, before_pictures), (after, after_pictures)):
        if isinstance(pictures, Sized) and len(table) != len(pictures):
            raise ValueError("tables and pictures differ in length")
    difference = compare(before, after, seed)
    order = alignment(before, after)
    before, after = before.reset_index(drop=True), after.iloc[order].reset_index(drop=True)
    places = {"before": range(len(before)), "after": np.argsort(order).tolist()}
    distances = {}
    for side, pictures in (("before", before_pictures), ("after", after_pictures)):
        own = Distances(before["prompt_id"].tolist())
        for row, picture in zip(places[side], pictures, strict=True):
            own.add(row, picture)
            if show is not None:
                show(side, row, picture)
        distances[side] = own.found
    return {
        "before": summarise(before, seed),
        "after": summarise(after, seed),
        "difference": difference,
        "diversity": compare_distances(distances["before"], distances["after"], seed),
    }


def evaluation_files(folder: Path) -> list[Path]:
    """List the files that ``write_evaluation`` left in ``folder``."""
    pictures = {
        path
        for name in ("before-*", "after-*", "*-histogram")
        for path in folder.glob(f"pictures/{name}.png")
    }
    return [folder / "evaluation.json", folder / "evaluation.parquet", *sorted(pictures)]


def choose_examples(table: pd.DataFrame, count: int) -> list[int]:
    """Row positions of up to ``count`` pictures to show: one a prompt, categories in turn, never chosen by score."""
    first = table.reset_index(drop=True).drop_duplicates("prompt_id")
    queues: dict[str, list[int]] = {}
    for row in first.index.tolist():
        queues.setdefault(_category(first, row), []).append(row)
    turns = [(turn, row) for rows in queues.values() for turn, row in enumerate(rows)]
    return [row for _, row in sorted(turns)][:count]


def _category(table: pd.DataFrame, row: int) -> str:
    value = table["category"][row] if "category" in table else ""
    return "" if pd.isna(value) else str(value)


def _scores(table: pd.DataFrame, row: int) -> dict[str, float]:
    return {name: float(table[name][row]) for name in score_columns(table)}


def _file_name(score: str) -> str:
    """A score's name as part of a file name: sums such as ``mi+0.5*clip`` hold signs that folders do not take."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in score)
