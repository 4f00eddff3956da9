"""Where in the picture each word is, against masks that are known to the pixel: ``python -m benchmarks.pixels``.

Scenes of held-out prompts are drawn, and the embedded models are asked where their objects are: by ours and its parts,
by the formulas of others, with fewer network evaluations, with and without calibration, and with a phrase in the prompt
that is not in the picture. Settings were chosen on dev scenes; thresholds are fitted on them in the same run, but that
of ``ours`` is its default. Figures are of fresh scenes. A quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.pixels_scenes import Pictured, scenes, tensors
from mitune.families import load_denoiser
from mitune.files import read_json
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.collecting import Collector, Found
from mitune.pixels.heatmaps import made
from mitune.pixels.iou import Mean, Tally, counts, mean_of, objects, paired
from mitune.pixels.masks import GRID, Threshold, fitted, fixed, masks

MODELS = {"shapes": "UNet", "shapes_flow": "flow"}
TIMES = (10, 5, 3, 2, 1)  # of gaps, below the default
_TRIED = GRID[4::5]
_ATTENTION = {"refine": "none", "gap": "none", "calibration": "none", "upsample": "bilinear"}
_BARE = {"calibration": "none", "upsample": "bilinear"}
# Row -> what is measured for it, and the settings that make its maps of it.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention alone": ("ours", _ATTENTION),
    "attention refined": ("ours", _ATTENTION | {"refine": "mutual"}),
    "gap without the phrase alone": ("ours", _BARE | {"gap": "gap"}),
    "attention alone, guided": ("ours", _ATTENTION | {"upsample": "guided"}),
    "ours without guided upsampling": ("ours", {"upsample": "bilinear"}),
    "ours": ("ours", {}),
    "elbo (ELBO-T2IAlign as its code has it)": ("elbo", {"method": "elbo"}),
    "elbo on the maps of ours": (
        "ours by phrase",
        {"layers": "gaussian", "refine": "twice", "gap": "none", "losses": "phrase", "normalise": "minmax",
         "order": "calibrate", "upsample": "bilinear"},
    ),
    "daam": ("daam", {"method": "daam"}),
    "diffsegmenter": ("diffsegmenter", {"method": "diffsegmenter"}),
    "diffpng": ("diffpng", {"method": "diffpng"}),
}  # fmt: skip
KINDS = {
    "attention alone": _ATTENTION,
    "ours without guided upsampling": {"upsample": "bilinear"},
    "ours": {},
}
CALIBRATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("ours", {"calibration": "none"}),
    "the paper's min-max": ("ours by phrase", {"calibration": "elbo", "losses": "phrase", "normalise": "minmax"}),
    "the default": ("ours", {"calibration": "elbo"}),
    "the default, flipped": ("ours", {"calibration": "flipped"}),
    "all alike": ("ours", {"calibration": "constant"}),
}  # fmt: skip


class Study:
    """Measures scenes with a model once for each way to measure, and makes maps of it in many ways."""

    def __init__(self, name: str, device: str) -> None:
        self._denoiser = load_denoiser(name, device=device)
        self._found: dict[tuple[str, str], list[Found]] = {}
        self._pictures: dict[str, Tensor] = {}
        self.scenes: dict[str, list[Pictured]] = {}

    def add(self, part: str, drawn: list[Pictured]) -> None:
        """Take scenes."""
        self.scenes[part], self._pictures[part] = drawn, tensors(drawn)

    def found(self, part: str, way: str) -> list[Found]:
        """What is measured of the scenes of a part; measured once."""
        if (part, way) not in self._found:
            if (
                way == "ours by phrase"
            ):  # the losses of the phrases alone, in the place of what the prompt gains
                ours, theirs = self.found(part, "ours"), self.found(part, "elbo")
                self._found[part, way] = [
                    dataclasses.replace(one, losses=other.losses)
                    for one, other in zip(ours, theirs, strict=True)
                ]
            else:
                self._found[part, way] = self._measure(part, way)
        return self._found[part, way]

    def _measure(self, part: str, way: str) -> list[Found]:
        method, _, times = way.partition(":")
        settings = HeatmapConfig(method=method, loss_times=int(times) if times else None)
        if times:
            settings.times = int(times)
        print(f"{self._denoiser.identity.partition('#')[0]}: {part} scenes by {way}", flush=True)
        drawn = self.scenes[part]
        z0 = self._denoiser.encode_image(self._pictures[part])
        return Collector(self._denoiser, settings.filled(), 64).collect(
            z0, [one.asked for one in drawn], [one.seed for one in drawn]
        )

    def maps(self, part: str, way: str, sets: Mapping[str, Any]) -> list[Tensor]:
        """Heatmaps [P, 64, 64] of each scene."""
        settings = HeatmapConfig(**sets).filled()
        grid = tuple(self._denoiser.latent_shape[-2:])
        made_of = [_without(one, settings) for one in self.found(part, way)]
        return [
            made(one, settings, grid, picture).maps
            for one, picture in zip(made_of, self._pictures[part], strict=True)
        ]

    def forwards(self, part: str, way: str, sets: Mapping[str, Any]) -> float:
        """Network evaluations a picture that a row needs: those of what it looks at and compares."""
        settings = HeatmapConfig(**sets).filled()
        if way == "ours by phrase":
            way = "elbo"
        every = np.mean([one.forwards for one in self.found(part, way)])
        alone = settings.gap == "none" and settings.calibration in ("none", "constant")
        return float(settings.times or 0) if alone and settings.caption == "prompt" else float(every)


def _without(found: Found, settings: HeatmapConfig) -> Found:
    """What was measured, less what the settings do not use."""
    looks = found.looks if settings.gap in ("none", "product") else ()
    gaps = found.gaps if settings.gap != "none" else None
    return dataclasses.replace(found, looks=looks, gaps=gaps)


def of_scenes(maps: Sequence[Tensor], drawn: Sequence[Pictured], threshold: float) -> list[float]:
    """The mean IoU of the objects of each scene."""
    found = []
    for heat, one in zip(maps, drawn, strict=True):
        own = objects(masks(heat, threshold).numpy(), one.label, len(one.asked.phrases))
        there = [value for value in own if value is not None]
        found.append(sum(there) / len(there))
    return found


def threshold_of(study: Study, way: str, sets: Mapping[str, Any]) -> Threshold:
    """The threshold with the highest object IoU of the dev scenes."""
    drawn = study.scenes["dev"]
    maps = study.maps("dev", way, sets)
    return fitted(
        lambda value: float(np.mean(of_scenes(maps, drawn, value))), f"{len(drawn)} dev scenes", grid=_TRIED
    )


def written(mean: Mean) -> dict[str, Any]:
    """As the record has it, in points."""
    low, high = mean.interval or (mean.mean, mean.mean)
    return {"mean": 100 * mean.mean, "error": 100 * (mean.error or 0), "ci95": [100 * low, 100 * high]}


def row_of(
    study: Study, way: str, sets: Mapping[str, Any], own: Threshold | None = None
) -> tuple[dict[str, Any], list[float]]:
    """A row of the table, and the object IoU of each fresh scene."""
    threshold = own or threshold_of(study, way, sets)
    drawn, maps = study.scenes["fresh"], study.maps("fresh", way, sets)
    values = of_scenes(maps, drawn, threshold.value)
    tally = Tally()
    for heat, one in zip(maps, drawn, strict=True):
        nouns = [one.asked.prompt[slice(*phrase.noun)] for phrase in one.asked.phrases]
        tally.add(counts(masks(heat, threshold.value).numpy(), one.label, nouns))
    row = written(mean_of(values)) | {
        "miou": 100 * tally.mean(),
        "forwards": study.forwards("fresh", way, sets),
        "threshold": threshold.value,
        "origin": threshold.origin,
    }
    return row, values


def rows_of(study: Study, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows, and their paired differences to ``ours``."""
    default = fixed(float(HeatmapConfig().filled().threshold or 0))
    rows, values = {}, {}
    for name in names:
        way, sets = ROWS[name]
        rows[name], values[name] = row_of(study, way, sets, default if name == "ours" else None)
    against = {name: written(paired(values["ours"], own)) for name, own in values.items() if name != "ours"}
    bare = "ours without guided upsampling"
    against |= {
        f"{name} (without guided upsampling)": written(paired(values[bare], own))
        for name, own in values.items()
        if name not in ("ours", bare)
    }
    return rows, against


