"""``calibrate``: a pilot that finds out how early candidates can be dropped, and proposes ``sampler.racing``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from mitune.data.store import plan_units
from mitune.distributed import broadcast, state
from mitune.errors import UserError
from mitune.evaluate.calibration import Scores, calibration, markdown, plot, summary
from mitune.evaluate.judged import caption, judged_by
from mitune.files import clean_partial, read_json, write_bytes, write_json, write_text
from mitune.information.scoring import check_judges
from mitune.runs import RunFolder
from mitune.scores import scorers_of
from mitune.stages.balancing import check_balance
from mitune.stages.candidates import Drawing, cost, draw
from mitune.stages.inputs import (
    candidate_sampler,
    check_tasks,
    load_model,
    prompt_pool,
    scoring_of,
    study_prompts,
)
from mitune.stages.progress import say
from mitune.stages.racing import PilotRace, column, look_cost, look_scoring, rows_of_steps


def calibrate(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write ``calibrate/calibration.json``, ``.md`` and ``.png`` in the run folder; gives the JSON.

    Raises UserError: a score that cannot be had, or that nobody can be dropped by, too few prompts.
    """
    folder, settings = run.root / "calibrate", config.calibrate
    target: str = settings.target or config.select.by
    if state().is_main_process:
        clean_partial(folder)
    read = _draw(config, run, target)

    def finish() -> dict[str, Any]:
        table, spent = read()
        steps = config.sampler.steps
        running = {
            name: {step: _wide(table, column(name, step)) for step in [*_steps(config, name), steps]}
            for name in settings.by
        }
        looks = {name: look_cost(name, config.scorer, settings.times, settings.edits) for name in settings.by}
        judged = "oracle" in scorers_of([target], config.scorer.combined)
        study = calibration(
            running,
            _wide(table, target),
            steps,
            k=settings.k,
            wanted=settings.recall,
            looks=looks,
            finish=spent.pop("finish"),
            propose=not judged,
            branches=spent.pop("branches"),
            seed=config.seed,
            resamples=settings.resamples,
        )
        command = _command(config, study["best"], study["proposals"]) if study["best"] else None
        own = {"target": target, "measured_only": judged, "command": command}
        made = read_json(folder / "candidates" / "model.json")
        named = judged_by(dict.fromkeys([target, *settings.by]), config.scorer.combined, made)
        figures: dict[str, Any] = {**own, **study, **spent, "judged_by": named}
        write_bytes(folder / "calibration.png", plot(figures))
        write_text(folder / "calibration.md", markdown(figures))
        write_json(folder / "calibration.json", figures)
        say(summary(figures).rstrip())
        say(caption(named, study.get("prompts")))
        say(f"tables, figures and plot: {folder.resolve()}")
        return figures

    return broadcast(finish)


def _steps(config: DictConfig, name: str) -> list[int]:
    """The numbers of steps after which a running score is noted."""
    free = look_cost(name, config.scorer, config.calibrate.times, config.calibrate.edits) == 0
    every = 1 if free else config.calibrate.every
    return list(range(every, config.sampler.steps, every))


def _draw(
    config: DictConfig, run: RunFolder, target: str
) -> Callable[[], tuple[pd.DataFrame, dict[str, Any]]]:
    """Draw the pilot's candidates, on all processes; gives what reads them, for one: (the candidates with their
    running and final scores, what was drawn and what it took)."""
    settings, combined = config.calibrate, config.scorer.combined
    prompts = study_prompts(config, "calibrate")
    check_judges([target], [prompt.text for prompt in prompts], "calibrate.target", config.scorer)
    check_balance(config, prompts)
    units = plan_units(prompts, settings.candidates, config.generate.rows_per_unit)
    denoiser = load_model(config)
    sampler = candidate_sampler(config, denoiser)
    check_tasks(denoiser, prompts, config.prompts, "prompts")
    pilot = PilotRace(
        {name: look_scoring(config, denoiser, name, settings.times, settings.edits) for name in settings.by},
        {name: _steps(config, name) for name in settings.by},
        config.sampler.steps,
    )
    scoring = scoring_of(config, denoiser, [target], lambda: prompt_pool(config.prompts))
    store = draw(
        run.root / "calibrate" / "candidates",
        units,
        Drawing(sampler, scoring, config.seed, batch_size=config.generate.batch_size, watch=pilot),
        keep=lambda table: [False] * len(table["seed"]),
        title="calibrate",
    )

    def read() -> tuple[pd.DataFrame, dict[str, Any]]:
        took = cost(store)
        rows = sum(unit.rows for unit in units)
        finish = sum(took.scorers.get(name, 0) for name in scorers_of([target], combined)) / rows
        spent = {"model": denoiser.identity, "guidance": sampler.guidance, "looks": took.looks, **took.total}
        notes = [
            column(name, step)
            for name in settings.by
            for step in [*_steps(config, name), config.sampler.steps]
        ]
        table = store.table(columns=["prompt_id", "candidate", target, *notes])
        return table, {"finish": finish, "branches": rows_of_steps(denoiser, sampler), **spent}

    return read


def _wide(table: pd.DataFrame, name: str) -> Scores:
    """A column as [prompts, candidates]. Raises UserError for one that an earlier pilot in this folder did not note."""
    if name not in table:
        raise UserError(
            f"calibrate: the pilot in this run= folder has no {name}: it was drawn for another target or other steps;"
            " choose another run= folder, or delete its folder calibrate"
        )
    wide = table.pivot(index="prompt_id", columns="candidate", values=name)
    return wide.to_numpy(dtype=np.float64)


def _command(config: DictConfig, by: str, proposals: dict[str, Any]) -> str:
    """The proposal as settings of ``generate`` and ``run``."""
    cuts = proposals[by]["cuts"]
    words = [f"sampler.racing.by={by}"]
    words += [f"sampler.racing.at=[{','.join(str(cut['step']) for cut in cuts)}]"]
    words += [f"sampler.racing.survivors=[{','.join(str(cut['survivors']) for cut in cuts)}]"]
    if look_cost(by, config.scorer, config.calibrate.times, config.calibrate.edits):
        words.append(f"sampler.racing.times={config.calibrate.times}")
        if "edits" in config.scorer[by]:
            words.append(f"sampler.racing.edits={config.calibrate.edits}")
    words.append(f"generate.candidates={config.calibrate.candidates}")
    return " ".join(words)
