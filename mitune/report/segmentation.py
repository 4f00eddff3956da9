"""The page of ``mitune segment``: pictures, masks and heat side by side; self-contained, no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mitune
from mitune.data.decoding import open_picture
from mitune.data.pictures.rows import Pictures
from mitune.files import write_text
from mitune.pixels.drawings import palette
from mitune.report import figures as told
from mitune.report.pictures import embedded, shown
from mitune.report.report import template

PAGE = "segmentation.html"


def write_segmentation(folder: Path, figures: Mapping[str, Any], source: Pictures, most: int) -> Path:
    """Write ``segmentation.html`` of what ``segmentation.json`` says, with ``most`` pictures of ``source``, atomically;
    gives its path."""
    rows = figures["rows"][:most]
    page = template("segmentation.html.j2", percent=_percent).render(
        version=mitune.__version__,
        figures=figures,
        right=figures["right"],
        facts=_facts(figures),
        pictures=[_picture(folder, row, source) for row in rows],
        sorts=1,  # of the style that is shared: one order, and no choice
        more=len(figures["rows"]) > len(rows),
    )
    path = folder / PAGE
    write_text(path, page)
    return path


def _facts(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    threshold = figures["threshold"]
    return [
        ("model", figures["model"]),
        ("method", figures["method"]),
        ("threshold", f"{threshold['value']:.4g}, {threshold['origin']}"),
        ("network forwards", told.count(figures["forwards"])),
        ("time", told.duration(figures["seconds"])),
    ]


def _picture(folder: Path, row: Mapping[str, Any], source: Pictures) -> dict[str, Any]:
    assert source.read is not None
    number = row["number"]
    data, small = embedded(open_picture(source.read(number), source.what(number)))
    colours = palette(len(row["phrases"]) + 1)
    phrases = [
        {**one, "colour": colours[number], "heat": shown(folder, one["overlay"], folder, {})}
        for number, one in enumerate(row["phrases"], start=1)
    ]
    masks = shown(folder, row["overlay"], folder, {})
    return {**row, "phrases": phrases, "masks": masks, "itself": {"data": data, "small": small}}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
