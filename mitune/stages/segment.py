"""``segment``: where in a picture each phrase of its prompt is: heatmaps, masks, a page to look at, and how right."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune.data.labelled.source import Labelled, load_labelled
from mitune.distributed import broadcast, state
from mitune.errors import UserError, short
from mitune.files import read_json, write_json
from mitune.pixels.asking import unambiguous
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.iou import Tally, object_iou
from mitune.pixels.masks import MOST, Threshold
from mitune.pixels.phrases import Asked, find, phrases_of
from mitune.report.segmentation import write_segmentation
from mitune.runs import RunFolder
from mitune.stages.drawn_masks import draw_masks, drawn, fitted
from mitune.stages.first_look import ORACLE
from mitune.stages.inputs import load_model, settings_of
from mitune.stages.progress import say, warn
from mitune.stages.segmented import SegmentedPictures

SCHEMA = 1
TUNE = "tune"  # the folder of the heatmaps that the threshold is fitted on
NOT_OPEN = "This is not open-vocabulary mIoU: what is in each picture is given, only where it is is judged"
_SHOWN = 6  # pictures that are told of on the screen


def segment(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write heatmaps, masks, overlays, ``segmentation.json`` and ``segmentation.html``; gives what the first says.

    Raises UserError: no source, a phrase that is not in its prompt or twice there, a label that does not fit, a model
    that shows no attention.
    """
    own = config.segment
    pixels = settings_of(HeatmapConfig, config.pixels)
    source = _load(config, own.source, "segment.source")
    work = SegmentedPictures(run.root, source, _asked(source, config), own.rows_per_unit)
    tuned = _tuned_on(config, run, work)
    load = functools.cache(lambda: load_model(config))
    work.measure(load, pixels, config.seed, own.batch_size, config.score.skip)
    if tuned is not None and tuned is not work:
        tuned.measure(load, pixels, config.seed, own.batch_size, config.score.skip, TUNE)
    threshold = Threshold(**broadcast(lambda: _threshold(config, pixels, tuned)._asdict()))
    draw_masks(work, threshold.value)

    def finish() -> dict[str, Any]:
        figures = _figures(config, pixels, work, threshold)
        if tuned is not None and tuned is not work:
            figures["tune"] = {"pictures": len(tuned.source), "forwards": tuned.forwards}
        write_json(run.root / "segmentation.json", figures)
        page = write_segmentation(run.root, figures, source.pictures, own.examples)
        _say(figures, page)
        return {name: value for name, value in figures.items() if name != "rows"}

    return broadcast(finish)


def _load(config: DictConfig, source: str, what: str) -> Labelled:
    own, how, main = config.segment, config.score, what == "segment.source"
    return load_labelled(
        source,
        phrases=own.phrases if main else (),
        caption=own.caption if main else None,
        template=own.template,
        layout=own.layout if main else None,
        of_several=own.layout,
        split=how.split if main else own.tune_split,
        what=what,
        limit=own.limit if main else None,
        skip=how.skip,
        seed=config.seed,
        outside=how.outside,
        caption_of=how.caption,
        image_column=how.image_column,
        text_column=how.text_column,
    )


def _asked(source: Labelled, config: DictConfig) -> list[Asked]:
    """What is looked for in each picture. Raises UserError for a phrase that is not to be found in its prompt."""
    found = []
    for row, (text, phrases) in enumerate(zip(source.pictures.texts, source.phrases, strict=True)):
        if phrases is None:
            try:
                own = phrases_of(text, config.pixels.phrases)
            except UserError as error:
                raise UserError(f"{error}; or name them with segment.phrases=") from error
            if not own:
                raise UserError(
                    f"{source.pictures.what(row)}: its caption has no phrase to look for; name them with"
                    " segment.phrases= or in a column phrases"
                )
        elif source.own is None:
            own = unambiguous(text, phrases)
        else:  # a data set's caption is made of them, in their order
            own = find(text, phrases)
        if len(own) > MOST:
            raise UserError(
                f"{source.pictures.what(row)}: {len(own)} phrases, and a mask has numbers for {MOST}; name fewer"
            )
        found.append(Asked(text, own))
    lone = sum(len(one.phrases) == 1 for one in found)
    if lone and state().is_main_process:
        warn(
            f"{source.pictures.where}: {lone} of {len(found)} pictures have one phrase only: it is held against the"
            f" background alone, and is {_alone(settings_of(HeatmapConfig, config.pixels).filled())}"
        )
    return found


def _alone(settings: HeatmapConfig) -> str:
    """Say what calibration, which holds phrases against each other, does with a phrase alone; ``settings``: filled."""
    if settings.calibration == "constant":
        return "pressed down as every phrase is"
    if settings.calibration == "none" or settings.normalise != "zero":
        return "not calibrated (S = 1)"
    harms = "better" if settings.calibration == "elbo" else "worse"
    return f"pressed down only where the network does {harms} without it"


