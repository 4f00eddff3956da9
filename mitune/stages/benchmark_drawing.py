"""The pictures of a benchmark, drawn by one model and laid into the benchmark's own folders."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from mitune import digests
from mitune.data.store import UNIT, CandidateStore, Unit, plan_units
from mitune.distributed import broadcast, visible, wait, work_queue
from mitune.errors import UserError
from mitune.evaluate.benchmarks.lines import Files, Line, Shown
from mitune.evaluate.drawings import grid, png, to_image
from mitune.files import clean_partial, read_json, write_bytes, write_json, write_text
from mitune.stages.balancing import check_balance
from mitune.stages.benchmark_units import WORK
from mitune.stages.candidates import Drawing, decode_each, draw
from mitune.stages.inputs import check_lengths, check_pictures, load_model, sampler_of, scoring_of
from mitune.stages.progress import progress
from mitune.stages.units import Cost, total_cost


class Drawn:
    """Draws the pictures of one model, and knows where they lie.

    Args:
        root: of the benchmark; pictures lie in ``root/side``.
        side: whose they are.
        files: of the benchmark.
        lines: what is drawn.
        adapter: of the model; None for the base model.
    """

    def __init__(
        self, root: Path, side: str, files: Files, lines: Sequence[Line], adapter: Path | None
    ) -> None:
        self.root, self.place, self.side = root, root / side, side
        self.files, self.lines, self.adapter = files, lines, adapter
        self.store = CandidateStore(root / WORK / side / "candidates")
        self._notes = root / WORK / side / "pictures"
        self.shown = [
            Shown(line, number, self.place / files.place(line, number))
            for line in lines
            for number in range(files.asked.per_prompt)
        ]
        self._check_names()

    def _check_names(self) -> None:
        """Raise UserError where two pictures would have one name."""
        names = Counter(str(one.path).casefold() for one in self.shown)
        twice = next((one for one in self.shown if names[str(one.path).casefold()] > 1), None)
        if twice is not None:
            raise UserError(f"{twice.path}: two pictures would have this name; mend the prompt file")

    def units(self, rows: int) -> list[Unit]:
        """Plan the drawing: each text once, with the candidates of all lines that have it."""
        times = Counter(line.text for line in self.lines)
        tasks = {line.text: line.task for line in reversed(self.lines)}
        plan: list[Unit] = []
        for count in sorted(set(times.values())):
            own = [
                tasks[text]
                for text in dict.fromkeys(line.text for line in self.lines)
                if times[text] == count
            ]
            plan += plan_units(own, count * self.files.asked.per_prompt, rows)
        return [dataclasses.replace(unit, index=index) for index, unit in enumerate(plan)]

    @property
    def cost(self) -> Cost:
        """Add up what the drawing took."""
        return total_cost(self.store.notes())

    def draw(self, config: DictConfig) -> None:
        """Draw what is not there yet, on all processes."""
        units = self.units(config.generate.rows_per_unit)

        def begin() -> list[int]:
            """As the first process sees it; what a kill left half-written would be taken for a picture."""
            for folder in {path for one in self.shown for path in (one.path.parent, one.path.parent.parent)}:
                clean_partial(folder)
            return [unit.index for unit in units if not self._whole(unit)]

        todo = set(broadcast(begin))
        if not todo:
            return
        denoiser = load_model(config, self.adapter)
        tasks = [task for unit in units for task in unit.prompts]
        check_balance(config, tasks, "benchmark.source", quiet=self.adapter is not None)
        check_pictures(denoiser, tasks, "benchmark.source", needless="benchmarks draw from texts alone")
        check_lengths(denoiser, tasks, config.prompts, "prompts")
        batch = config.evaluate.batch_size
        with denoiser.fused():
            sampler = sampler_of(config, denoiser, config.evaluate.guidance)
            scoring = scoring_of(config, denoiser, [], lambda: ())
            how = Drawing(sampler, scoring, config.evaluate.seed, batch_size=batch)
            draw(self.store.folder, units, how, title=f"{self.side}: draw")
            visible(self.store.folder)
            self._write(
                [unit for unit in units if unit.index in todo], denoiser, batch, config.benchmark.grid
            )

    def _note(self, unit: Unit) -> Path:
        return self._notes / f"unit-{unit.index:06d}.json"

    def _whole(self, unit: Unit) -> bool:
        """Whether all pictures of a unit lie where they belong, as they were written."""
        path = self._note(unit)
        if not path.is_file():
            return False
        try:
            noted = read_json(path)
        except UserError:
            return False
        whole = digests.intact(noted) and digests.FILES in noted
        return whole and not digests.changed(noted[digests.FILES], self.root)

    def _write(self, units: Sequence[Unit], denoiser: Any, batch: int, sheets: bool) -> None:
        """Decode units and write their pictures; each process takes the next one when it is free."""
        table = self.store.table()
        with progress(f"{self.side}: write", sum(unit.rows for unit in units), unit="pictures") as bar:
            for _, unit in work_queue(units):
                rows = table[table[UNIT] == unit.index]
                files = self._write_unit(rows, denoiser, batch, sheets)
                write_json(self._note(unit), digests.seal({digests.FILES: digests.note(files, self.root)}))
                bar(unit.rows)
        wait()

    def _write_unit(self, rows: pd.DataFrame, denoiser: Any, batch: int, sheets: bool) -> list[Path]:
        by_text: dict[str, list[Line]] = {}
        for line in self.lines:
            by_text.setdefault(line.text, []).append(line)
        per = self.files.asked.per_prompt
        parts = (self.store.latents(rows.iloc[start : start + batch]) for start in range(0, len(rows), batch))
        pictures = decode_each(parts, denoiser)
        written: list[Path] = []
        images: dict[int, tuple[Line, list[Image.Image]]] = {}
        for text, candidate, picture in zip(rows["prompt"], rows["candidate"], pictures, strict=True):
            line = by_text[text][candidate // per]
            path = self.place / self.files.place(line, candidate % per)
            image = to_image(picture)
            write_bytes(path, png(image))
            written.append(path)
            images.setdefault(id(line), (line, []))[1].append(image)
        for line, own in images.values():
            for name, said in self.files.beside(line).items():
                write_text(self.place / name, said)
                written.append(self.place / name)
            if sheets and (sheet := self.files.sheet(line)):
                write_bytes(self.place / sheet, png(grid(own, [""] * len(own), per, max(own[0].size))))
                written.append(self.place / sheet)
        return written
