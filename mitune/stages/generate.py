"""``generate``: M candidates of every training prompt, each with its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from mitune.data.selection import select
from mitune.data.store import LEFT, CandidateStore, plan_units
from mitune.distributed import broadcast
from mitune.errors import UserError
from mitune.information.in_passes import Contest
from mitune.runs import RunFolder
from mitune.sampling.grids import laid
from mitune.sampling.racing import Cut, rows_of
from mitune.scores import IN_PASSES, SCORES, columns, scorers_of
from mitune.stages.balancing import check_balance
from mitune.stages.candidates import Drawing, Keep, draw
from mitune.stages.climbing import climbing_figures
from mitune.stages.contest import contest_of
from mitune.stages.inputs import (
    candidate_sampler,
    check_real,
    check_tasks,
    load_model,
    previous_adapter,
    prompt_pool,
    scoring_of,
    selecting,
    training_prompts,
)
from mitune.stages.progress import say
from mitune.stages.racing import cuts_of, race_of, rows_of_steps, survivors_of
from mitune.stages.search import check_search, judged_by_oracle, search_of, steering_figures
from mitune.stages.sharing import candidates_name, shared
from mitune.stages.units import Cost, total_cost


def generate(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Fill ``round-N/candidates``; gives the figures of ``summary.json``'s ``generate`` and the model's identity."""
    prompts = training_prompts(config)
    units = plan_units(prompts, config.generate.candidates, config.generate.rows_per_unit)
    if (
        config.prompts.picture_column is None
    ):  # a model that edits pictures may have more branches: once it is loaded
        cuts_of(config)
    check_search(config, prompts, config.generate.candidates)
    check_balance(config, prompts, quiet=number != config.round)
    check_control(config)
    if number == config.round:  # once a command, not in every round
        say_what_was_measured(config)
    denoiser = load_model(config, previous_adapter(run, number))
    check_tasks(denoiser, prompts, config.prompts, "prompts")
    check_real(config, denoiser)
    folder = run.round(number) / "candidates"
    steps = laid(denoiser.schedule, candidate_sampler(config, denoiser))
    name = candidates_name(config, number, prompts, denoiser.identity, denoiser.branches, steps)
    race = race_of(config, denoiser)
    # Not in the held-out prompts: what is learned from the candidates must not have seen them.
    scoring = scoring_of(config, denoiser, config.scorers, lambda: prompt_pool(config.prompts))
    contest = contest_of(config, scoring)
    if number == config.round:
        _say_where_nothing_passes(config, contest)
    with shared(config, folder, name), denoiser.fused():
        store = draw(
            folder,
            units,
            Drawing(
                candidate_sampler(config, denoiser),
                scoring,
                seed=config.seed,
                first=(number - 1) * config.generate.candidates,
                batch_size=config.generate.batch_size,
                watch=race,
                search=search_of(config, denoiser),
                contest=contest,
            ),
            keep=keeper(config, denoiser.branches),
            title=f"round {number}: generate",
        )

    def finish() -> dict[str, Any]:
        notes = store.notes()  # one pass: they say what the units took, and the digests of their files
        spent = total_cost(notes)
        figures = {
            "prompts": len(prompts),
            "candidates": sum(unit.rows for unit in units),
            **spent.total,
            "model": denoiser.identity,
        }
        if race is not None:
            each = rows_of_steps(denoiser, candidate_sampler(config, denoiser))
            figures["racing"] = _racing(config, race.cuts, len(prompts), spent.looks, each)
        if contest is not None:
            figures["passes"] = _passes(contest, store, spent)
        if folder.is_symlink():
            figures["shared"] = name  # other jobs of the sweep give the same figures; it was paid for once
        if config.search.by is not None:
            table = store.table()
            climbed = config.search.by == "rcp"
            figures["search"] = (
                climbing_figures(config, table, spent.referee) if climbed else steering_figures(config, table)
            )
        return run.write_mark(number, "generate", figures, known=store.digests(run.root, notes))

    return broadcast(finish)


