"""What edits leave for people: pictures before and after, masks, a sheet, and figures of each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from mitune.evaluate.drawings import pairs, png, to_image
from mitune.files import atomic_folder, read_json, write_bytes
from mitune.reading import reading
from mitune.stages.edit_units import Editing
from mitune.stages.units import total_cost

SHEET = 48  # pairs on the sheet
FOLDERS = ("before", "after", "masks")
_Shown = tuple[Image.Image, Image.Image, Image.Image]


def write(work: Editing, root: Path) -> dict[str, Any]:
    """Write what people look at, and give the figures. Main process only."""
    first: list[_Shown] = []
    rows: list[dict[str, Any]] = []
    with (
        atomic_folder(root / "before") as before,
        atomic_folder(root / "after") as after,
        atomic_folder(root / "masks") as masks,
    ):
        for number, (shown, told) in enumerate(_each(work)):
            for place, image in zip((before, after, masks), shown, strict=True):
                (place / f"{number:06d}.png").write_bytes(_png(image))
            rows.append(_row(work, number, shown, told))
            if number < SHEET:
                first.append(shown)
        _metadata(before, after, rows)
    texts = [row["target"] for row in rows[:SHEET]]
    sheet = pairs([shown[0] for shown in first], [shown[1] for shown in first], texts)
    write_bytes(root / "sheet.png", png(sheet))
    return _figures(work, rows)


def _each(work: Editing) -> Iterator[tuple[_Shown, dict[str, Any]]]:
    """The pictures of every edit, and what its unit noted of it."""
    for unit in range(len(work.units)):
        path = work.path(unit).with_suffix(".safetensors")
        with reading(path, "delete it, and run the command again"):
            tensors = safetensors.torch.load_file(path)
        notes = pd.read_parquet(work.path(unit)).drop(columns="row").to_dict("records")
        before, after = (
            work.denoiser.decode(tensors[name].to(work.denoiser.device)).cpu() for name in FOLDERS[:2]
        )
        for *shown, mask, told in zip(before, after, tensors["masks"], notes, strict=True):
            yield (to_image(shown[0]), to_image(shown[1]), _enlarged(mask, work.denoiser.picture_size)), told


def _row(work: Editing, number: int, shown: _Shown, told: dict[str, Any]) -> dict[str, Any]:
    """What became of one edit."""
    old, new, mask = (np.asarray(image, dtype=np.float64) / 255 for image in shown)
    moved = np.abs(new - old).mean(2)
    own, how = work.edits[number], work.plans[number]
    return {
        "source": own.wanted.source,
        "target": own.wanted.target,
        "mode": how.mode,
        "region": list(how.region),
        "picture": None if own.picture is None else own.picture.path,
        "seed": None if own.picture is not None else own.seed,
        "changed": float(mask.mean()),
        "difference_inside": _mean(moved[mask > 0].tolist()),
        "difference_outside": _mean(moved[mask == 0].tolist()),
        **{name: None if np.isnan(value) else float(value) for name, value in told.items()},
    }


def _metadata(before: Path, after: Path, rows: Sequence[dict[str, Any]]) -> None:
    """What a folder of pictures says of them, each by its own prompt."""
    for folder, name in ((before, "source"), (after, "target")):
        table = pd.DataFrame(
            {
                "file_name": [f"{number:06d}.png" for number in range(len(rows))],
                "text": [row[name] for row in rows],
                "seed": [row["seed"] for row in rows],
            }
        ).astype({"seed": object})
        table.to_json(folder / "metadata.jsonl", orient="records", lines=True, force_ascii=False)


def _figures(work: Editing, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ``edit.json`` says: what was done, what it took, what became of each."""
    notes = [read_json(work.path(unit).with_suffix(".json")) for unit in range(len(work.units))]
    modes = [row["mode"] for row in rows]
    named = {"source", "target", "mode", "region", "picture", "seed"}
    names = [name for name in rows[0] if name not in named]
    means = {name: _mean([row[name] for row in rows]) for name in names}
    return {
        "schema": 1,
        "model": work.denoiser.identity,
        "edits": len(rows),
        "modes": {mode: modes.count(mode) for mode in dict.fromkeys(modes)},
        **total_cost(notes).total,
        "means": means,
        "rows": list(rows),
    }


def _enlarged(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask of the latent's places as a picture: white where it may change, else black."""
    image = Image.fromarray((mask > 0).to(torch.uint8).numpy() * np.uint8(255))
    return image.resize(size[::-1], Image.Resampling.NEAREST)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
