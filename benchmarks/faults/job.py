"""A job of seconds on the embedded world, and what has to be true of its folder after faults."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from safetensors.torch import load_file

from mitune.data import dataset as datasets
from mitune.data.store import CandidateStore
from mitune.families.adapter_place import ADAPTER_FILE

# Two processes sum their halves of a batch in another order than one: the adapter may be that far away, each element.
TOLERANCE = 1e-3
_CLOCK = {"seconds", "time", "run", "samples_per_second"}


def arguments(stage: str, run: Path, *overrides: str) -> list[str]:
    """The command: 3 prompts x 4 candidates x 3 steps in units of one prompt, 5 training steps."""
    settings = {
        "experiment": "shapes",
        "run": run,
        "model.device": "cpu",
        "prompts.limit": 3,
        "scorers": "[mi,llr]",
        "select.by": "llr",
        "sampler.steps": 3,
        "generate.candidates": 4,
        "generate.rows_per_unit": 4,
        "generate.keep": 2,
        "select.k": 2,
        "select.losers": 0,
        "select.fraction": 1,
        "adapter.rank": 4,
        "adapter.dropout": 0,
        "train.steps": 5,
        "train.batch_size": 4,
        "train.checkpoint_every": 1,
        "train.log_every": 1,
        "evaluate.prompts.limit": 2,
        "evaluate.candidates": 1,
        "evaluate.scorers": "[mi]",
        "evaluate.examples": 2,
    }
    return [stage, *(f"{key}={value}" for key, value in settings.items()), *overrides]


@dataclass(frozen=True)
class Verdict:
    """What a folder after faults has wrong, against an undisturbed one; ``adapter``: largest difference, None without
    one."""

    lost: int
    duplicates: int
    corrupt: int
    leftovers: int
    candidates_equal: bool
    selection_equal: bool
    metrics_equal: bool
    adapter: float | None
    evaluation: float | None

    def good(self, exact: bool) -> bool:
        """Whether all is as it should be; ``exact``: to the last bit (the same number of processes)."""
        limit = 0.0 if exact else TOLERANCE
        counts = (self.lost, self.duplicates, self.corrupt, self.leftovers)
        near = all(value is None or value <= limit for value in (self.adapter, self.evaluation))
        same = self.candidates_equal and self.selection_equal and (self.metrics_equal or not exact)
        return not any(counts) and near and same


def judge(folder: Path, whole: Path) -> Verdict:
    """Hold the folder of a disturbed run against that of an undisturbed one of the same job."""
    ours, theirs = folder / "round-1", whole / "round-1"
    lost, duplicates = _count(folder, whole)
    tables = sorted((theirs / "candidates").glob("unit-*.*"))
    return Verdict(
        lost=lost,
        duplicates=duplicates,
        corrupt=sum(not _opens(path) for path in folder.rglob("*") if path.is_file()),
        leftovers=len([*folder.rglob(".partial-*"), *folder.rglob(".replaced-*")]),
        candidates_equal=all(
            _same(path, ours / "candidates" / path.name) for path in tables if path.suffix != ".json"
        ),
        selection_equal=all(
            _same(path, ours / "dataset" / path.name) for path in sorted((theirs / "dataset").glob("*.arrow"))
        ),
        metrics_equal=_metrics(ours) == _metrics(theirs),
        adapter=_apart(ours / "adapter" / ADAPTER_FILE, theirs / "adapter" / ADAPTER_FILE),
        evaluation=_scores_apart(ours / "evaluation.parquet", theirs / "evaluation.parquet"),
    )


def _count(folder: Path, whole: Path) -> tuple[int, int]:
    """(units that are there undisturbed and are missing here, candidates that are there twice)."""
    lost = duplicates = 0
    for plan in whole.rglob("plan.json"):
        place = folder / plan.parent.relative_to(whole)
        store = CandidateStore(place)
        lost += len(CandidateStore(plan.parent).done() - store.done())
        if store.done():
            rows = store.table(partial=True)
            duplicates += int(rows.duplicated(["prompt_id", "candidate"]).sum())
            duplicates += int(rows.duplicated(["seed"]).sum())
    return lost, duplicates


def _opens(path: Path) -> bool:
    """Whether the whole file can be read for what its name says it is."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".arrow":
            len(datasets.load(path.parent))
    except Exception:
        return False
    return True


def _same(left: Path, right: Path) -> bool:
    return right.is_file() and left.read_bytes() == right.read_bytes()


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in _CLOCK} for row in rows]


def _apart(left: Path, right: Path) -> float | None:
    """Largest difference of two files' tensors; infinite where one is missing."""
    if not right.exists():
        return None
    if not left.exists():
        return float("inf")
    ours, theirs = load_file(left), load_file(right)
    return max(float((ours[name] - value).abs().max()) for name, value in theirs.items())


def _scores_apart(left: Path, right: Path) -> float | None:
    """Largest difference of the evaluation's scores, relative to their size."""
    if not right.exists():
        return None
    if not left.exists():
        return float("inf")
    ours, theirs = (np.array(pq.read_table(path)["mi"].to_pylist()) for path in (left, right))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).mean())
