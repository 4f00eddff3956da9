"""``generate``: M candidates of every training prompt, each with its scores."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from mitune.data.selection import select
from mitune.data.store import plan_units
from mitune.distributed import state, wait
from mitune.runs import RunFolder
from mitune.scores import columns
from mitune.stages.candidates import Keep, cost, draw
from mitune.stages.common import (
    check_lengths,
    load_model,
    previous_adapter,
    sampler_of,
    scoring_of,
    selecting,
    training_prompts,
)


def generate(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Fill ``round-N/candidates``; gives the figures of ``summary.json``'s ``generate`` and the model's identity."""
    prompts = training_prompts(config)
    units = plan_units(prompts, config.generate.candidates, config.generate.rows_per_unit)
    denoiser = load_model(config, previous_adapter(run, number))
    check_lengths(denoiser, prompts, config.prompts, "prompts")
    sampler = sampler_of(config)
    with denoiser.fused():
        store = draw(
            run.round(number) / "candidates",
            units,
            denoiser,
            sampler,
            scoring_of(config, denoiser, config.scorers),
            seed=config.seed,
            first=(number - 1) * config.generate.candidates,
            batch_size=config.generate.batch_size,
            keep=keeper(config),
            title=f"round {number}: generate",
        )
    figures = {
        "prompts": len(prompts),
        "candidates": sum(unit.rows for unit in units),
        **cost(store, units).total,
        "model": denoiser.identity,
    }
    if state().is_main_process:
        run.write_mark(number, "generate", figures)
    wait()
    return figures


def keeper(config: DictConfig) -> Keep:
    """Which candidates of a unit keep their latent: the best by ``select.by``, the losers, and the worst one."""
    candidates = config.generate.candidates
    keep = min(config.generate.keep or config.select.k, candidates)
    losers = min(max(1, config.select.losers), candidates - keep)

    by = selecting(config)
    needed = [] if by == "random" else columns([by], config.scorer.combined)

    def choose(table: dict[str, list[Any]]) -> list[bool]:
        if not all(math.isfinite(value) for name in needed for value in table[name]):
            return [True] * len(table["seed"])  # the store refuses the unit, naming the candidate
        rows = pd.DataFrame(table).assign(kept=False)
        chosen = select(rows, by, keep, losers=losers, seed=config.seed)
        kept = set(zip(chosen["prompt_id"], chosen["candidate"], strict=True))
        return [pair in kept for pair in zip(table["prompt_id"], table["candidate"], strict=True)]

    return choose
