"""Charts of a run: TensorBoard and Weights & Biases, one for all rounds and all commands of a run folder.

What is drawn is told by :mod:`mitune.stages.tracking`. Nothing here is read back: what counts is in the run folder.
"""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mitune.errors import UserError
from mitune.files import read_json, user_errors, write_json
from mitune.reading import lines
from mitune.track import Tracker, check_trackers, numbers, wandb_mode, without_secrets

ROWS = 1000  # of a table that is shown: a chart's page is no place for more
Columns = Mapping[str, Sequence[Any]]
Pictures = Mapping[str, tuple[bytes, str]]  # by name: a PNG file's contents and a caption


class Chart(Tracker, Protocol):
    """Takes the figures of a run, and what no line of numbers holds."""

    def histograms(self, columns: Columns, step: int, stage: str) -> None:
        """Show how the numbers of each column are spread."""

    def pictures(self, shown: Pictures, step: int, stage: str) -> None:
        """Show pictures."""

    def table(self, name: str, columns: Columns, step: int, stage: str) -> None:
        """Show a table, of which the columns are equally long."""

    def ending(self) -> str:
        """Say what is to be done once the run has ended; empty where nothing is."""


@dataclass(frozen=True)
class Naming:
    """Says how a run is called where charts are kept; None: as the environment or the service has it."""

    name: str | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = field(default=())


