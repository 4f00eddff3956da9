"""Files of exactly the public benchmarks' form, and folders of pictures in their layouts, made for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mitune.evaluate.benchmarks.lines import Asked
from mitune.evaluate.catalogue import BENCHMARKS

TAGS = {name.name: next(iter(name.prompts.values())) for name in BENCHMARKS["geneval"].categories}


def asked(name: str, split: str = "", **changed: Any) -> Asked:
    """The whole of a benchmark, or another part."""
    row = BENCHMARKS[name]
    given = {"categories": (), "limit": None, "per_prompt": row.per_prompt, "whole": True} | changed
    return Asked(row, split or row.splits[0], **given)


def attribute_prompts(count: int, word: str = "red") -> list[str]:
    """Prompts of the form of color_val.txt, some of which end with a full stop."""
    return [f"a {word} thing{i} and a blue box" + ("." if i % 6 == 0 else "") for i in range(count)]


def compbench(folder: Path, lines: dict[str, Sequence[str]], ends: dict[str, str] | None = None) -> Path:
    """A folder of prompt files: {file stem: prompts}; Windows' line ends and no final one, where not said."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, prompts in lines.items():
        end = (ends or {}).get(stem, "\r\n")
        (folder / f"{stem}.txt").write_bytes(end.join(prompts).encode())
    return folder


def metadata(tag: str, number: int) -> dict[str, Any]:
    """A line of GenEval's file."""
    include: list[dict[str, Any]] = [{"class": "bench", "count": 1}]
    line: dict[str, Any] = {"tag": tag, "include": include, "prompt": f"a photo of a bench, {tag} {number}"}
    if tag == "position":
        include += [{"class": "dog", "count": 1, "position": ["right of", 0]}]
    if tag == "counting":
        include[0]["count"] = 3
        line["exclude"] = [{"class": "bench", "count": 4}]
    if tag in ("colors", "color_attr"):
        include[0]["color"] = "red"
    return line


def geneval(path: Path, counts: dict[str, int] | None = None) -> Path:
    """The prompt file, by default with as many lines of each task as the benchmark has."""
    rows = [metadata(tag, i) for tag, count in (counts or TAGS).items() for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def picture(path: Path, seed: int, size: int = 16) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def compbench_pictures(folder: Path, prompts: Sequence[str], per: int) -> Path:
    """Pictures as the benchmark's own script names them."""
    for number in range(len(prompts) * per):
        picture(folder / "samples" / f"{prompts[number // per]}_{number:06d}.png", number)
    return folder


def geneval_pictures(folder: Path, source: Path, per: int = 4) -> Path:
    """Pictures as the benchmark's own script lays them."""
    for number, text in enumerate(source.read_text().splitlines()):
        place = folder / f"{number:05d}"
        for one in range(per):
            picture(place / "samples" / f"{one:05d}.png", per * number + one)
        (place / "metadata.jsonl").write_text(json.dumps(json.loads(text)))
    return folder