def check_control(config: DictConfig) -> None:
    """The oracle steers in the control alone in which it also chooses. Raises UserError."""
    by = selecting(config)
    if judged_by_oracle(config) and (by == "random" or "oracle" not in columns([by])):
        raise UserError(
            f"search.reward={config.search.reward}: the oracle only judges; it may steer training only in the control"
            " select=oracle"
        )


def say_what_was_measured(config: DictConfig) -> None:
    """Say what is known of the scores that are to choose, where their rows note anything."""
    by = selecting(config)
    for name in [] if by == "random" else scorers_of([by], config.scorer.combined):
        score = SCORES[name]
        if score.note and score.noted(score.own(config.scorer)):
            say(f"note: select.by={by}: {name} {score.note}")


def _say_where_nothing_passes(config: DictConfig, contest: Contest | None) -> None:
    if config.generate.passes is not None and contest is None:
        say(
            f"note: generate.passes={config.generate.passes:g}: select.by={selecting(config)} goes by none of"
            f" {', '.join(IN_PASSES)}, or by one that comes with another score's pass; all are measured at once"
        )


def _racing(
    config: DictConfig, cuts: Sequence[Cut], prompts: int, looks: int, rows: Sequence[int]
) -> dict[str, Any]:
    """What racing dropped, and the network rows it saved of drawing, less those its looks took.

    The scores that dropped candidates did not get come on top.
    """
    candidates, steps = config.generate.candidates, config.sampler.steps
    whole, raced = (prompts * rows_of(own, candidates, steps, branches=rows) for own in ([], cuts))
    return {
        "by": config.sampler.racing.by,
        "cuts": [{"step": cut.step, "survivors": cut.survivors} for cut in cuts],
        "dropped": prompts * (candidates - cuts[-1].survivors),
        "looks": looks,
        "saved": whole - raced - looks,
        "speedup": whole / (raced + looks),
    }


def _passes(contest: Contest, store: CandidateStore, spent: Cost) -> dict[str, Any]:
    """What scoring in passes saved: who left, and the network rows of its scores beside those that all would take."""
    rows, whole = sum(spent.scorers[name] for name in spent.whole), sum(spent.whole.values())
    return {
        "by": contest.by,
        "k": contest.k,
        "losers": contest.losers,
        "level": contest.level,
        "left": int(store.table(columns=[LEFT])[LEFT].notna().sum()),
        "rows": rows,
        "whole": whole,
    }


def keeper(config: DictConfig, branches: int = 2) -> Keep:
    """Make the rule which candidates of a unit keep their latent: the best by ``select.by``, the losers, the worst one.

    Of a race, those that finished are all there is; ``branches`` as of ``cuts_of``.
    """
    candidates = survivors_of(config, branches)
    keep = min(config.generate.keep or config.select.k, candidates)
    losers = min(max(1, config.select.losers), candidates - keep)

    by = selecting(config)
    needed = [] if by == "random" else columns([by], config.scorer.combined)

    def choose(table: dict[str, list[Any]]) -> list[bool]:
        left = table.get(LEFT, [None] * len(table["seed"]))
        finite = (
            passes is not None or math.isfinite(value)
            for name in needed
            for value, passes in zip(table[name], left, strict=True)
        )
        if keep >= candidates or not all(finite):
            return [True] * len(table["seed"])  # all; or the store refuses the unit, naming the candidate
        rows = pd.DataFrame(table).assign(kept=False)
        if LEFT in table:
            chosen = _best_there(rows, by, keep, losers, config.seed)
        else:
            chosen = select(rows, by, keep, losers=losers, seed=config.seed)
        kept = set(zip(chosen["prompt_id"], chosen["candidate"], strict=True))
        return [pair in kept for pair in zip(table["prompt_id"], table["candidate"], strict=True)]

    return choose


def _best_there(rows: pd.DataFrame, by: str, keep: int, losers: int, seed: int) -> pd.DataFrame:
    """Choose the best and the worst of those that stayed in the race, of which there may be fewer."""
    chosen = []
    for _, own in rows.groupby("prompt_id", sort=False):
        there = int(own[LEFT].isna().sum())
        best = min(keep, there)
        chosen.append(select(own, by, best, losers=min(losers, there - best), seed=seed))
    return pd.concat(chosen, ignore_index=True)
