"""Masks, overlays and figures of pictures whose heatmaps are there: quick, and made anew by every command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mitune import leaving
from mitune.data.decoding import open_picture
from mitune.data.labelled.labels import IGNORED, Label
from mitune.distributed import broadcast, wait, work_queue
from mitune.errors import UserError
from mitune.files import clean_partial, read_json, write_bytes, write_json
from mitune.pixels.counting import Fit, counted, mask_of
from mitune.pixels.drawings import heat_over, mask_over, mask_png, picture_png
from mitune.pixels.rle import encode
from mitune.stages.progress import progress
from mitune.stages.segmented import SegmentedPictures

MASKS, OVERLAYS = "masks", "overlays"


def fitted(work: SegmentedPictures) -> float:
    """Fit the threshold on the labels of the pictures. Main process only.

    Raises UserError for a label that does not fit its picture, and where no labelled picture decodes.
    """
    fit, count = Fit(), 0
    with progress("fit the threshold", len(work.source), unit="pictures") as bar:
        for found in _found(work):
            leaving.check()
            row = found["row"]
            if (label := _label(work, found)) is not None:
                fit.add(work.grey(row), label, classes_of(work, row), IGNORED)
                count += 1
            bar()
    if not count:
        raise UserError(
            f"{work.source.pictures.where}: no picture with a label decodes; give another segment.tune"
        )
    return fit.best()


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
            write_json(_file(work, unit), {"forwards": note["forwards"], "seconds": note["seconds"], "rows": rows})
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
                "iou": None if label is None else _iou(inside, label, number),
                "heatmap": work.heatmap(row, number).relative_to(work.folder).as_posix(),
                "overlay": overlay,
                "rle": encode(inside),
            }
        )
    counts = None if label is None else counted(mask, label, classes, IGNORED)
    return {
        "number": row,
        "name": pictures.names[row],
        "prompt": asked.prompt,
        "size": found["size"],
        **files,
        "phrases": told,
        "counts": counts,
    }


def _iou(inside: Any, label: Label, number: int) -> float | None:
    """Of one phrase in one picture; None where neither mask nor label has it."""
    judged = label != IGNORED
    mine, theirs = inside & judged, label == number
    union = int((mine | theirs).sum())
    return float((mine & theirs).sum() / union) if union else None
