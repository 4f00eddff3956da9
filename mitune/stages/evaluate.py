"""``evaluate``: the model the run began with against the tuned one, on the same held-out prompts and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune.config import flatten
from mitune.data.store import CandidateStore, Unit, plan_units
from mitune.distributed import broadcast
from mitune.evaluate.evaluation import evaluation_files, write_evaluation
from mitune.evaluate.judged import judged_by
from mitune.evaluate.watch import watched
from mitune.files import read_json
from mitune.runs import RunFolder
from mitune.sampling.grids import laid
from mitune.scores import SCORES, scorers_of
from mitune.stages.balancing import check_balance
from mitune.stages.candidates import Drawing, draw, each_picture, without_places
from mitune.stages.inputs import (
    check_tasks,
    held_out_prompts,
    load_model,
    round_adapter,
    sampler_of,
    scoring_of,
    whole_pool,
)
from mitune.stages.progress import warn
from mitune.stages.sharing import as_named, shared
from mitune.stages.units import total_cost
from mitune.tasks import Task

# What the pictures of the base model depend on; rounds and re-runs with the same share them.
_BASELINE = ("model.dtype", "sampler.", "scorer.", "evaluate.")
_SUMMARY = (
    "before",
    "after",
    "difference",
    "diversity",
    "judged_by",
    "watch",
)  # of evaluation.json, what the mark says too
_NOT_BASELINE = ("evaluate.prompts.", "evaluate.batch_size", "evaluate.examples", "sampler.racing.")


def evaluate(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Write ``round-N/evaluation.json`` and pictures; gives its tables, difference and diversity, and the cost."""
    prompts = held_out_prompts(config)
    check_balance(config, prompts, "evaluate.prompts", quiet=number != config.round)
    adapter = round_adapter(run, number)
    denoiser = load_model(config)
    check_tasks(denoiser, prompts, config.evaluate.prompts, "evaluate.prompts")
    units = plan_units(prompts, config.evaluate.candidates, config.generate.rows_per_unit)
    steps = laid(denoiser.schedule, sampler_of(config, denoiser))
    base = baseline_folder(config, run, prompts, denoiser.identity, steps)
    with shared(config, base, base.name), denoiser.fused():
        before = _draw(config, base, units, denoiser, "base model")
    denoiser.load_adapter(adapter)
    with denoiser.fused():
        after = _draw(config, run.round(number) / "after", units, denoiser, f"round {number}: evaluate")

    def finish() -> dict[str, Any]:
        tables = [store.table() for store in (before, after)]
        batch = config.evaluate.batch_size
        result = write_evaluation(
            run.round(number),
            without_places(tables[0]),
            without_places(tables[1]),
            each_picture(before, tables[0], denoiser, batch),
            each_picture(after, tables[1], denoiser, batch),
            examples=config.evaluate.examples,
            seed=config.evaluate.seed,
            judged=_judged(config, run, number, base),
            watch=lambda cells: watched(cells, choosers(run, range(1, number + 1)), config.scorer.combined),
        )
        if result["watch"]["hacked"]:
            warn(f"round {number}: {result['watch']['said']}")
        figures = {name: result[name] for name in _SUMMARY}
        notes = {store: store.notes() for store in (before, after)}
        before_cost, after_cost = map(total_cost, notes.values())
        # The base's pictures are paid for once, by the round that made them.
        first = number == 1 or run.mark(1, "evaluate") is None
        figures["forwards"] = after_cost.forwards + (before_cost.forwards if first else 0)
        figures["seconds"] = round(after_cost.seconds + (before_cost.seconds if first else 0), 3)
        known = {
            name: digest for store in notes for name, digest in store.digests(run.root, notes[store]).items()
        }
        left = evaluation_files(run.round(number))
        return run.write_mark(number, "evaluate", figures, left, known)

    return broadcast(finish)


def _judged(config: DictConfig, run: RunFolder, number: int, base: Path) -> dict[str, Any]:
    """Who judged, by the base model's pictures; of each score, whether it chose what this round was trained on."""
    combined = config.scorer.combined
    names = [*config.evaluate.scorers]
    names += [column for name in scorers_of(names, combined) for column in SCORES[name].columns]
    return judged_by(names, combined, read_json(base / "model.json"), choosers(run, [number]))


def choosers(run: RunFolder, rounds: Iterable[int]) -> list[str]:
    """List the scores that had a part in what was trained on in these rounds, or in when to stop."""
    chosen = []
    for number in rounds:
        done = {stage: run.mark(number, stage) or {} for stage in ("generate", "select", "train")}
        chosen += [
            done["select"].get("by"),
            (done["generate"].get("racing") or {}).get("by"),
            (done["generate"].get("search") or {}).get("reward_by"),
            done["train"].get("best_by"),
        ]
    return list(dict.fromkeys(str(name) for name in chosen if name))


def _draw(config: DictConfig, folder: Path, units: list[Unit], denoiser: Any, title: str) -> CandidateStore:
    """The held-out pictures of a model, resumed where a killed command left them."""
    own = config.evaluate
    sampler = sampler_of(config, denoiser, own.guidance)
    scoring = scoring_of(config, denoiser, own.scorers, lambda: whole_pool(config))
    how = Drawing(sampler, scoring, own.seed, batch_size=own.batch_size)
    return draw(folder, units, how, title=title)


def baseline_folder(
    config: DictConfig, run: RunFolder, prompts: list[Task], identity: str, laid: str | None = None
) -> Path:
    """Name the folder of the base model's held-out pictures, by everything they depend on.

    Args:
        config, run: of the stage.
        prompts, identity: the prompts and the model themselves, not where they were read from.
        laid: as :func:`mitune.sampling.grids.laid` says.
    """
    values = {
        name: value
        for name, value in as_named(flatten(config)).items()
        if name.startswith(_BASELINE) and not name.startswith(_NOT_BASELINE)
    }
    values["prompts"] = [prompt.id for prompt in prompts]
    values |= {"identity": identity} | ({} if laid is None else {"steps": laid})
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return run.root / f"baseline-{digest[:12]}"
