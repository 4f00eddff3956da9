"""Masks, overlays and figures of pictures whose heatmaps are there: quick, and made anew by every command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mitune import leaving
from mitune.data.decoding import open_picture
from mitune.data.labelled.labels import Label
from mitune.distributed import broadcast, wait, work_queue
from mitune.files import clean_partial, read_json, write_bytes, write_json
from mitune.pixels.drawings import HOTTEST, Levels, heat_over, mask_over, mask_png, picture_png
from mitune.pixels.fitting import Fit
from mitune.pixels.iou import counts, objects
from mitune.pixels.masks import Threshold, masks
from mitune.pixels.rle import encode
from mitune.stages.progress import progress
from mitune.stages.segmented import SegmentedPictures

MASKS, OVERLAYS = "masks", "overlays"


def fitted(work: SegmentedPictures, on: str, oracle: bool) -> Threshold:
    """Fit the threshold on the labels of the pictures, which are ``on`` in words. Main process only.

    Raises UserError for a label that does not fit its picture, and where no labelled picture decodes.
    """
    fit = Fit()
    with progress("fit the threshold", len(work.source), unit="pictures") as bar:
        for found in _found(work):
            leaving.check()
            row = found["row"]
            if (label := _label(work, found)) is not None:
                fit.add(work.grey(row), label, classes_of(work, row))
            bar()
    return fit.best(on, oracle)


def draw_masks(work: SegmentedPictures, threshold: float) -> None:
    """Write masks and overlays of all pictures, and notes of what they are, each process its share.

    Raises UserError for a label that does not fit its picture.
    """

    def begin() -> None:
        for place in (MASKS, OVERLAYS):
            clean_partial(work.folder / place)

    broadcast(begin)
    sizes = [len(work.rows(unit)) for unit in work.units]
    shown = 0
    with progress("masks", len(work.source), unit="pictures") as bar:
        for place, unit in work_queue(work.units):
            bar(sum(sizes[shown:place]))  # the others'
            shown = place + 1
            note = work.note(unit) or {"rows": []}
            rows = [_draw(work, found, threshold) for found in note["rows"]]
            write_json(
                _file(work, unit), {"forwards": note["forwards"], "seconds": note["seconds"], "rows": rows}
            )
            bar(sizes[place])
    wait()


def drawn(work: SegmentedPictures) -> Iterator[dict[str, Any]]:
    """Read what :func:`draw_masks` noted, unit by unit: forwards, seconds and rows."""
    return (read_json(_file(work, unit)) for unit in work.units)


def classes_of(work: SegmentedPictures, row: int) -> tuple[str, ...]:
    """Name what each phrase of a picture is counted as: a class of its data set, or itself in small letters."""
    if work.source.classes is not None:
        return work.source.classes[row]
    return tuple(phrase.text.lower() for phrase in work.asked[row].phrases)


def _file(work: SegmentedPictures, unit: int) -> Path:
    return work.folder / MASKS / f"unit-{unit:06d}.json"


def _found(work: SegmentedPictures) -> Iterator[Mapping[str, Any]]:
    """What was found in each picture that decodes."""
    return (row for unit in work.units for row in (work.note(unit) or {"rows": []})["rows"])


def _label(work: SegmentedPictures, found: Mapping[str, Any]) -> Label | None:
    row, (height, width) = found["row"], found["size"]
    return work.source.label(row, len(work.asked[row].phrases), (height, width))


def _draw(work: SegmentedPictures, found: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """The files of one picture, and its row."""
    leaving.check()
    row = found["row"]
    pictures, asked = work.source.pictures, work.asked[row]
    assert pictures.read is not None
    picture = open_picture(pictures.read(row), pictures.what(row))
    grey = work.grey(row)
    mask = mask_of(grey, threshold)
    label = _label(work, found)
    classes = classes_of(work, row)
    ious = [None] * len(grey) if label is None else objects(mask, label, len(grey))
    files = {"mask": f"{MASKS}/{row:06d}.png", "overlay": f"{OVERLAYS}/{row:06d}.png"}
    write_bytes(work.folder / files["mask"], mask_png(mask))
    write_bytes(work.folder / files["overlay"], picture_png(mask_over(picture, mask)))
    told = []
    for number, phrase in enumerate(asked.phrases, start=1):
        inside = mask == number
        overlay = f"{OVERLAYS}/{row:06d}-{number}.png"
        write_bytes(work.folder / overlay, picture_png(heat_over(picture, grey[number - 1])))
        told.append(
            {
                "text": phrase.text,
                "noun": asked.prompt[slice(*phrase.noun)],
                "class": classes[number - 1],
                "area": float(inside.mean()),
                "loss": found["losses"][number - 1],
                "S": found["scores"][number - 1],
                "iou": ious[number - 1],
                "heatmap": work.heatmap(row, number).relative_to(work.folder).as_posix(),
                "overlay": overlay,
                "rle": encode(inside),
            }
        )
    return {
        "number": row,
        "name": pictures.names[row],
        "prompt": asked.prompt,
        "size": found["size"],
        "refined": found.get("refined"),  # units of earlier versions do not tell
        **files,
        "phrases": told,
        "pixels": None if label is None else counts(mask, label, classes),
    }


def mask_of(grey: Sequence[Levels], threshold: float) -> NDArray[np.int64]:
    """Give the number of the phrase (from 1) at each pixel [H, W], 0 for none, of heatmaps as they are on the disk: so
    anybody can make the masks again from the files, to the pixel."""
    heat = torch.from_numpy(np.stack(list(grey))).double() / HOTTEST
    return masks(heat, threshold).numpy()
