"""Draw the candidates of a plan, unit by unit: what ``generate`` and ``evaluate`` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mitune.data.store import CandidateStore, Unit
from mitune.denoiser import Condition, Denoiser
from mitune.distributed import state, wait
from mitune.errors import UserError
from mitune.information.registry import Scoring
from mitune.out_of_memory import advice, largest_that_fits
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.sampling.steps import Sampler
from mitune.stages.progress import progress
from mitune.stages.units import Cost, Meter, claim_model, read_cost

Keep = Callable[[dict[str, list[Any]]], list[bool]]


def keep_all(table: dict[str, list[Any]]) -> list[bool]:
    """Every latent stays."""
    return [True] * len(table["seed"])


def draw(
    folder: Path,
    units: Sequence[Unit],
    denoiser: Denoiser,
    sampler: Sampler,
    scoring: Scoring,
    seed: int,
    first: int = 0,
    batch_size: int = 96,
    keep: Keep = keep_all,
    title: str = "generate",
) -> CandidateStore:
    """Make every unit of the plan that is not on disk yet; each process makes its own.

    ``first``: candidate number i of a prompt is drawn from seed number ``first + i``: later rounds see new noise.
    """
    store = CandidateStore(folder)
    main = state().is_main_process
    if main:
        store.clean()
        store.claim(units)
        claim_model(folder, denoiser.identity, "pictures of", "run= folder", scoring.judges)
    wait()
    rows = sum(unit.rows for unit in units)
    todo = store.todo(units, state().process_index, state().num_processes)
    done = rows - sum(unit.rows for unit in todo) * state().num_processes
    with progress(title, rows, max(0, done)) as advance:
        for unit in todo:
            meter = Meter(denoiser, scoring)
            table, latents = draw_unit(unit, denoiser, sampler, scoring, seed, first, batch_size)
            table["kept"] = keep(table)
            kept = torch.tensor(table["kept"])
            meter.write(store.table_path(unit.index))
            store.write_unit(unit, table, latents[kept])
            advance(unit.rows * state().num_processes)
    wait()
    return store


def draw_unit(
    unit: Unit,
    denoiser: Denoiser,
    sampler: Sampler,
    scoring: Scoring,
    seed: int,
    first: int = 0,
    batch_size: int = 96,
) -> tuple[dict[str, list[Any]], Tensor]:
    """Candidates of one unit: the table's columns (without ``kept``) and their latents [rows, …] on the CPU."""
    rows = unit.candidates()
    encoded = denoiser.encode_prompts([prompt.text for prompt in unit.prompts])
    owner = torch.arange(len(unit.prompts)).repeat_interleave(unit.candidates_per_prompt)
    seeds = [candidate_seed(seed, prompt.text, first + number) for prompt, number in rows]
    texts = [prompt.text for prompt, _ in rows]
    latents, scores = [], []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        observers = scoring.observers()
        try:
            z = sample(denoiser, encoded[owner[part]], seeds[part], sampler, observers)
        except torch.OutOfMemoryError as error:
            raise UserError(_too_large(denoiser, encoded[owner[part]], seeds[part], sampler)) from error
        columns = {observer.name: observer.result() for observer in observers}
        columns |= scoring.on_latents(z, texts[part], seeds[part])
        if scoring.needs_pictures:
            columns |= scoring.on_pictures(denoiser.decode(z), texts[part])
        latents.append(z.cpu())
        scores.append({name: values.double().cpu() for name, values in columns.items()})
    table: dict[str, list[Any]] = {
        "prompt_id": [prompt.id for prompt, _ in rows],
        "prompt": texts,
        "category": [prompt.category for prompt, _ in rows],
        "candidate": [number for _, number in rows],
        "seed": seeds,
    }
    for name in scores[0]:
        table[name] = torch.cat([part[name] for part in scores]).tolist()
    table |= scoring.on_table(table, table["prompt_id"])  # a unit has all candidates of its prompts
    return table, torch.cat(latents)


def _too_large(denoiser: Denoiser, condition: Condition, seeds: Sequence[int], sampler: Sampler) -> str:
    """What to say of a batch that does not fit: how many candidates would, by one step each."""
    probe = dataclasses.replace(sampler, steps=1)
    fits = largest_that_fits(len(seeds), lambda n: sample(denoiser, condition[:n], seeds[:n], probe))
    keys = "generate.batch_size={fits} (in an evaluation: evaluate.batch_size={fits})"
    return advice("a batch", len(seeds), fits, keys)


def cost(store: CandidateStore, units: Sequence[Unit]) -> Cost:
    """What the units took."""
    return read_cost(store.table_path(unit.index) for unit in units)


def decode_rows(
    store: CandidateStore, rows: pd.DataFrame, denoiser: Denoiser, batch_size: int = 96
) -> list[Tensor]:
    """The pictures [3, H, W] on the CPU of kept rows of the store's table, in their order."""
    latents = store.latents(rows)
    pictures: list[Tensor] = []
    for part in latents.split(batch_size):
        pictures.extend(denoiser.decode(part.to(denoiser.device)).float().cpu())
    return pictures