class TensorBoard:
    """Shows a subfolder of ``folder`` a stage, so that one stage can be purged alone."""

    def __init__(self, folder: Path, config: Mapping[str, Any], naming: Naming) -> None:
        self.folder = folder
        self._writers: dict[str, Any] = {}
        text = json.dumps(without_secrets(config), indent=2, default=str)
        self._writer("config").add_text("config", _code(lines(text)))

    def _writer(self, stage: str, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if stage not in self._writers:
            with user_errors(self.folder):
                self._writers[stage] = SummaryWriter(str(self.folder / stage), purge_step=purge_step)
        return self._writers[stage]

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Add the numbers; texts are left to metrics.jsonl."""
        for name, value in numbers(values).items():
            self._writer(stage).add_scalar(name, value, step)

    def histograms(self, columns: Columns, step: int, stage: str) -> None:
        """Add a histogram a column."""
        import numpy as np

        for name, values in columns.items():
            if told := _finite(values):
                self._writer(stage).add_histogram(name, np.asarray(told), step)

    def pictures(self, shown: Pictures, step: int, stage: str) -> None:
        """Add the pictures; a caption stands in a text of the same name."""
        import numpy as np
        from PIL import Image

        for name, (png, caption) in shown.items():
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            self._writer(stage).add_image(name, pixels, step, dataformats="HWC")
            self._writer(stage).add_text(name, _code(lines(caption)), step)

    def table(self, name: str, columns: Columns, step: int, stage: str) -> None:
        """Add the table as text."""
        rows = [[*columns], *([_cell(value) for value in row] for row in _rows(columns))]
        widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        self._writer(stage).add_text(name, _code(text), step)

    def truncate_after(self, stage: str, step: int) -> None:
        """Tell TensorBoard to hide this stage's events from ``step`` on (``purge_step``)."""
        if stage in self._writers:
            self._writers.pop(stage).close()
        self._writer(stage, purge_step=step)

    def ending(self) -> str:
        """Say how it is looked at."""
        return f"TensorBoard: tensorboard --logdir {shlex.quote(str(self.folder))}"

    def close(self) -> None:
        """Flush and close the event files."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """Shows ``stage/name`` against ``stage/step``; offline unless the user is logged in; files inside ``folder``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], naming: Naming) -> None:
        import wandb

        with user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # The id makes a resumed run go on in the same chart; it lives in the run folder.
        identity = folder / "run.json"
        if not identity.exists():
            write_json(identity, {"id": uuid.uuid4().hex[:8]})
        known = read_json(identity)
        if not isinstance(known, dict) or not isinstance(known.get("id"), str):
            raise UserError(f"{identity} is damaged; delete it, and a new chart begins")
        try:
            self._run = wandb.init(
                project=naming.project or os.environ.get("WANDB_PROJECT", "mitune"),
                entity=naming.entity,
                group=naming.group,
                name=naming.name,
                tags=list(naming.tags) or None,
                id=known["id"],
                resume="allow",
                mode=wandb_mode(),
                dir=str(folder),
                config=without_secrets(config),
                # Command lines, git remotes and the terminal may hold tokens: none of them is recorded.
                settings=wandb.Settings(
                    console="off",
                    disable_git=True,
                    save_code=False,
                    disable_code=True,
                    x_disable_meta=True,
                    silent=True,
                ),
            )
        except wandb.errors.Error as error:
            name = type(error).__name__
            raise UserError(
                f"wandb did not start ({name}); set WANDB_MODE=offline or leave wandb out of tracker="
            ) from error
        self._stages: set[str] = set()

    def _send(self, values: Mapping[str, Any], step: int, stage: str) -> None:
        """Send with the stage's own step: stages count for themselves, so W&B's single counter is not used."""
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in values.items()})

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Send the numbers."""
        self._send(numbers(values), step, stage)

    def histograms(self, columns: Columns, step: int, stage: str) -> None:
        """Send a histogram a column."""
        import wandb

        told = {f"{name}_spread": _finite(values) for name, values in columns.items()}
        self._send({name: wandb.Histogram(values) for name, values in told.items() if values}, step, stage)

    def pictures(self, shown: Pictures, step: int, stage: str) -> None:
        """Send the pictures with their captions."""
        import wandb
        from PIL import Image

        images = {
            name: wandb.Image(Image.open(io.BytesIO(png)), caption=caption)
            for name, (png, caption) in shown.items()
        }
        self._send(images, step, stage)

    def table(self, name: str, columns: Columns, step: int, stage: str) -> None:
        """Send the table."""
        import wandb

        rows = [[_whole(value) for value in row] for row in _rows(columns)]
        shown = wandb.Table(columns=[*columns], data=rows, allow_mixed_types=True)
        self._send({name: shown}, step, stage)

    def truncate_after(self, stage: str, step: int) -> None:
        """W&B cannot forget; a resumed run repeats the same values at the same steps, so the chart stays right."""

    def ending(self) -> str:
        """Say where it is, or how what lies here is sent there; several commands of one run go there as one."""
        if not self._run.offline:
            return f"W&B: {self._run.url}" if self._run.url else ""
        place = Path(self._run.settings.sync_dir)
        return (
            f"W&B: not sent, as there is no login here; to send it: wandb sync {shlex.quote(str(place.parent))}"
            f"/offline-run-*-{self._run.id}"
        )

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


_KINDS: dict[str, Callable[[Path, Mapping[str, Any], Naming], Chart]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Charts:
    """Passes everything on to the charts of a run, which are opened when the first figure comes.

    Args:
        names: of the trackers; none: nothing is drawn.
        folder: of the run; each tracker's files are in a folder of its name there.
        config: of the run.
        naming: how it is called.

    Raises UserError as ``check_trackers``, and when one cannot be opened.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, config: Mapping[str, Any], naming: Naming | None = None
    ) -> None:
        self.names = list(dict.fromkeys(names))
        check_trackers(self.names)
        self._folder, self._config, self._naming = folder, config, naming or Naming()
        self._opened: list[Chart] | None = None

    @property
    def _all(self) -> list[Chart]:
        if self._opened is None:
            self._opened = []
            for name in self.names:
                self._opened.append(_KINDS[name](self._folder / name, self._config, self._naming))
        return self._opened

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Log with each chart."""
        for chart in self._all:
            chart.log(values, step, stage)

    def histograms(self, columns: Columns, step: int, stage: str) -> None:
        """Show how columns are spread, in each chart."""
        for chart in self._all:
            chart.histograms(columns, step, stage)

    def pictures(self, shown: Pictures, step: int, stage: str) -> None:
        """Show pictures in each chart."""
        for chart in self._all:
            chart.pictures(shown, step, stage)

    def table(self, name: str, columns: Columns, step: int, stage: str) -> None:
        """Show a table in each chart, its first rows where it is long."""
        for chart in self._all:
            chart.table(name, columns, step, stage)

    def truncate_after(self, stage: str, step: int) -> None:
        """Truncate each chart."""
        for chart in self._all:
            chart.truncate_after(stage, step)

    def endings(self) -> list[str]:
        """List what there is to be said of the charts that were drawn."""
        return [said for chart in self._opened or () if (said := chart.ending())]

    def close(self) -> None:
        """Close each chart that was opened."""
        for chart in self._opened or ():
            chart.close()


def _finite(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _rows(columns: Columns) -> list[list[Any]]:
    return [list(row) for row in zip(*(values[:ROWS] for values in columns.values()), strict=True)]


def _whole(value: Any) -> Any:
    """A value as a chart's table takes it: nothing for a number that is none."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    value = _whole(value)
    return (
        "" if value is None else f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    )


def _code(text: Sequence[str]) -> str:
    """Lines as a block of code, in which Markdown obeys nothing."""
    return "\n".join("    " + line for line in text)