def _tuned_on(config: DictConfig, run: RunFolder, work: SegmentedPictures) -> SegmentedPictures | None:
    """The labelled pictures that the threshold is fitted on; None where it is given. UserError without labels."""
    tune = config.segment.tune
    if tune is None:
        return None
    source = work.source if tune == ORACLE else _load(config, tune, "segment.tune")
    where = source.pictures.where
    if not source.labelled:
        raise UserError(
            f"segment.tune={short(tune)}: {where} has no labels to fit a threshold on; give a data set, or a table with"
            " a column label"
        )
    if tune == ORACLE:
        return work
    if source.pictures.digest == work.source.pictures.digest and where == work.source.pictures.where:
        raise UserError(
            f"segment.tune={short(tune)} is what is segmented: a threshold fitted there is no measure of it; give other"
            f" pictures, or say segment.tune={ORACLE}, which is printed"
        )
    return SegmentedPictures(run.root / TUNE, source, _asked(source, config), config.segment.rows_per_unit)


def _threshold(config: DictConfig, pixels: HeatmapConfig, tuned: SegmentedPictures | None) -> Threshold:
    """The heat from which a pixel is a phrase's, and where that number comes from."""
    if tuned is None:
        given = config.pixels.threshold is not None
        origin = "given" if given else f"the default of pixels.method={pixels.method}"
        return Threshold(float(pixels.filled().threshold or 0), origin)
    oracle = config.segment.tune == ORACLE
    labels = sum(label is not None for label in tuned.source.labels)
    on = (
        "the labels of these very pictures"
        if oracle
        else f"{labels} pictures of {tuned.source.pictures.where}"
    )
    return fitted(tuned, on, oracle)


def _figures(
    config: DictConfig, pixels: HeatmapConfig, work: SegmentedPictures, threshold: Threshold
) -> dict[str, Any]:
    """What ``segmentation.json`` says."""
    parts = list(drawn(work))
    rows = [row for part in parts for row in part["rows"]]
    if not rows:
        raise UserError(f"{work.source.pictures.where}: none of its {len(work.source)} pictures decodes")
    left_out = work.source.pictures.left_out + len(work.source) - len(rows)
    if left_out:
        warn(
            f"{work.source.pictures.where}: {left_out} pictures are left out: they do not decode, or show no phrase"
        )
    for note in work.source.pictures.notes:
        warn(note)
    filled = pixels.filled()
    looks = filled.gap in ("none", "product")  # else no attention is looked at
    if looks and filled.refine != "none" and any(row["refined"] is False for row in rows):
        warn(
            "the model's attention of a picture to itself has no map (linear attention has none): heatmaps are not"
            f" refined, though pixels.refine={filled.refine}"
        )
    return {
        "schema": SCHEMA,
        "source": work.source.pictures.where,
        "model": read_json(work.folder / "model.json")["model"],
        "method": pixels.method,
        "settings": asdict(filled),
        "threshold": threshold._asdict(),
        "pictures": len(rows),
        "phrases": sum(len(row["phrases"]) for row in rows),
        "left_out": left_out,
        "forwards": sum(part["forwards"] for part in parts),
        "seconds": round(sum(part["seconds"] for part in parts), 3),
        "right": _right(rows, work.source.note),
        "rows": rows,
    }


def _right(rows: Iterable[Mapping[str, Any]], note: str) -> dict[str, Any] | None:
    """How right the masks of labelled pictures are; None where none has a label."""
    tally, objects, count = Tally(), [], 0
    for row in rows:
        if row["pixels"] is not None:
            count += 1
            tally.add(row["pixels"])
            objects.append([phrase["iou"] for phrase in row["phrases"]])
    if not count:
        return None
    there = any(one is not None for own in objects for one in own)
    own = object_iou(objects) if there else None
    return {
        "pictures": count,
        "note": ". ".join(filter(None, [note, NOT_OPEN])),
        "miou": None if math.isnan(tally.mean()) else tally.mean(),
        "object_iou": None if own is None else own.mean,
        "object_error": None if own is None else own.error,
        "classes": tally.classes(),
    }


def _say(figures: Mapping[str, Any], page: Path) -> None:
    rate = figures["pictures"] / max(figures["seconds"], 1e-9)
    say(
        f"segmented {figures['pictures']} pictures of {figures['source']} for {figures['phrases']} phrases by"
        f" {figures['method']} in {figures['seconds']:.0f} s ({rate:.1f} pictures/s, {figures['forwards']} forwards)"
    )
    say(f"threshold {figures['threshold']['value']:.4g}, {figures['threshold']['origin']}")
    for row in figures["rows"][:_SHOWN]:
        parts = [f"{short(one['text'], 60)} {100 * one['area']:.1f} %" for one in row["phrases"]]
        say(f"  {short(row['name'], 60)}: {', '.join(parts)} of the picture")
    if len(figures["rows"]) > _SHOWN:
        say(f"  and {len(figures['rows']) - _SHOWN} more")
    if (right := figures["right"]) is not None:
        error = "" if right["object_error"] is None else f" ± {100 * right['object_error']:.1f}"
        mean = "–" if right["object_iou"] is None else f"{100 * right['object_iou']:.1f}{error}"
        oracle = " with an oracle threshold" if figures["threshold"]["oracle"] else ""
        miou = "–" if right["miou"] is None else f"{100 * right['miou']:.1f}"
        say(
            f"mIoU {miou} over {len(right['classes'])} classes{oracle}, object IoU {mean}, of"
            f" {right['pictures']} labelled pictures. {right['note']}"
        )
    say(f"page: {page.resolve()}")
