"""``run``: rounds of generate, select, train and evaluate, then ``summary.json`` and ``report.html``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mitune import digests
from mitune.data.store import PICTURE, CandidateStore, plan_units
from mitune.denoiser import Denoiser
from mitune.distributed import broadcast, state, wait
from mitune.errors import UserError, naming
from mitune.evaluate.tables import comparison_table
from mitune.files import write_json
from mitune.reading import is_there
from mitune.report import write_report
from mitune.runs import RunFolder
from mitune.stages.artefacts import clear, harmed, require, told
from mitune.stages.balancing import check_balance
from mitune.stages.catalogue import ROUND, STAGES
from mitune.stages.inputs import (
    check_pictures,
    check_prompts,
    check_real,
    held_out_prompts,
    looking_ahead,
    scoring_of,
    trained_from,
    training_prompts,
)
from mitune.stages.made import made
from mitune.stages.planning import plan
from mitune.stages.progress import logs, note, overall, say, warn
from mitune.stages.telling import did
from mitune.stages.tracking import Timed
from mitune.stages.train import check_validation
from mitune.tasks import PictureRef, Task
from mitune.track import METRICS

SCHEMA = 1


def run_stage(stage: str, config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """One stage of one round; a stage that is done gives its figures again and does nothing, unless what it left is
    gone or changed: that is made again, and has to come out the same where a later stage has used it."""

    def begin() -> dict[str, Any] | None:
        figures = run.mark(number, stage)
        found = [] if figures is None else harmed(run, number, stage)
        if figures is not None and not found:
            _require_used(stage, config, run, number)
            return figures
        run.prepare(number)
        if found:
            line = f"{told(found)}: round {number}: {stage} makes it again"
            clear(run, number, stage, found)  # or refuses, and that is all to say
            warn(line)
        return None

    figures = broadcast(begin)
    metrics = run.round(number) / METRICS
    if stage == "train" and figures is not None and not is_there(metrics) and state().is_main_process:
        warn(f"{metrics} is gone; the report has no curve of the training")
    if figures is None:
        timed = Timed(stage, number)
        figures = STAGES[stage].load()(config, run, number)
        if state().is_main_process:
            timed.finished(config, run, figures)
        say(f"round {number}: {did(stage, figures)}")
    else:
        say(f"round {number}: {did(stage, figures)} (done before)")
    return figures


def _require_used(stage: str, config: DictConfig, run: RunFolder, number: int) -> None:
    """Raises UserError where what a stage went on from is gone or changed, its prompts' pictures too. Main process
    only."""
    if stage != ROUND[0]:
        require(run, number, ROUND[ROUND.index(stage) - 1])
    if number > 1 and (stage == "generate" or (stage == "train" and not config.train.fresh)):
        require(run, number - 1, "train")
    drawn = {"generate": ("candidates", config.prompts), "evaluate": ("after", config.evaluate.prompts)}
    if stage in drawn and drawn[stage][1].picture_column is not None:
        table = CandidateStore(run.round(number) / drawn[stage][0]).table(columns=[PICTURE])
        for line in table[PICTURE].unique():
            PictureRef.parse(line).read()


def check_ahead(config: DictConfig, denoiser: Denoiser) -> None:
    """Raise UserError for what a later stage of the run would refuse of its model."""
    check_pictures(denoiser, training_prompts(config), "prompts")
    check_pictures(denoiser, held_out_prompts(config), "evaluate.prompts")
    check_real(config, denoiser)
    best = config.train.keep_best_by
    lists = {"scorers": config.scorers, "evaluate.scorers": config.evaluate.scorers}
    for key, names in (lists | ({"train.keep_best_by": [best]} if best else {})).items():
        with naming(key):
            scoring_of(config, denoiser, names, lambda: ())


def _check_drawn(config: DictConfig, run: RunFolder, prompts: Sequence[list[Task]]) -> None:
    """Warn where a source of prompts is not what the finished stages of the first round have drawn; ``prompts``: of
    training, and held out."""
    if not state().is_main_process:
        return
    stages = {
        "generate": ("candidates", config.generate.candidates, "prompts.source"),
        "evaluate": ("after", config.evaluate.candidates, "evaluate.prompts.source"),
    }
    for (stage, (name, count, key)), tasks in zip(stages.items(), prompts, strict=True):
        folder = run.round(1) / name
        units = plan_units(tasks, count, config.generate.rows_per_unit)
        noted, plan_path = run.noted(1, stage), folder / "plan.json"
        # What is gone or harmed is told where it is made again.
        if (
            noted is None
            or not is_there(plan_path)
            or digests.note([plan_path], run.root).items() - noted.items()
        ):
            continue
        with contextlib.suppress(UserError):
            if not CandidateStore(folder).holds(units):
                warn(
                    f"{key}: it holds other prompts than {folder} was made of; what is done stays as it is: give"
                    " another run= for these"
                )


def run_rounds(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Do every stage of every round; the summary is written after each round, so that a long run can be watched."""
    prompts = check_prompts(config)
    for tasks in prompts:
        check_balance(config, tasks, quiet=True)  # the stages say it
    check_validation(config, prompts[0])
    _check_drawn(config, run, prompts)
    trained_from(config, run, 1)  # refuses now what the first training would refuse
    if logs():
        # What cannot be planned, of a model with more branches, say, is refused where it stands.
        with contextlib.suppress(UserError):
            note(plan(config, prompts=prompts).line())
    summary: dict[str, Any] = {}
    rounds: list[dict[str, Any]] = []
    stages = overall("run", config.rounds * len(ROUND))
    with looking_ahead(functools.partial(check_ahead, config)), stages as finished:
        for number in range(1, config.rounds + 1):
            rounds.append({"round": number})
            for stage in ROUND:
                rounds[-1][stage] = run_stage(stage, config, run, number)
                finished()
            summary = summarise(config, rounds)
            if state().is_main_process:
                path = run.root / "summary.json"
                write_json(path, summary | {"made": made(config, path, summary)})
                write_report(run.root)
            wait()
    last = rounds[-1]["evaluate"]
    title = "base model against tuned, held-out prompts"
    say(comparison_table(last["difference"], title, last.get("judged_by")))
    say(f"report: {(run.root / 'report.html').resolve()}")
    return summary


def summarise(config: DictConfig, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """``summary.json``: its shape is a contract (schema 1); keys may be added, none renamed."""
    figures = [entry[stage] for entry in rounds for stage in ROUND]
    return {
        "schema": SCHEMA,
        "model": rounds[0]["generate"]["model"],
        "scorer": config.select.by,
        "seed": config.seed,
        "forwards": sum(part.get("forwards", 0) for part in figures),
        "seconds": round(sum(part.get("seconds", 0.0) for part in figures), 3),
        "rounds": rounds,
    }