def baselines(study: Study) -> dict[str, Any]:
    """Maps of nothing: noise, and a blob in the middle for every phrase."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, 64)
    blob = torch.exp(-(line[:, None] ** 2 + line[None] ** 2) / (2 * 0.5**2))
    found = {}
    for name in ("random", "blob in the middle"):
        heat: dict[str, list[Tensor]] = {}
        for part in ("dev", "fresh"):
            counts_of = [len(one.asked.phrases) for one in study.scenes[part]]
            noise = [torch.rand(1, count, 8, 8, generator=generator) for count in counts_of]
            heat[part] = [
                torch.nn.functional.interpolate(own, (64, 64), mode="bilinear")[0] if name == "random"
                # equal heats would all be the first phrase's
                else blob * (0.99 + 0.01 * torch.nn.functional.interpolate(own, (64, 64), mode="bilinear")[0])
                for own in noise
            ]  # fmt: skip
        scores = {
            value: float(np.mean(of_scenes(heat["dev"], study.scenes["dev"], value))) for value in _TRIED
        }
        best = max(scores, key=lambda value: scores[value])
        values = of_scenes(heat["fresh"], study.scenes["fresh"], best)
        found[name] = written(mean_of(values)) | {"forwards": 0, "threshold": best}
    return found


def curve(study: Study) -> dict[str, Any]:
    """Ours with fewer times, with and without guided upsampling."""
    found: dict[str, Any] = {}
    default = fixed(float(HeatmapConfig().filled().threshold or 0))
    for times in TIMES:
        way = f"ours:{times}"
        for name, sets in (("ours", {}), ("ours without guided upsampling", {"upsample": "bilinear"})):
            row, _ = row_of(study, way, sets, default if name == "ours" else None)
            found[f"{name}, {times} times"] = row | {"forwards": study.forwards("fresh", way, {})}
    return found


def calibrations(study: Study) -> dict[str, Any]:
    """What calibration changes where all phrases are true, and where one is absent; thresholds of the dev scenes."""
    found: dict[str, Any] = {}
    for kind, base in KINDS.items():
        before: dict[str, list[float]] = {}
        for name, (way, sets) in CALIBRATIONS.items():
            own = base | sets
            threshold = threshold_of(study, way, own)
            entry: dict[str, Any] = {"threshold": threshold.value}
            for part in ("fresh", "absent"):
                drawn, maps = study.scenes[part], study.maps(part, way, own)
                values = of_scenes(maps, drawn, threshold.value)
                before.setdefault(part, values)
                entry[part] = written(mean_of(values)) | {"difference": written(paired(values, before[part]))}
                if part == "absent":
                    areas = [
                        float((masks(heat, threshold.value) == heat.shape[0]).float().mean()) for heat in maps
                    ]
                    entry[part]["area given to what is absent"] = 100 * float(np.mean(areas))
            found.setdefault(kind, {})[name] = entry
    return found


def absent(study: Study) -> dict[str, Any]:
    """How often the absent phrase has a higher loss than a present one of its picture (AUC), and the highest of all."""
    found = {}
    for name, way in (
        ("loss of the prompt less that without the phrase", "ours"),
        ("loss of the phrase alone", "ours by phrase"),
    ):
        wins, highest = [], []
        for one in study.found("absent", way):
            assert one.losses is not None
            loss = one.losses.mean(0)
            wins.append(float((loss[-1] > loss[:-1]).double().mean()))
            highest.append(float(loss[-1] > loss[:-1].max()))
        auc = mean_of(wins)
        found[name] = {
            "auc": auc.mean,
            "error": auc.error,
            "highest": float(np.mean(highest)),
            "pictures": auc.pictures,
        }
    every = [
        (one.losses.mean(0) if one.losses is not None else None) for one in study.found("absent", "ours")
    ]
    there = torch.cat([loss[:-1] for loss in every if loss is not None])
    gone = torch.stack([loss[-1] for loss in every if loss is not None])
    found["loss of the prompt less that without the phrase"] |= {
        "auc over all pictures": float((gone[:, None] > there[None]).double().mean()),
        "absent above zero": float((gone > 0).double().mean()),
        "present above zero": float((there > 0).double().mean()),
    }
    return found


def figures(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures with targets."""
    unet, flow = models["shapes"], models.get("shapes_flow")
    bare = "ours without guided upsampling"
    of = [
        ("object IoU, attention alone", unet["rows"]["attention alone"]["mean"], 53),
        (f"object IoU, {bare}", unet["rows"][bare]["mean"], 66),
        ("object IoU, ours", unet["rows"]["ours"]["mean"], 85),
    ]
    if flow:
        of += [
            ("flow model: object IoU, attention alone", flow["rows"]["attention alone"]["mean"], 55),
            (f"flow model: object IoU, {bare}", flow["rows"][bare]["mean"], 62),
            ("flow model: object IoU, ours", flow["rows"]["ours"]["mean"], 62),
        ]
    for kind in KINDS:
        default = unet["calibration"][kind]["the default"]
        of += [
            (f"calibration, {kind}, true captions: lower end", default["fresh"]["difference"]["ci95"][0], -1),
            (f"calibration, {kind}, one phrase absent: lower end", default["absent"]["difference"]["ci95"][0], 2),
        ]  # fmt: skip
    found = [common.figure(name, value, "points", target) for name, value, target in of]
    for name, entry in unet["absent"].items():
        found.append(common.figure(f"absent phrase found by the {name}: AUC", entry["auc"], "", 0.98))
    for name in ("elbo (ELBO-T2IAlign as its code has it)", "elbo on the maps of ours"):
        difference = unet["against"][f"{name} (without guided upsampling)"]
        low, high = difference["ci95"]
        found.append(
            common.figure(
                f"ours without guided upsampling less {name}", difference["mean"], "points", 8,
                note=f"95 % interval {low:+.1f} to {high:+.1f}",
            )
        )  # fmt: skip
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    models: dict[str, Any] = {}
    for name in options.model:
        study = Study(name, options.device)
        study.add("dev", scenes("dev", options.dev))
        study.add("fresh", scenes("fresh", options.scenes))
        rows, against = rows_of(study, [*ROWS])
        models[name] = {"rows": baselines(study) | rows, "against": against, "curve": curve(study)}
        if name == "shapes":
            study.add("absent", scenes("fresh", options.scenes, absent=True))
            models[name] |= {"calibration": calibrations(study), "absent": absent(study)}
        models[name]["measured"] = {key: common.origin()[key] for key in ("date", "git")}
    before = Path(options.out) / f"{options.name}.json"
    kept = read_json(before)["models"] if before.exists() else {}
    models = {name: models.get(name, kept.get(name)) for name in MODELS if name in models or name in kept}
    return {
        "settings": common.settings_of(options, "device", "model"),
        "comparisons": [],
        "figures": figures(models) if "shapes" in models else [],
        "more": {"models": models},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/pixels.json`` and its table."""
    parser = common.parser("pixels", __doc__, "pixels", scenes=300, dev=100, threads=1)
    parser.add_argument(
        "--model", nargs="+", choices=MODELS, default=[*MODELS], help="of others the record keeps what it has"
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
