"""Score finished pictures, unit by unit: what ``score`` and the real pictures of ``select`` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mitune import leaving
from mitune.data.decoding import decode_picture
from mitune.data.pictures.contents import Contents, read_contents, read_or_none, seeds_of
from mitune.data.pictures.rows import Pictures, numbers
from mitune.denoiser import Denoiser
from mitune.digests import whole_unit, write_unit
from mitune.distributed import broadcast, state, wait, work_queue
from mitune.errors import UserError
from mitune.files import clean_partial, read_json, write_json
from mitune.information.scoring import Scoring
from mitune.sampling.seeds import candidate_seed
from mitune.stages.progress import Bar, progress, warn, warn_of_idle
from mitune.stages.units import Cost, CostCounter, bind_model, total_cost
from mitune.tasks import Task
from mitune.threads import side_by_side

_COST = b"mitune.cost"
_CONTENTS = "pictures_sha256"  # in a unit's note: the digest of the pictures that its scores are of
_TYPES = {"row": pa.int64(), "image": pa.string(), "text": pa.string(), "resized": pa.bool_()}


def picture_seeds(seed: int, texts: Sequence[str]) -> list[int]:
    """Give the seed of each picture's noise: by ``seed``, its caption and how often that came before."""
    return [candidate_seed(seed, text, number) for text, number in zip(texts, numbers(texts), strict=True)]


def score_batch(
    scoring: Scoring, latents: Tensor, pictures: Tensor | None, tasks: Sequence[Task], seeds: Sequence[int]
) -> dict[str, Tensor]:
    """Score a batch of finished pictures, each for its own task: [n] float64 on the CPU, by score.

    Args:
        scoring: what is asked.
        latents: [n, …] on the device.
        pictures: [n, 3, H, W] in [0, 1]; None: they are decoded where a judge looks at them.
        tasks, seeds: one a picture.
    """
    found = scoring.on_latents(latents, tasks, seeds)
    if scoring.needs_pictures:
        shown = scoring.denoiser.decode(latents) if pictures is None else pictures
        found |= scoring.on_pictures(shown, [task.text for task in tasks])
    return {name: values.double().cpu() for name, values in found.items()}


