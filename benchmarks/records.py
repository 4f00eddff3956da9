"""Figures of the documentation and where they were measured: values of the JSON files, as Markdown writes them.

``docs/figures.yml`` lists the sentences that hold figures. An entry says the words, a hole ``{}`` for each figure, the
file, and for every hole where in the file it is and how it is written:

    - says: "from {} to {}"
      from: benchmarks/results/quality-shapes_full.json
      at: arms/random/rounds/0
      figures: [before/oracle .3f, after/oracle .3f]

Where a list has names in it, ``[method=best:8]`` takes the item of that name.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures.yml"
_SPEC = re.compile(r"([+,]?(?:\.\d)?f)([%k]?)")
_SCALE = {"": 1.0, "%": 100.0, "k": 0.001}
# What is no prose: code, addresses, comments, tables made from records, and parts that say that no record was kept.
_NO_PROSE = (
    r"<!-- no record -->.*?<!-- end of no record -->",
    r"<!-- table: .*?<!-- end of table -->",
    r"```.*?```",
    r"(?m)^    [^\n]*$",
    r"<!--.*?-->",
    r"`[^`]*`",
    r"\]\([^)]*\)",
    r"https?://\S+",
    r"arXiv \d{4}\.\d{5}",
    r"Python 3[\d.]*(?: to 3[\d.]*)?",
)
_FIGURE = re.compile(r"[+−±]\d[\d.]*|\d+\.\d{2,}|(?!95 )\b\d+(?:\.\d+)? %")


@functools.cache
def record(path: str) -> Any:
    """Read a JSON file of the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def look(tree: Any, path: str) -> Any:
    """Give the value at ``path`` of ``tree``; KeyError or IndexError where there is none."""
    for step in filter(None, path.split("/")):
        if step.startswith("["):
            wanted = dict(pair.split("=", 1) for pair in step[1:-1].split("; "))
            (tree,) = [one for one in tree if all(str(one[key]) == value for key, value in wanted.items())]
        else:
            tree = tree[int(step)] if isinstance(tree, list) else tree[step]
    return tree


def written(value: float, spec: str) -> str:
    """Write a figure: ``.3f``, ``+.3f``, ``,.0f``; in hundredths with ``%`` and in thousands with ``k`` at the end."""
    form, scale = _SPEC.fullmatch(spec).groups()  # type: ignore[union-attr]
    return format(value * _SCALE[scale], form).replace("-", "−")


def interval(pair: tuple[float, float] | list[float], spec: str = "+.3f") -> str:
    """Write a 95 % interval: ``(+0.051 … +0.077)``."""
    return f"({written(pair[0], spec)} … {written(pair[1], spec)})"


def sentences(entry: Mapping[str, Any]) -> str:
    """Fill the holes of an entry of figures.yml from its record."""
    base = look(record(entry["from"]), entry.get("at", ""))
    parts = [figure.rsplit(" ", 1) for figure in entry["figures"]]
    return entry["says"].format(*(written(look(base, path), spec) for path, spec in parts))


def entries() -> dict[str, list[dict[str, Any]]]:
    """Read figures.yml: page -> its entries."""
    return yaml.safe_load(FIGURES.read_text(encoding="utf-8"))


def flat(text: str) -> str:
    """Give ``text`` with every run of white space as one space: lines may be broken anywhere."""
    return " ".join(text.split())


def loose(text: str, held: list[str]) -> Iterator[str]:
    """Give what looks like a measured figure in the prose of a page and stands in none of the sentences ``held``."""
    for pattern in _NO_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    text = flat(text)
    for sentence in held:
        for pattern in _NO_PROSE:
            sentence = re.sub(pattern, " ", sentence, flags=re.DOTALL)
        text = text.replace(flat(sentence), " ")
    for found in _FIGURE.finditer(text):
        yield text[max(0, found.start() - 40) : found.end() + 20]
