"""What of a run is drawn by TensorBoard and Weights & Biases: everything its stages found, in one chart for all rounds.

Figures of a stage stand at the number of its round; those of training at the steps of all rounds in a row.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.charts import Charts, Naming
from mitune.data.selection import scorers_among
from mitune.data.store import CandidateStore
from mitune.files import read_json
from mitune.reading import is_file, read_bytes
from mitune.runs import RunFolder
from mitune.stages.catalogue import STAGES
from mitune.stages.progress import say
from mitune.track import CHARTS

PICTURES = 12  # of a stage
_NOTHING = Charts([], Path(), {})
_charts: ContextVar[Charts] = ContextVar("charts", default=_NOTHING)


def charts() -> Charts:
    """Give the charts of the run that this process is at work on; without trackers, and in others than the main
    process, nothing is drawn by them."""
    return _charts.get()


@contextlib.contextmanager
def tracking(stage: str, config: DictConfig, run: RunFolder, main: bool) -> Iterator[None]:
    """Draw the charts that ``tracker`` asks for while a command of ``stage`` is at work; then say where they are."""
    drawn = STAGES[stage].in_round or stage == "run"
    if not (main and drawn):
        yield
        return
    own = config.tracker
    values: Any = OmegaConf.to_container(config, resolve=True)
    naming = Naming(own.name or run.root.resolve().name, own.project, own.entity, own.group, list(own.tags))
    opened = Charts([name for name in CHARTS if own[name]], run.root, values, naming)
    token = _charts.set(opened)
    try:
        yield
    finally:
        _charts.reset(token)
        said = opened.endings()
        opened.close()
        for line in said:
            say(line)


class Timed:
    """Draws what a stage found, and how long it took. Main process only."""

    def __init__(self, stage: str, number: int) -> None:
        self.stage, self.number, self.began = stage, number, time.perf_counter()

    def finished(self, config: DictConfig, run: RunFolder, figures: Mapping[str, Any]) -> None:
        """Draw the figures of the stage of :func:`mitune.stages.run.run_stage`."""
        if not charts().names:
            return
        charts().log({f"{self.stage}_seconds": time.perf_counter() - self.began}, self.number, "stages")
        if self.stage != "evaluate":
            charts().log(figures, self.number, _named(self.stage))
        if self.stage in _DRAWN:
            _DRAWN[self.stage](run.round(self.number), self.number, figures)


def _named(stage: str) -> str:
    """The figures of a round's training stand at rounds, the curves of ``train`` at steps."""
    return "training" if stage == "train" else stage


def _generate(folder: Path, number: int, figures: Mapping[str, Any]) -> None:
    store = CandidateStore(folder / "candidates")
    names = scorers_among(store.columns())
    told = ["prompt", "category", "candidate", "seed", *names, "kept"]
    table = store.table(columns=told)
    charts().log({name: float(table[name].mean()) for name in names}, number, "generate")
    charts().histograms({name: table[name].tolist() for name in names}, number, "generate")
    charts().table("candidates", {name: table[name].tolist() for name in told}, number, "generate")


def _select(folder: Path, number: int, figures: Mapping[str, Any]) -> None:
    path = folder / "candidates_examples.json"
    examples = read_json(path) if is_file(path) else []  # none where real pictures alone are trained on
    shown = {
        f"{place:02d}_{side}": (read_bytes(folder / example[side][0]["picture"]), example["prompt"])
        for place, example in enumerate(examples[:PICTURES])
        for side in ("best", "worst")
        if example[side]
    }
    charts().pictures(shown, number, "select")


def _evaluate(folder: Path, number: int, figures: Mapping[str, Any]) -> None:
    rows: dict[str, list[Any]] = {
        name: [] for name in ("category", "score", "before", "after", "difference", "low", "high", "pictures")
    }
    for category, row in figures["difference"].items():
        for score, cell in row.items():
            if not isinstance(cell, dict):
                continue
            low, high = cell["ci95"] or (None, None)
            told = (category, score, cell["before"], cell["after"], cell["difference"], low, high, row["n"])
            for name, value in zip(rows, told, strict=True):
                rows[name].append(value)
            if category == "all":
                values = {f"{score}_{name}": cell[name] for name in ("before", "after", "difference")}
                charts().log(values, number, "evaluate")
    charts().table("differences", rows, number, "evaluate")
    shown = {
        f"{place:02d}_{side}": (read_bytes(folder / example[side]), example["prompt"])
        for place, example in enumerate(read_json(folder / "evaluation.json")["examples"][:PICTURES])
        for side in ("before", "after")
    }
    charts().pictures(shown, number, "evaluate")


_DRAWN = {"generate": _generate, "select": _select, "evaluate": _evaluate}


class AllRounds:
    """Draws the curves of a round's training after those of the rounds before: ``before`` steps."""

    def __init__(self, before: int) -> None:
        self.before = before

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Draw numbers at a step of this round."""
        charts().log(values, self.before + step, stage)

    def truncate_after(self, stage: str, step: int) -> None:
        """Forget the steps of this round that are about to be taken again."""
        charts().truncate_after(stage, self.before + step)

    def close(self) -> None:
        """The charts stay open for the stages to come."""