class ScoredPictures:
    """Keeps the scores of a source in ``folder``, unit by unit. Many processes may write, each its own units."""

    def __init__(self, folder: Path, pictures: Pictures, rows_per_unit: int) -> None:
        self.folder = folder
        self.pictures = pictures
        self.size = rows_per_unit
        self.units = range(-(-len(pictures) // rows_per_unit))

    def path(self, unit: int) -> Path:
        return self.folder / f"unit-{unit:06d}.parquet"

    @property
    def plan(self) -> dict[str, Any]:
        """The plan says what the units are of."""
        return {"rows": len(self.pictures), "rows_per_unit": self.size, "sha256": self.pictures.digest}

    def check(self) -> None:
        """Tidy the folder. Raises UserError if it holds the scores of another source. Main process only."""
        clean_partial(self.folder)
        path = self.folder / "plan.json"
        if path.exists() and (before := read_json(path)) != self.plan:
            other = (
                "units of another size (score.rows_per_unit)"
                if before["sha256"] == self.plan["sha256"]
                else "other pictures"
            )
            raise UserError(f"{self.folder} holds scores of {other}; choose another score.out=, or delete it")

    def todo(self) -> list[int]:
        """List the units yet to be scored: those that are not there, and those whose pictures are others by now,
        which is said. Main process only."""
        found = zip(self.units, side_by_side(self._whole, self.units), strict=True)
        whole = [unit for unit, is_whole in found if is_whole]
        changed = self._changed(whole)
        return sorted({*self.units} - {*whole} | {*changed})

    def _changed(self, units: list[int]) -> list[int]:
        """Those of the finished ``units`` whose pictures, read again, are not what was scored."""
        notes = zip(units, self.notes(units), strict=True)
        noted = {unit: note.get(_CONTENTS) for unit, note in notes}
        known = [unit for unit in units if noted[unit] is not None]
        if len(known) < len(units):
            warn(
                f"{self.folder} has scores from before digests of pictures were kept; they are taken as they are"
            )
        changed, total = [], self._count(known)
        with progress("compare", total, unit="pictures") as advance:
            for unit in known:
                leaving.check()
                if read_contents(self.pictures, self._rows(unit)) != noted[unit]:
                    changed.append(unit)
                advance(len(self._rows(unit)))
        if changed:
            warn(
                f"{self.pictures.where}: pictures have changed since {self.folder} got their scores; scores of"
                f" {self._count(changed)} pictures are made again"
            )
        return changed

    def notes(self, units: Sequence[int]) -> list[dict[str, Any]]:
        """Give what these units noted when they were scored."""
        return side_by_side(read_json, [self.path(unit).with_suffix(".json") for unit in units])

    def _count(self, units: list[int]) -> int:
        return sum(len(self._rows(unit)) for unit in units)

    def _whole(self, unit: int) -> bool:
        whole = whole_unit(self.path(unit))
        if whole is not None:
            return whole
        try:
            return _COST in (pq.read_schema(self.path(unit)).metadata or {})
        except (OSError, pa.ArrowInvalid):
            return False

    def score(
        self,
        load: Callable[[], tuple[Any, Scoring]],
        seed: int,
        batch_size: int,
        skip: bool = False,
        title: str = "score",
    ) -> None:
        """Score what is not scored yet.

        Args:
            load: opens the model, only where there is something to do.
            seed: of the noise; a picture's own depends on it, its caption and how often that came before, no more.
            batch_size: pictures a forward.
            skip: leave out pictures that do not decode.
            title: of the progress bar.

        Raises UserError for a picture that does not decode, for a score that is not finite, or where another model has
        begun.
        """

        def begin() -> list[int]:
            """As the first process sees it: what others see of a shared folder may be of yesterday."""
            self.check()
            return self.todo()

        todo = broadcast(begin)
        if not todo:
            return
        warn_of_idle(len(todo), "units", "score.rows_per_unit")
        denoiser, scoring = load()
        wait()  # all of them
        if state().is_main_process:
            # Only now: a model or profile that could not be read binds the folder to nothing.
            write_json(self.folder / "plan.json", self.plan)
            bind_model(self.folder, denoiser.identity, "scores by", "score.out=", scoring.judges)
        wait()
        seeds = self.seeds(seed)
        sizes = [len(self._rows(unit)) for unit in todo]
        total, shown = len(self.pictures), 0
        with denoiser.fused(), progress(title, total, total - sum(sizes), unit="pictures") as bar:
            for place, unit in work_queue(todo):
                bar(sum(sizes[shown:place]))  # the others'
                shown = place + 1
                self._score_unit(unit, denoiser, scoring, seeds, batch_size, skip, bar)
        wait()

    def seeds(self, seed: int) -> Sequence[int]:
        """Give the seed of each picture's noise: a candidate's own, or one by ``seed``, the caption and its number."""
        return self.pictures.seeds or picture_seeds(seed, self.pictures.texts)

    def _rows(self, unit: int) -> range:
        return range(unit * self.size, min((unit + 1) * self.size, len(self.pictures)))

    def _score_unit(
        self,
        unit: int,
        denoiser: Denoiser,
        scoring: Scoring,
        seeds: Sequence[int],
        batch_size: int,
        skip: bool,
        bar: Bar,
    ) -> None:
        counter, contents = CostCounter(denoiser, scoring), Contents()
        rows, resized, columns = [], [], []
        everything = self._rows(unit)
        for start in range(0, len(everything), batch_size):
            batch = list(everything[start : start + batch_size])
            batch, latents, shown, changed = self.open(batch, denoiser, skip, contents)
            if not batch:
                continue
            tasks = [self.pictures.task(row) for row in batch]
            rows += batch
            resized += changed
            columns.append(score_batch(scoring, latents, shown, tasks, [seeds[row] for row in batch]))
            bar(len(everything[start : start + batch_size]), {n: v.tolist() for n, v in columns[-1].items()})
        scores = {
            name: torch.cat([part[name] for part in columns]).tolist()
            for name in (columns[0] if columns else ())
        }
        self._check(rows, scores)
        identity = {
            "row": rows,
            "image": [self.pictures.names[row] for row in rows],
            "text": [self.pictures.texts[row] for row in rows],
            "resized": resized,
        }
        arrays = {name: pa.array(values, type=_TYPES[name]) for name, values in identity.items()}
        arrays |= {name: pa.array(values, type=pa.float64()) for name, values in scores.items()}
        note = {**counter.read(), _CONTENTS: contents.digest}
        write_unit(self.path(unit), pa.table(arrays).replace_schema_metadata({_COST: b"1"}), note)

    def open(
        self, batch: list[int], denoiser: Denoiser, skip: bool, contents: Contents | None = None
    ) -> tuple[list[int], Tensor, Tensor | None, list[bool]]:
        """(rows that could be opened, their latents, their pictures unless they are candidates, which were resized).

        ``contents`` takes what was read, be it a picture or not.
        """
        contents = contents or Contents()
        if self.pictures.latents is not None:
            stored = self.pictures.latents(batch)
            contents.latents(stored, seeds_of(self.pictures, batch))
            latents = stored.to(denoiser.device)
            if latents.shape[1:] != denoiser.latent_shape:
                raise UserError(
                    f"{self.pictures.where} holds latents of {tuple(latents.shape[1:])}, this model's are"
                    f" {tuple(denoiser.latent_shape)}; give the model that drew them"
                )
            return batch, latents, None, [False] * len(batch)
        opened, pictures, changed = [], [], []
        for row in batch:
            data = read_or_none(self.pictures, row, skip)
            contents.picture(data)
            if data is None:
                continue
            try:
                picture, own = decode_picture(data, denoiser.picture_size, self.pictures.what(row))
            except UserError:
                if not skip:
                    raise
                continue
            opened.append(row)
            pictures.append(picture)
            changed.append(own is not None)
        if not opened:
            return [], torch.empty(0), None, []
        shown = torch.stack(pictures)
        with torch.no_grad():
            return opened, denoiser.encode_image(shown.to(denoiser.device)), shown, changed

    def _check(self, rows: list[int], scores: dict[str, list[float]]) -> None:
        for name, values in scores.items():
            for row, value in zip(rows, values, strict=True):
                if not math.isfinite(value):
                    raise UserError(
                        f"score '{name}' is {value} for {self.pictures.what(row)}; try model.dtype=float32, or leave"
                        " this score out"
                    )

    def table(self) -> pd.DataFrame:
        """Read the numbers of all scored rows in their order: row, the source's own scores, the new scores; nothing of
        what they are of (:meth:`described`). ``attrs``: how many pictures were "resized".

        Raises UserError if nothing could be scored.
        """
        parts = [part for part in side_by_side(self._numbers, self.units) if len(part)]
        if not parts:
            raise self.none_opened(
                f"{self.pictures.where}: none of its {len(self.pictures)} pictures decodes"
            )
        table = pa.concat_tables(parts).to_pandas()
        rows = table["row"].tolist()
        result = table[["row"]].assign(
            **{name: [column[row] for row in rows] for name, column in self.pictures.scores.items()}
        )
        result = result.assign(**{name: table[name] for name in table.columns if name not in _TYPES})
        result.attrs["resized"] = int(table["resized"].sum())
        return result

    def _numbers(self, unit: int) -> pa.Table:
        with pq.ParquetFile(self.path(unit)) as file:
            names = [name for name in file.schema_arrow.names if name not in ("image", "text")]
            return file.read(names, use_threads=False).replace_schema_metadata(None)

    def described(self, table: pd.DataFrame) -> pd.DataFrame:
        """Give rows of :meth:`table` with what they are of: image, text and the source's own keys after their row."""
        table = table.reset_index(drop=True)
        rows, source = table["row"].tolist(), self.pictures
        columns = {"image": source.names, "text": source.texts, **source.keys}
        told = {name: [column[row] for row in rows] for name, column in columns.items()}
        return table[["row"]].assign(**told).assign(**{name: table[name] for name in table if name != "row"})

    def none_opened(self, what: str) -> UserError:
        """Make the error where all pictures were left out: ``what``, and why the first could not be read."""
        try:
            if self.pictures.read is not None:
                self.pictures.read(0)
        except UserError as error:
            why = str(error).split(", or leave such out")[0]
            return UserError(f"{what}; the first: {why}")
        return UserError(what)

    def cost(self) -> Cost:
        """Add up what the units took."""
        return total_cost(self.notes([*self.units]))

    def report(self, table: pd.DataFrame) -> dict[str, int]:
        """Tell what became of the pictures, and warn where something is to be said: {"resized", "left_out"}."""
        undecodable = len(self.pictures) - len(table)
        resized = table.attrs["resized"]
        if resized:
            warn(
                f"{self.pictures.where}: {resized} pictures of another size were scaled and cut to the model's"
            )
        for note in self.pictures.notes:
            warn(note)
        if self.pictures.left_out and self.pictures.latents is not None:
            warn(
                f"{self.pictures.where}: {self.pictures.left_out} candidates kept no latent and have no score"
            )
        elif self.pictures.left_out:
            warn(f"{self.pictures.where}: {self.pictures.left_out} pictures without a caption are left out")
        if undecodable:
            warn(f"{self.pictures.where}: {undecodable} pictures that do not decode are left out")
        return {"resized": resized, "left_out": undecodable + self.pictures.left_out}
