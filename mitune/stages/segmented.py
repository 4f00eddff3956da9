"""Heatmaps of many pictures, unit by unit: the part of ``segment`` that takes time, and that a kill must not lose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mitune import leaving
from mitune.data.decoding import as_tensor, open_picture
from mitune.data.labelled.source import Labelled
from mitune.data.pictures.contents import Contents, read_contents, read_or_none
from mitune.digests import FILES, changed, intact, seal, sha256_of
from mitune.distributed import broadcast, state, wait, work_queue
from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.files import clean_partial, read_json, write_bytes, write_json
from mitune.maps import words_of
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.collecting import plan_of
from mitune.pixels.drawings import Levels, grey_png, levels, read_grey, resized
from mitune.pixels.heatmaps import Heatmaps, heatmaps
from mitune.pixels.phrases import Asked
from mitune.reading import read_bytes
from mitune.stages.picture_scores import picture_seeds
from mitune.stages.progress import progress, warn, warn_of_idle
from mitune.stages.units import bind_model

HEATMAPS = "heatmaps"
_CONTENTS = "pictures_sha256"  # in a unit's note: the digest of the pictures that its heatmaps are of


class SegmentedPictures:
    """Keeps the heatmaps of a source in ``folder``, unit by unit. Many processes may write, each its own units.

    A unit is its heatmaps, ``heatmaps/NUMBER-PHRASE.png``, and then ``unit-NUMBER.json``, which says what was found and
    is the commit mark.
    """

    def __init__(self, folder: Path, source: Labelled, asked: Sequence[Asked], rows_per_unit: int) -> None:
        self.folder, self.source, self.asked = folder, source, asked
        self.size = rows_per_unit
        self.units = range(-(-len(source) // rows_per_unit))

    def path(self, unit: int) -> Path:
        """Name a unit's note."""
        return self.folder / f"unit-{unit:06d}.json"

    def heatmap(self, row: int, phrase: int) -> Path:
        """Name a heatmap's file: of a picture (from 0) and a phrase (from 1)."""
        return self.folder / HEATMAPS / f"{row:06d}-{phrase}.png"

    def rows(self, unit: int) -> range:
        """Give the pictures of a unit."""
        return range(unit * self.size, min((unit + 1) * self.size, len(self.source)))

    def grey(self, row: int) -> list[Levels]:
        """Read the heatmaps of a picture back."""
        count = len(self.asked[row].phrases)
        return [read_grey(read_bytes(self.heatmap(row, phrase))) for phrase in range(1, count + 1)]

    @property
    def plan(self) -> dict[str, Any]:
        """The plan says what the units are of."""
        phrases = [[[phrase.start, phrase.stop] for phrase in one.phrases] for one in self.asked]
        told = f"{self.source.pictures.digest} {phrases}"
        return {"rows": len(self.source), "rows_per_unit": self.size, "sha256": sha256_of(told.encode())}

    def check(self) -> None:
        """Tidy the folder. Raises UserError if it holds the heatmaps of another source. Main process only."""
        for place in (self.folder, self.folder / HEATMAPS):
            clean_partial(place)
        path = self.folder / "plan.json"
        if path.exists() and (before := read_json(path)) != self.plan:
            other = (
                "units of another size (segment.rows_per_unit)"
                if before["sha256"] == self.plan["sha256"]
                else "other pictures or phrases"
            )
            raise UserError(
                f"{self.folder} holds heatmaps of {other}; choose another segment.out=, or delete it"
            )

    def note(self, unit: int) -> dict[str, Any] | None:
        """Read what was found in a unit; None unless all of it is there as it was written."""
        try:
            found = read_json(self.path(unit))
        except UserError:
            return None
        whole = intact(found) and FILES in found and not changed(found[FILES], self.folder)
        return found if whole else None

    @property
    def forwards(self) -> int:
        """Count the network rows that the units took."""
        return sum((self.note(unit) or {"forwards": 0})["forwards"] for unit in self.units)

    def todo(self) -> list[int]:
        """List the units yet to be measured: those that are not whole, and those whose pictures are others by now,
        which is said. Main process only."""
        notes = {unit: self.note(unit) for unit in self.units}
        known = [unit for unit, found in notes.items() if found is not None]
        other = []
        with progress("compare", sum(len(self.rows(unit)) for unit in known), unit="pictures") as bar:
            for unit in known:
                leaving.check()
                if read_contents(self.source.pictures, self.rows(unit)) != (notes[unit] or {})[_CONTENTS]:
                    other.append(unit)
                bar(len(self.rows(unit)))
        if other:
            warn(
                f"{self.source.pictures.where}: pictures have changed since {self.folder} got their heatmaps; those of"
                f" {sum(len(self.rows(unit)) for unit in other)} pictures are made again"
            )
        return sorted({*self.units} - {*known} | {*other})

    def measure(
        self,
        load: Callable[[], Adapted],
        settings: HeatmapConfig,
        seed: int,
        batch_size: int,
        skip: bool,
        title: str = "segment",
    ) -> None:
        """Measure what is not measured yet.

        Args:
            load: opens the model, only where there is something to do.
            settings: section ``pixels``.
            seed: of the noise; a picture's own depends on it, its caption and how often that came before, no more.
            batch_size: rows a forward.
            skip: leave out pictures that do not decode.
            title: of the progress bar.

        Raises UserError for a picture that does not decode, a label that does not fit its picture, a phrase that is cut
        off, or where another model has begun.
        """

        def begin() -> list[int]:
            self.check()
            todo = self.todo()
            self._check_labels(todo, skip)
            return todo

        todo = broadcast(begin)
        if not todo:
            return
        warn_of_idle(len(todo), "units", "segment.rows_per_unit")
        denoiser = load()
        check_model(denoiser, self.asked, settings)
        wait()  # all of them
        if state().is_main_process:
            write_json(self.folder / "plan.json", self.plan)
            bind_model(self.folder, denoiser.identity, "heatmaps by", "segment.out=")
        wait()
        seeds = picture_seeds(seed, self.source.pictures.texts)
        sizes = [len(self.rows(unit)) for unit in todo]
        total, shown = len(self.source), 0
        with denoiser.fused(), progress(title, total, total - sum(sizes), unit="pictures") as bar:
            for place, unit in work_queue(todo):
                bar(sum(sizes[shown:place]))  # the others'
                shown = place + 1
                self._measure_unit(unit, denoiser, settings, seeds, batch_size, skip)
                bar(sizes[place])
        wait()

    def _check_labels(self, units: Sequence[int], skip: bool) -> None:
        """Raise UserError, before hours are spent, for a label that does not fit its picture. Main process only."""
        rows = [row for unit in units for row in self.rows(unit) if self.source.labels[row] is not None]
        if not rows:
            return
        with progress("labels", len(rows), unit="pictures") as bar:
            for row in rows:
                leaving.check()
                if picture := self._open(row, skip, Contents()):
                    size = picture.height, picture.width
                    self.source.label(row, len(self.asked[row].phrases), size)
                bar()

    def _measure_unit(
        self,
        unit: int,
        denoiser: Adapted,
        settings: HeatmapConfig,
        seeds: Sequence[int],
        batch_size: int,
        skip: bool,
    ) -> None:
        before, started = denoiser.forwards, time.perf_counter()
        contents = Contents()
        opened = [(row, picture) for row in self.rows(unit) if (picture := self._open(row, skip, contents))]
        rows = [row for row, _ in opened]
        figures: list[dict[str, Any]] = []
        files: dict[str, str] = {}
        asked = [self.asked[row] for row in rows]
        names = [self.source.pictures.what(row) for row in rows]
        found = heat_of(
            denoiser,
            [one for _, one in opened],
            asked,
            [seeds[row] for row in rows],
            settings,
            batch_size,
            names,
        )
        for (row, picture), (grey, own) in zip(opened, found, strict=True):
            for phrase, one in enumerate(grey, start=1):
                data, path = grey_png(one), self.heatmap(row, phrase)
                write_bytes(path, data)
                files[path.relative_to(self.folder).as_posix()] = sha256_of(data)
            told = {"losses": plain(own.losses), "scores": plain(own.scores), "refined": own.refined}
            figures.append({"row": row, "size": [picture.height, picture.width], **told})
        note = {
            "rows": figures,
            "forwards": denoiser.forwards - before,
            "seconds": round(time.perf_counter() - started, 3),
            _CONTENTS: contents.digest,
            FILES: files,
        }
        write_json(self.path(unit), seal(note))

    def _open(self, row: int, skip: bool, contents: Contents) -> Image.Image | None:
        """A picture at its own size; None for one that does not decode, with ``skip``."""
        data = read_or_none(self.source.pictures, row, skip)
        contents.picture(data)
        if data is None:
            return None
        try:
            return open_picture(data, self.source.pictures.what(row))
        except UserError:
            if not skip:
                raise
            return None


