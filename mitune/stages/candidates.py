"""Draw the candidates of a plan, unit by unit: what ``generate`` and ``evaluate`` share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mitune.data.store import PICTURE, CandidateStore, Unit
from mitune.denoiser import Condition, Denoiser
from mitune.distributed import broadcast, state, wait, work_queue
from mitune.errors import UserError
from mitune.information.scoring import Scoring
from mitune.out_of_memory import advice, largest_that_fits
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample, sample_population
from mitune.sampling.seeds import candidate_seed
from mitune.stages.artefacts import tell
from mitune.stages.progress import progress, warn_of_idle
from mitune.stages.racing import Watch, Watcher
from mitune.stages.search import Search
from mitune.stages.units import Cost, CostCounter, bind_model, read_cost
from mitune.tasks import Task

Keep = Callable[[dict[str, list[Any]]], list[bool]]


def keep_all(table: dict[str, list[Any]]) -> list[bool]:
    """Every latent stays."""
    return [True] * len(table["seed"])


@dataclass(frozen=True, eq=False)
class Drawing:
    """Says how candidates are drawn and scored.

    Attributes:
        sampler, scoring: the walk, and the scores with the model that is walked and asked.
        seed: of the run.
        batch_size: candidates a forward.
        first: candidate number i of a prompt is drawn from seed number ``first + i``: later rounds see new noise.
        watch: a race, or its pilot; what it drops stays in the table without scores (:mod:`mitune.data.store`).
        search: steers the candidates of a prompt; those that died of it are left out.
    """

    sampler: SamplerConfig
    scoring: Scoring
    seed: int
    batch_size: int
    first: int = 0
    watch: Watch | None = None
    search: Search | None = None

    @property
    def judges(self) -> dict[str, str]:
        """The judges that the pictures or their scores depend on: identity by name."""
        return self.scoring.judges | ({} if self.search is None else self.search.judges)


def draw(
    folder: Path, units: Sequence[Unit], how: Drawing, keep: Keep = keep_all, title: str = "generate"
) -> CandidateStore:
    """Make every unit of the plan that is not on disk yet; each process takes the next one when it is free.

    Args:
        folder: of the store.
        units: the plan.
        how: the model, its sampler, the scores.
        keep: the table of a unit's finished candidates -> whose latents stay.
        title: of the progress bar.
    """
    store = CandidateStore(folder)

    def begin() -> list[int]:
        """What is to be done, as the first process sees it: what others see of a shared folder may be of yesterday."""
        store.clean()
        store.bind(units)
        bind_model(folder, how.scoring.denoiser.identity, "pictures of", "run= folder", how.judges)
        tell(store)
        return [unit.index for unit in store.todo(units)]

    left = set(broadcast(begin))
    todo = [unit for unit in units if unit.index in left]
    rows = sum(unit.rows for unit in units)
    warn_of_idle(len(todo), "units", "generate.rows_per_unit")
    done = rows - sum(unit.rows for unit in todo)
    with progress(title, rows, done) as advance, _unbound_if_refused(store):
        shown = 0
        for place, unit in work_queue(todo):
            counter = CostCounter(how.scoring.denoiser, how.scoring, how.watch)
            table, latents = draw_unit(unit, how)
            rows_there = len(table["seed"])
            finished = [
                row for row, step in enumerate(table.get("dropped_at", [None] * rows_there)) if step is None
            ]
            flags = keep({name: [values[row] for row in finished] for name, values in table.items()})
            kept = {row for row, flag in zip(finished, flags, strict=True) if flag}
            table["kept"] = [row in kept for row in range(rows_there)]
            store.write_unit(unit, table, latents[torch.tensor(flags)], counter.read())
            advance(sum(other.rows for other in todo[shown : place + 1]))  # the others' too
            shown = place + 1
    wait()
    return store


@contextlib.contextmanager
def _unbound_if_refused(store: CandidateStore) -> Iterator[None]:
    """Let go of the folder where the very first unit is refused: the corrected command may be another one."""
    try:
        yield
    except UserError:
        if state().num_processes == 1:  # another process may be drawing
            store.unbind()
        raise


def draw_unit(unit: Unit, how: Drawing) -> tuple[dict[str, list[Any]], Tensor]:
    """Draw one unit: the table's columns (without ``kept``), and latents [finished, …] on the CPU.

    All candidates finish, unless ``how.watch`` drops some: these have None for their scores, and no latent. Particles
    that died in a search are not in the table.
    """
    scoring, sampler, search, denoiser = how.scoring, how.sampler, how.search, how.scoring.denoiser
    batch = how.batch_size
    rows = unit.candidates()
    encoded = denoiser.encode(unit.prompts)
    owner = torch.arange(len(unit.prompts)).repeat_interleave(unit.candidates_per_prompt)
    seeds = [candidate_seed(how.seed, prompt.key, how.first + number) for prompt, number in rows]
    tasks = [prompt for prompt, _ in rows]
    # Who goes on is settled among all candidates of a prompt, so races and searches split their forwards themselves.
    size = batch if how.watch is None and search is None else len(rows)
    latents, scores, finished = [], [], []
    added: dict[str, list[Any]] = {}
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        observers = scoring.observers()
        watcher = Watcher(None, observers, lambda _: {})
        if how.watch is not None:
            watcher = how.watch.begin(tasks[part], seeds[part], owner[part], observers)
        condition = encoded[owner[part]]
        steered: dict[str, list[float]] = {}
        try:
            if search is None:
                watching, guide = watcher.observers, watcher.guide
                found = sample_population(denoiser, condition, seeds[part], sampler, watching, guide, batch)
            else:
                prompts = [prompt.text for prompt in unit.prompts]
                found, steered = search.draw(denoiser, prompts, seeds, sampler, observers)
        except torch.OutOfMemoryError as error:
            line = _too_large(denoiser, condition[:batch], seeds[part][:batch], sampler)
            raise UserError(line) from error
        own = (start + found.rows).tolist()
        lasting = slice(None) if search is None else found.rows.to(denoiser.device)
        columns = {observer.name: observer.result()[lasting] for observer in observers}
        columns |= _scores(how, found.latents, [tasks[row] for row in own], [seeds[row] for row in own])
        latents.append(found.latents.cpu())
        scores.append({name: values.double().cpu() for name, values in columns.items()})
        finished += own
        added |= watcher.columns(found.latents)
    results = {name: torch.cat([part[name] for part in scores]).tolist() for name in scores[0]} | steered
    # A unit has all candidates of its prompts.
    results |= scoring.on_table(results, [rows[row][0].id for row in finished])
    place = {row: number for number, row in enumerate(finished)}
    there = range(len(rows)) if search is None else finished
    table: dict[str, list[Any]] = {
        "prompt_id": [rows[row][0].id for row in there],
        "prompt": [tasks[row].text for row in there],
        "category": [rows[row][0].category for row in there],
        "candidate": [rows[row][1] for row in there],
        "seed": [seeds[row] for row in there],
    }
    if any(task.picture for task in tasks):
        table[PICTURE] = [str(tasks[row].picture) for row in there]
    for name, values in results.items():
        table[name] = [values[place[row]] if row in place else None for row in there]
    return table | added, torch.cat(latents)


def _scores(how: Drawing, latents: Tensor, tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Tensor]:
    """Scores of finished latents and of their pictures, ``batch_size`` at a time: each [n]."""
    parts, scoring = [], how.scoring
    for start in range(0, len(latents), how.batch_size):
        part = slice(start, start + how.batch_size)
        found = scoring.on_latents(latents[part], tasks[part], seeds[part])
        if scoring.needs_pictures:
            found |= scoring.on_pictures(
                scoring.denoiser.decode(latents[part]), [task.text for task in tasks[part]]
            )
        parts.append(found)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _too_large(denoiser: Denoiser, condition: Condition, seeds: Sequence[int], sampler: SamplerConfig) -> str:
    """What to say of a batch that does not fit: how many candidates would, by one step each."""
    probe = dataclasses.replace(sampler, steps=1)
    fits = largest_that_fits(len(seeds), lambda n: sample(denoiser, condition[:n], seeds[:n], probe))
    keys = "generate.batch_size={fits} (in an evaluation: evaluate.batch_size={fits})"
    return advice("a batch", len(seeds), fits, keys)


def cost(store: CandidateStore, units: Sequence[Unit]) -> Cost:
    """Add up what the units took. One process asks: every unit's file is opened."""
    return read_cost(store.table_path(unit.index) for unit in units)


def scored_table(store: CandidateStore) -> pd.DataFrame:
    """Read the candidates with their scores, without what only the store goes by."""
    return store.table().drop(columns=["kept", "unit", "latent_row"])


def decode_rows(
    store: CandidateStore, rows: pd.DataFrame, denoiser: Denoiser, batch_size: int = 96
) -> list[Tensor]:
    """Decode the pictures [3, H, W] on the CPU of kept rows of the store's table, in their order."""
    return decode_latents(store.latents(rows), denoiser, batch_size)


def decode_latents(latents: Tensor, denoiser: Denoiser, batch_size: int = 96) -> list[Tensor]:
    """Decode latents [n, …] to pictures [3, H, W] in [0, 1] on the CPU, ``batch_size`` at a time."""
    pictures: list[Tensor] = []
    for part in latents.split(batch_size):
        pictures.extend(denoiser.decode(part.to(denoiser.device)).float().cpu())
    return pictures
