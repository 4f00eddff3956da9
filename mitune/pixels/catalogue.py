"""The ways to make heatmaps, and their keys: a method is a row of settings, and each key changes one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.errors import UserError
from mitune.parts import Catalogue, Part
from mitune.settings import STEPS, Settings, check_interval, key

CAPTIONS = {"prompt": "the whole prompt", "phrase": "each phrase alone"}
COLUMNS = {"noun": "its head noun", "phrase": "all its words"}
LAYERS = {
    "all": "all alike",
    "inner": "all but the last, which shapes the output",
    "outer": "all but the middle block",
    "gaussian": "the middle ones most, along a bell",
    "paper": "by their grid, the coarsest most",
    "stretched": "each grid stretched to 0…1 first, the coarse ones most",
    "grids": "each grid stretched to 0…1 first, their geometric mean",
}
REFINES = {
    "none": "not at all",
    "rows": "by self-attention, to its power",
    "mutual": "the same, by how cells look at each other in both directions",
    "twice": "by that of all layers, then by that of the last ones",
    "cells": "by the mean self-attention of the cells above 0.4",
}
GAPS = {
    "none": "attention alone",
    "product": "the geometric mean of attention, refined attention and how far the network moves without the phrase",
    "gap": "how far it moves without the phrase, no attention",
    "elbo": "how much worse it tells the noise without the phrase, no attention",
    "mi": "how far it moves from nothing said to the phrase alone, no attention",
}
CALIBRATIONS = {
    "none": "not at all",
    "elbo": "the worse a phrase explains the picture, the more its map is pressed down",
    "constant": "all pressed down alike (a control)",
    "flipped": "the better a phrase explains the picture, the more (a control)",
}
LOSSES = {
    "phrase": "the error of the phrase alone",
    "drop": "the error of the prompt less that without the phrase",
}
NORMALISES = {
    "scale": "in the losses' own units",
    "error": "in standard errors of their difference",
    "zero": "in standard errors above none: only where the prompt does better without the phrase",
    "minmax": "from the best to the worst, as published",
}
ORDERS = {"refine": "refined, then calibrated", "calibrate": "calibrated, then refined"}
UPSAMPLES = {
    "bilinear": "smooth",
    "bicubic": "smooth, with overshoots cut off",
    "guided": "smooth where the picture is, with its edges",
}
SOURCES = {
    "auto": "the embedded world's grammar where it reads the prompt, else spaCy",
    "world": "the embedded world's grammar",
    "spacy": "noun chunks by spaCy (pip install 'mitune[spacy]')",
}


@dataclass(frozen=True)
class Method(Part):
    """A way to make heatmaps.

    Attributes:
        sets: the value of each key of ``HeatmapConfig`` that is null.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)


_ATTENTION = {
    "caption": "prompt", "times": 10, "t_min": 0, "t_max": 500, "columns": "noun", "layers": "grids",
    "refine": "mutual", "power": 1, "gap": "product", "calibration": "elbo", "losses": "drop", "loss_times": 20,
    "normalise": "zero", "gamma": 1 / 3, "scale": 2.0, "order": "refine", "upsample": "guided", "threshold": 0.7,
}  # fmt: skip
_PLAIN = _ATTENTION | {"refine": "none", "gap": "none", "calibration": "none", "upsample": "bilinear"}

METHODS = Catalogue(
    "method",
    Method("ours", "attention refined, times the gap without the phrase, softly calibrated, along the picture's edges",
           sets=_ATTENTION),
    Method("elbo", "ELBO-T2IAlign as its code has it (arXiv 2506.09740)",
           sets=_PLAIN | {"t_min": 10, "t_max": 210, "columns": "phrase", "layers": "gaussian", "refine": "twice",
                          "calibration": "elbo", "losses": "phrase", "normalise": "minmax", "order": "calibrate",
                          "threshold": 0.55}),
    Method("daam", "cross-attention over all times (DAAM, 2210.04885)",
           sets=_PLAIN | {"times": 20, "t_max": 1000, "layers": "outer", "upsample": "bicubic", "threshold": 0.4}),
    Method("diffsegmenter", "each phrase by itself, refined by self-attention (DiffSegmenter, 2309.02773)",
           sets=_PLAIN | {"caption": "phrase", "times": 1, "t_max": 200, "layers": "stretched", "refine": "rows",
                          "threshold": 0.5}),
    Method("diffpng", "the mean self-attention of the cells that look at the phrase (DiffPNG, 2407.05352)",
           sets=_PLAIN | {"times": 1, "t_max": 200, "columns": "phrase", "layers": "all", "refine": "cells",
                          "threshold": 0.3}),
)  # fmt: skip


@dataclass
class HeatmapConfig(Settings):
    """Set how heatmaps are made; null is as the method has it."""

    method: str = key("ours", "how heatmaps are made", choices=METHODS.meanings, basic=True)
    phrases: str = key("auto", "how the phrases of a prompt are found where none are given", choices=SOURCES)
    threshold: float | None = key(
        None, "a pixel where no map is above it is background", low=0, high=1, basic=True
    )
    upsample: str | None = key(None, "how maps are brought to the picture's size", choices=UPSAMPLES)
    gap: str | None = key(None, "how a map is made", choices=GAPS)
    caption: str | None = key(None, "what is said while attention is looked at", choices=CAPTIONS)
    times: int | None = key(None, "times a picture is noised at to look at attention", low=1, high=STEPS)
    t_min: int | None = key(None, "lowest of them (of 1000)", low=0, high=STEPS)
    t_max: int | None = key(None, "highest of them", low=0, high=STEPS)
    columns: str | None = key(None, "words of a phrase whose attention counts", choices=COLUMNS)
    layers: str | None = key(None, "how the layers are weighted", choices=LAYERS)
    refine: str | None = key(None, "how maps are refined", choices=REFINES)
    power: int | None = key(None, "power of the self-attention where maps are refined by it", low=0, high=10)
    calibration: str | None = key(
        None, "whether phrases are weighed against each other", choices=CALIBRATIONS
    )
    losses: str | None = key(None, "what says how badly a phrase explains the picture", choices=LOSSES)
    loss_times: int | None = key(
        None, "times a picture is noised at for that, and for gaps", low=1, high=STEPS
    )
    normalise: str | None = key(None, "how losses become strengths", choices=NORMALISES)
    scale: float | None = key(
        None, "difference of losses that counts in full, in these units", above=0, high=1e6
    )
    gamma: float | None = key(
        None, "strength of the worst phrase: its map to the power 1/gamma", above=0, high=1
    )
    order: str | None = key(None, "what comes first", choices=ORDERS)

    def filled(self) -> HeatmapConfig:
        """Give the settings with the method's values in the place of nulls. UserError for times that do not fit."""
        own = METHODS.find(self.method, "pixels.method").sets
        empty = {item.name for item in dataclasses.fields(self) if getattr(self, item.name) is None}
        found = dataclasses.replace(self, **{name: own[name] for name in empty})
        if (
            found.normalise == "zero"
            and found.losses == "phrase"
            and found.calibration not in ("none", "constant")
        ):
            raise UserError(
                "pixels.normalise=zero asks whether the prompt does better without a phrase, which pixels.losses=phrase"
                " does not tell; say pixels.losses=drop, or another pixels.normalise"
            )
        check_interval("pixels.", low := int(found.t_min or 0), high := int(found.t_max or 0))
        if int(found.times or 1) > high - low:
            raise UserError(
                f"pixels.times={found.times}: there are {high - low} steps between pixels.t_min={low} and"
                f" pixels.t_max={high}; say fewer, or a wider range"
            )
        return found