def check_model(denoiser: Adapted, asked: Sequence[Asked], settings: HeatmapConfig) -> None:
    """Raise UserError, before hours are spent and a folder is bound, for a phrase that the text encoder cuts off, for a
    model that edits pictures, and for one that shows no attention, where that is looked at."""
    if denoiser.edits_pictures:
        raise UserError(
            f"{denoiser.identity} edits pictures: what it is told is no text alone; give a model of text to image"
        )
    chosen = settings.filled()
    columns = denoiser.token_spans(
        [one.prompt for one in asked], [one.phrases for one in asked], str(chosen.columns)
    )
    if plan_of(asked[0], chosen).looks:
        told = denoiser.encode_prompts([asked[0].prompt])
        words = words_of(columns[:1], told.tensors["text"].shape[1])
        z = torch.zeros(1, *denoiser.latent_shape, device=denoiser.device)
        with torch.no_grad():
            denoiser.attention(z, denoiser.schedule.num_train_timesteps / 2, told, words)


def heat_of(
    denoiser: Adapted,
    pictures: Sequence[Image.Image],
    asked: Sequence[Asked],
    seeds: Sequence[int],
    settings: HeatmapConfig,
    batch_size: int,
    names: Sequence[str],
) -> list[tuple[list[Levels], Heatmaps]]:
    """Measure a few pictures: of each its heatmaps as levels at its own size, and what else was found.

    Args:
        denoiser: the model.
        pictures: of any size; the whole of each is scaled to the model's, as nothing of it may be cut off.
        asked, seeds: one a picture.
        settings, batch_size: as of :func:`mitune.pixels.heatmaps.heatmaps`.
        names: what each picture is in messages.

    Raises UserError for a picture whose heatmaps are not finite.
    """
    if not pictures:
        return []
    height, width = denoiser.picture_size
    scaled = [as_tensor(one.resize((width, height), Image.Resampling.BILINEAR)) for one in pictures]
    shown = torch.stack(scaled).to(denoiser.device)
    with torch.no_grad():
        latents = denoiser.encode_image(shown)
        found = heatmaps(denoiser, latents, asked, seeds, settings, batch_size, pictures=shown)
    for name, own in zip(names, found, strict=True):
        if not bool(torch.isfinite(own.maps).all()):
            raise UserError(f"a heatmap of {name} is not finite; try model.dtype=float32")
    return [
        (
            [
                levels(one)
                for one in resized([*own.maps.float().cpu().numpy()], (picture.height, picture.width))
            ],
            own,
        )
        for picture, own in zip(pictures, found, strict=True)
    ]


def plain(values: Tensor) -> list[float | None]:
    """Give numbers for JSON; None for what was not measured."""
    return [value if math.isfinite(value) else None for value in values.double().tolist()]
