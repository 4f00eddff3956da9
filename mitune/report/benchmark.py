"""The page of a benchmark: its table, who judged, and some pictures; self-contained, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mitune
from mitune.data.decoding import open_picture
from mitune.evaluate.benchmarks.table import notes_of, rows_of
from mitune.files import write_text
from mitune.reading import read_bytes
from mitune.report.pictures import embedded
from mitune.report.report import template

PAGE = "benchmark.html"


def write_benchmark(folder: Path, figures: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``benchmark.html`` of what ``benchmark.json`` says, atomically; gives its path.

    ``examples``: ``{"prompt", "category", "pictures": {model: path}}``.
    """
    heads, rows = rows_of(figures)
    page = template("benchmark.html.j2").render(
        version=mitune.__version__,
        figures=figures,
        heads=heads,
        rows=rows,
        notes=notes_of(figures),
        watch=figures.get("watch"),
        models={side: one["model"] for side, one in figures["models"].items() if "model" in one},
        examples=[_example(one) for one in examples],
        sorts=1,  # of the style that is shared: one order, and no choice
    )
    path = folder / PAGE
    write_text(path, page)
    return path


def _example(one: Mapping[str, Any]) -> dict[str, Any]:
    pictures = []
    for side, path in one["pictures"].items():
        data, small = embedded(open_picture(read_bytes(path), str(path)))
        pictures.append({"side": side, "data": data, "small": small})
    return {**one, "pictures": pictures}
