"""Edits made unit by unit: what lies there is not made again, and many processes share the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from omegaconf import DictConfig
from torch import Tensor

from mitune.data.decoding import decode_picture
from mitune.denoiser import Denoiser
from mitune.digests import sha256_of, whole_unit, write_unit
from mitune.distributed import broadcast, wait, work_queue
from mitune.errors import UserError
from mitune.files import clean_partial, read_json, write_json, write_tensors
from mitune.information.scoring import Scoring
from mitune.out_of_memory import advice, largest_that_fits
from mitune.pixels.editing import Edited, edit
from mitune.pixels.plans import Plan
from mitune.pixels.settings import EditConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.stages.edits import Edit, digest
from mitune.stages.inputs import settings_of
from mitune.stages.picture_scores import score_batch
from mitune.stages.progress import progress, warn_of_idle
from mitune.stages.units import CostCounter, bind_model
from mitune.tasks import Task


class Editing:
    """Makes edits unit by unit; many processes may, each its own units.

    Args:
        folder: where the units lie.
        edits, plans: what is asked for, and how each is done.
        config: of the command: sections ``edit`` and ``generate``.
        sampler: that walks.
        scoring: the scores of the pictures, and the model that is walked and asked.
    """

    def __init__(
        self,
        folder: Path,
        edits: Sequence[Edit],
        plans: Sequence[Plan],
        config: DictConfig,
        sampler: SamplerConfig,
        scoring: Scoring,
    ) -> None:
        self.folder, self.edits, self.plans, self.sampler = folder, list(edits), plans, sampler
        self.scoring, self.denoiser = scoring, scoring.denoiser
        self.settings = settings_of(EditConfig, config.edit)
        self.batch = config.generate.batch_size
        size = self.settings.rows_per_unit
        self.units = [range(at, min(at + size, len(edits))) for at in range(0, len(edits), size)]

    def path(self, unit: int) -> Path:
        """Give the table of a unit; its latents and its note lie beside it."""
        return self.folder / f"unit-{unit:06d}.parquet"

    def make(self) -> None:
        """Make every unit that is not there yet. Raises UserError where the folder holds other edits."""

        def begin() -> list[int]:
            clean_partial(self.folder)
            plan = {
                "edits": len(self.edits),
                "rows_per_unit": self.settings.rows_per_unit,
                "sha256": digest(self.edits),
            }
            path = self.folder / "plan.json"
            if path.exists() and (before := read_json(path)) != plan:
                raise UserError(f"{self.folder} holds {_other(before, plan)}; choose another edit.out=")
            write_json(path, plan)
            bind_model(self.folder, self.denoiser.identity, "edits by", "edit.out=", self.scoring.judges)
            return [unit for unit in range(len(self.units)) if not whole_unit(self.path(unit))]

        todo = broadcast(begin)
        warn_of_idle(len(todo), "units", "edit.rows_per_unit")
        total, left = len(self.edits), sum(len(self.units[unit]) for unit in todo)
        with progress("edit", total, total - left, unit="edits") as bar:
            shown = 0
            for place, unit in work_queue(todo):
                bar(sum(len(self.units[other]) for other in todo[shown:place]))  # the others'
                shown = place + 1
                self._make_unit(unit)
                bar(len(self.units[unit]))
        wait()

    def _make_unit(self, unit: int) -> None:
        counter = CostCounter(self.denoiser, self.scoring)
        numbers = list(self.units[unit])
        size = self.denoiser.latent_shape
        tensors = {name: torch.zeros(len(numbers), *size) for name in ("before", "after")}
        tensors["masks"] = torch.zeros(len(numbers), *size[-2:])
        missed = [float("nan")] * len(numbers)
        for real in (False, True):
            rows = [i for i, number in enumerate(numbers) if (self.edits[number].picture is not None) == real]
            if not rows:
                continue
            own = [numbers[i] for i in rows]
            latents = None
            if real:
                latents, errors = self._encoded(own)
                for i, error in zip(rows, errors, strict=True):
                    missed[i] = error
            found = self._edited(own, latents)
            for name, tensor in tensors.items():
                tensor[rows] = getattr(found, name).to(tensor)
        scores = self._scores(tensors["before"], tensors["after"], numbers)
        path = self.path(unit)
        data = write_tensors(path.with_suffix(".safetensors"), tensors)
        beside = {path.with_suffix(".safetensors").name: sha256_of(data)}
        table = pa.table({"row": numbers, "reconstruction": missed} | scores)
        write_unit(path, table, counter.read(), beside)

    def _edited(self, numbers: Sequence[int], latents: Tensor | None) -> Edited:
        """Make some edits. Raises UserError where they do not fit into memory: it says how many pictures would."""
        plans = [self.plans[number] for number in numbers]
        seeds = [self.edits[number].seed for number in numbers]
        try:
            return edit(self.denoiser, plans, seeds, self.sampler, self.settings, self.batch, latents)
        except torch.OutOfMemoryError as error:
            line = self._too_large(plans, seeds)
            raise UserError(line) from error

    def _too_large(self, plans: Sequence[Plan], seeds: Sequence[int]) -> str:
        """What to say of a batch that does not fit: how many pictures would, two an edit, by one step each that takes
        over all maps."""
        probe = replace(self.sampler, steps=1, guidance_interval=None)
        every = replace(self.settings, cross_share=1.0, self_share=1.0)
        size = min(max(2, self.batch), 2 * len(plans))

        def attempt(pictures: int) -> None:
            pairs = max(1, pictures // 2)
            edit(self.denoiser, plans[:pairs], seeds[:pairs], probe, every, pictures)

        return advice("a batch", size, largest_that_fits(size, attempt), "generate.batch_size={fits}")

    @torch.no_grad()
    def _encoded(self, numbers: Sequence[int]) -> tuple[Tensor, list[float]]:
        """Latents of the pictures of some edits, and how far the autoencoder alone gives each back: mean difference."""
        shown = torch.stack([_opened(self.edits[number], self.denoiser) for number in numbers])
        latents = self.denoiser.encode_image(shown.to(self.denoiser.device))
        missed = (self.denoiser.decode(latents).cpu() - shown).abs().flatten(1).mean(1)
        return latents, missed.tolist()

    def _scores(self, before: Tensor, after: Tensor, numbers: Sequence[int]) -> dict[str, list[float]]:
        """The scores of the target prompt, of both pictures."""
        if not self.scoring.scorers:
            return {}
        tasks = [Task.of(self.edits[number].wanted.target) for number in numbers]
        seeds = [self.edits[number].seed for number in numbers]
        found: dict[str, list[float]] = {}
        for when, latents in (("before", before), ("after", after)):
            there = score_batch(self.scoring, latents.to(self.denoiser.device), None, tasks, seeds)
            found |= {f"{name}_{when}": values.tolist() for name, values in there.items()}
        return found


def _other(before: Any, plan: dict[str, Any]) -> str:
    """In which way what a folder was begun with is another plan."""
    size = before.get("rows_per_unit") if isinstance(before, dict) else None
    return (
        f"units of {size} edits (edit.rows_per_unit)"
        if before == plan | {"rows_per_unit": size}
        else "other edits"
    )


def _opened(edit: Edit, denoiser: Denoiser) -> Tensor:
    """The picture of an edit, scaled and cut to the model's size."""
    assert edit.picture is not None
    return decode_picture(
        edit.picture.read(), denoiser.picture_size, edit.picture.path, "give another picture"
    )[0]
