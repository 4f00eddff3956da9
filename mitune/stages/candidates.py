"""Draw the candidates of a plan, unit by unit: what ``generate`` and ``evaluate`` share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import torch
from torch import Tensor

from mitune.data.store import LATENT_ROW, LEFT, PICTURE, UNIT, CandidateStore, Unit
from mitune.denoiser import Condition, Denoiser
from mitune.digests import sha256_of
from mitune.distributed import broadcast, state, wait, work_queue
from mitune.errors import UserError
from mitune.information.in_passes import Contest
from mitune.information.scoring import Scoring
from mitune.leaving import Leave
from mitune.out_of_memory import advice, largest_that_fits
from mitune.pixels.balance import balanced
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.grids import laid
from mitune.sampling.loop import sample, sample_population
from mitune.sampling.seeds import candidate_seed
from mitune.scores import is_sum
from mitune.stages.artefacts import tell
from mitune.stages.begun import Batch, BegunUnit, clear_begun
from mitune.stages.climbing import Climb
from mitune.stages.progress import Bar, progress, warn, warn_of_idle
from mitune.stages.racing import Watch, Watcher
from mitune.stages.search import Search
from mitune.stages.units import Cost, CostCounter, bind_model, total_cost
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
        search: steers the candidates of a prompt, and those that died of it are left out; or draws each up a judge.
        contest: what the candidates of a prompt race for while they are scored; who leaves stays in the table without
            the scores that it went by.
    """

    sampler: SamplerConfig
    scoring: Scoring
    seed: int
    batch_size: int
    first: int = 0
    watch: Watch | None = None
    search: Search | Climb | None = None
    contest: Contest | None = None

    def __post_init__(self) -> None:
        _ = self.denoiser  # a model that its sampler cannot balance is refused before anything is written

    @functools.cached_property
    def denoiser(self) -> Any:
        """The model as the sampler walks with it: that of the scores, unless phrases are balanced."""
        return balanced(self.scoring.denoiser, self.sampler)

    @property
    def judges(self) -> dict[str, str]:
        """The judges that the pictures or their scores depend on: identity by name."""
        found = self.scoring.judges | ({} if self.search is None else self.search.judges)
        return found if self.contest is None else found | {self.contest.by: self.contest.said}

    @property
    def deferred(self) -> list[str]:
        """The scores that are measured once all candidates of a unit are drawn."""
        return [] if self.contest is None else self.scoring.racing(self.contest)

    @property
    def laid(self) -> str | None:
        """Whose steps the sampler takes (:func:`mitune.sampling.grids.laid`)."""
        model = self.scoring.denoiser
        return laid(model.schedule, self.sampler.resolved(model.sampler_defaults))

    @functools.cached_property
    def digest(self) -> str:
        """Give a digest of the settings that a finished batch depends on, beside its seeds and the model."""
        said = [dataclasses.asdict(self.sampler), self.scoring.said, self.judges]
        if isinstance(self.search, Climb):
            said.append(self.search.said)
        return sha256_of(json.dumps(said, sort_keys=True).encode())


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
        look = store.look()  # once: of a large store it takes minutes
        clear_begun(store, look)
        store.bind(units)
        todo = [unit.index for unit in units if unit.index not in look.whole]
        steps = how.laid if todo else None  # what is finished stays as it is
        bind_model(folder, how.scoring.denoiser.identity, "pictures of", "run= folder", how.judges, steps)
        tell(store, look)
        return todo

    left = set(broadcast(begin))
    todo = [unit for unit in units if unit.index in left]
    rows = sum(unit.rows for unit in units)
    warn_of_idle(len(todo), "units", "generate.rows_per_unit")
    done = rows - sum(unit.rows for unit in todo)
    with progress(title, rows, done) as bar, _unbound_if_refused(store):
        shown = 0
        for place, unit in work_queue(todo):
            bar(sum(other.rows for other in todo[shown:place]))  # the others'
            shown = place + 1
            _make_unit(store, unit, how, keep, bar)
    wait()
    return store


def _make_unit(store: CandidateStore, unit: Unit, how: Drawing, keep: Keep, bar: Bar) -> None:
    """Draw a unit and commit it; told to leave, save its finished batches."""
    effort = how.search.effort if isinstance(how.search, Climb) else None
    counter = CostCounter(how.scoring.denoiser, how.scoring, how.watch, effort)
    begun = BegunUnit(store, unit, how.scoring.denoiser.identity, how.digest, counter)
    try:
        table, latents = draw_unit(unit, how, begun, bar)
        rows_there = len(table["seed"])
        finished = [
            row for row, step in enumerate(table.get("dropped_at", [None] * rows_there)) if step is None
        ]
        flags = keep({name: [values[row] for row in finished] for name, values in table.items()})
        kept = {row for row, flag in zip(finished, flags, strict=True) if flag}
        table["kept"] = [row in kept for row in range(rows_there)]
        store.write_unit(unit, table, latents[torch.tensor(flags)], counter.read())
    except (Leave, KeyboardInterrupt):
        try:
            begun.save()
        except UserError as error:  # no reason to stay, and the same command still goes on from what is there
            warn(f"{error}; what was not saved is drawn again")
        raise
    begun.finish()


@contextlib.contextmanager
def _unbound_if_refused(store: CandidateStore) -> Iterator[None]:
    """Let go of the folder where the very first unit is refused: the corrected command may be another one. Batches that
    are finished are kept where the machine refused, and not what was asked for."""
    try:
        yield
    except UserError as error:
        alone = state().num_processes == 1  # else another process may be drawing
        if alone and not (store.begun() and _of_the_machine(error)):
            store.unbind()
        raise


def _of_the_machine(error: BaseException | None) -> bool:
    """Whether memory, a disk or a file is behind an error."""
    causes = (OSError, MemoryError, torch.OutOfMemoryError, safetensors.SafetensorError)
    return error is not None and (isinstance(error, causes) or _of_the_machine(error.__cause__))


def draw_unit(
    unit: Unit, how: Drawing, begun: BegunUnit | None = None, bar: Bar | None = None
) -> tuple[dict[str, list[Any]], Tensor]:
    """Draw one unit: the table's columns (without ``kept``), and latents [finished, …] on the CPU.

    All candidates finish, unless ``how.watch`` drops some: these have None for their scores, and no latent. Particles
    that died in a search are not in the table. ``begun`` keeps the batches that are finished, ``bar`` counts them.
    """
    rows = unit.candidates()
    seeds = [candidate_seed(how.seed, prompt.key, how.first + number) for prompt, number in rows]
    if how.watch is None and not isinstance(how.search, Search):
        drawn = _draw_batches(unit, seeds, how, begun, bar)
    else:
        drawn = _draw_whole(unit, seeds, how)
        if bar is not None:
            bar(len(rows), drawn.scores)
    # A unit has all candidates of its prompts.
    results: dict[str, list[Any]] = {**drawn.scores}
    owners = [rows[row][0] for row in drawn.finished]
    if how.contest is None:
        results |= how.scoring.on_table(drawn.scores, [task.id for task in owners])
    else:
        results |= _in_passes(how, how.contest, drawn, owners, [seeds[row] for row in drawn.finished])
    place = {row: number for number, row in enumerate(drawn.finished)}
    there = drawn.finished if isinstance(how.search, Search) else range(len(rows))
    table: dict[str, list[Any]] = {
        "prompt_id": [rows[row][0].id for row in there],
        "prompt": [rows[row][0].text for row in there],
        "category": [rows[row][0].category for row in there],
        "candidate": [rows[row][1] for row in there],
        "seed": [seeds[row] for row in there],
    }
    if any(task.picture for task in unit.prompts):
        table[PICTURE] = [str(rows[row][0].picture) for row in there]
    for name, values in results.items():
        table[name] = [values[place[row]] if row in place else None for row in there]
    return table | drawn.added, drawn.latents


def _in_passes(
    how: Drawing, contest: Contest, drawn: _Drawn, tasks: Sequence[Task], seeds: Sequence[int]
) -> dict[str, list[Any]]:
    """The scores by passes, the sums and ``LEFT`` of the candidates of a unit: None where there is none.

    Sums are standardised among all candidates of a prompt, with what was foretold of those that left.
    """
    scoring = how.scoring
    latents = drawn.latents.to(scoring.denoiser.device)
    found = scoring.race(latents, tasks, seeds, drawn.scores, contest)
    own = {name: values.tolist() for name, values in found.scores.items()}
    more = [contest.by] if is_sum(contest.by) else []
    table = scoring.on_table(drawn.scores | own, [task.id for task in tasks], more)
    lacking = {name for name in table if {part.name for part in scoring.terms(name)} & own.keys()}
    gone = found.left_after
    columns: dict[str, list[Any]] = {
        name: [
            None if passes and (name in own or name in lacking) else value
            for value, passes in zip(values, gone, strict=True)
        ]
        for name, values in (own | table).items()
    }
    return columns | {LEFT: [passes or None for passes in gone]}


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What a unit came to: the rows that finished, with their latents and scores, and the columns of a race."""

    finished: list[int]
    latents: Tensor
    scores: dict[str, list[float]]
    added: dict[str, list[Any]]


def _draw_batches(
    unit: Unit, seeds: list[int], how: Drawing, begun: BegunUnit | None, bar: Bar | None
) -> _Drawn:
    """Draw the candidates of a unit batch by batch, from where an earlier command left it."""
    denoiser, tasks = how.denoiser, [prompt for prompt, _ in unit.candidates()]
    encoded = denoiser.encode(unit.prompts)
    owner = torch.arange(len(unit.prompts)).repeat_interleave(unit.candidates_per_prompt)
    first = 0 if begun is None else begun.resume(seeds)
    batches = [] if begun is None else begun.batches
    if bar is not None and first:
        bar(first, {name: values.tolist() for name, values in batches[0].scores.items()}, here=False)
    for start in range(first, len(seeds), how.batch_size):
        part = slice(start, start + how.batch_size)
        condition = encoded[owner[part]]
        with _fitting(how, tasks[part], seeds[part]):
            latents, columns = _draw_batch(how, condition, tasks[part], seeds[part])
        columns |= _scores(how, latents, tasks[part], seeds[part])
        scores = {name: values.double().cpu() for name, values in columns.items()}
        batch = Batch(seeds[part], latents.cpu(), scores)
        if begun is None:
            batches.append(batch)
        else:
            begun.add(batch)
        if bar is not None:
            bar(len(batch.seeds), {name: values.tolist() for name, values in scores.items()})
    names = batches[0].scores
    together = {name: torch.cat([batch.scores[name] for batch in batches]).tolist() for name in names}
    return _Drawn([*range(len(seeds))], torch.cat([batch.latents for batch in batches]), together, {})


def _draw_batch(
    how: Drawing, condition: Condition, tasks: Sequence[Task], seeds: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw latents [n, …], with what is measured on their way, each [n]."""
    if isinstance(how.search, Climb):
        return how.search.draw(how.denoiser, tasks, seeds, how.sampler)
    observers = how.scoring.observers(tasks)
    found = sample_population(how.denoiser, condition, seeds, how.sampler, observers, None, how.batch_size)
    return found.latents, {observer.name: observer.result() for observer in observers}


def _draw_whole(unit: Unit, seeds: list[int], how: Drawing) -> _Drawn:
    """Draw the candidates of a unit as one population: who goes on is settled among all candidates of a prompt, so
    races and searches split their forwards themselves."""
    scoring, denoiser = how.scoring, how.denoiser
    search = how.search if isinstance(how.search, Search) else None
    tasks = [prompt for prompt, _ in unit.candidates()]
    encoded = denoiser.encode(unit.prompts)
    owner = torch.arange(len(unit.prompts)).repeat_interleave(unit.candidates_per_prompt)
    condition = encoded[owner]
    observers = scoring.observers(tasks)
    watcher = Watcher(None, observers, lambda _: {})
    if how.watch is not None:
        watcher = how.watch.begin(tasks, seeds, owner, observers)
    steered: dict[str, list[float]] = {}
    with _fitting(how, tasks, seeds):
        if search is None:
            found = sample_population(
                denoiser, condition, seeds, how.sampler, watcher.observers, watcher.guide, how.batch_size
            )
        else:
            texts = [prompt.text for prompt in unit.prompts]
            found, steered = search.draw(denoiser, texts, seeds, how.sampler, observers)
    finished = found.rows.tolist()
    lasting = slice(None) if search is None else found.rows.to(denoiser.device)
    columns = {observer.name: observer.result()[lasting] for observer in observers}
    columns |= _scores(how, found.latents, [tasks[row] for row in finished], [seeds[row] for row in finished])
    scores = {name: values.double().cpu().tolist() for name, values in columns.items()}
    return _Drawn(finished, found.latents.cpu(), scores | steered, watcher.columns(found.latents))


@contextlib.contextmanager
def _fitting(how: Drawing, tasks: Sequence[Task], seeds: Sequence[int]) -> Iterator[None]:
    """Say of a batch that does not fit into memory how many candidates would."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        if isinstance(how.search, Climb):
            raise UserError(
                f"out of memory with a batch of {len(seeds)} that climb a judge: lower generate.batch_size (now"
                f" {how.batch_size}: pictures, and views that the judge sees at once)"
            ) from error
        few = slice(how.batch_size)
        line = _too_large(how.scoring.denoiser, tasks[few], seeds[few], how.sampler)
        raise UserError(line) from error


def _scores(how: Drawing, latents: Tensor, tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Tensor]:
    """Scores of finished latents and of their pictures, ``batch_size`` at a time: each [n]."""
    parts, scoring = [], how.scoring
    for start in range(0, len(latents), how.batch_size):
        part = slice(start, start + how.batch_size)
        found = scoring.on_latents(latents[part], tasks[part], seeds[part], how.deferred)
        if scoring.needs_pictures:
            found |= scoring.on_pictures(
                scoring.denoiser.decode(latents[part]), [task.text for task in tasks[part]]
            )
        parts.append(found)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _too_large(
    denoiser: Denoiser, tasks: Sequence[Task], seeds: Sequence[int], sampler: SamplerConfig
) -> str:
    """What to say of a batch that does not fit: how many candidates would, by one step each."""
    probe = dataclasses.replace(
        sampler, steps=1, guidance_interval=None
    )  # the largest forward is a guided one
    walked = balanced(denoiser, probe)  # anew: which steps are early is told by their times
    condition = walked.encode(tasks)
    fits = largest_that_fits(len(seeds), lambda n: sample(walked, condition[:n], seeds[:n], probe))
    keys = "generate.batch_size={fits} (in an evaluation: evaluate.batch_size={fits})"
    return advice("a batch", len(seeds), fits, keys)


def cost(store: CandidateStore) -> Cost:
    """Add up what the units took. One process asks: every unit's note is opened."""
    return total_cost(store.notes())


def scored_table(store: CandidateStore) -> pd.DataFrame:
    """Read the candidates with their scores, without what only the store goes by."""
    return without_places(store.table())


def without_places(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out of a store's table what only the store goes by."""
    return table.drop(columns=["kept", UNIT, LATENT_ROW])


def decode_rows(
    store: CandidateStore, rows: pd.DataFrame, denoiser: Denoiser, batch_size: int = 96
) -> list[Tensor]:
    """Decode the pictures [3, H, W] on the CPU of kept rows of the store's table, in their order."""
    return list(each_picture(store, rows, denoiser, batch_size))


def each_picture(
    store: CandidateStore, rows: pd.DataFrame, denoiser: Denoiser, batch_size: int = 96
) -> Iterator[Tensor]:
    """Give the same as :func:`decode_rows` one by one: a batch of latents and pictures is in memory."""
    starts = range(0, len(rows), batch_size)
    with progress("decode", len(rows), unit="pictures") as bar:
        parts = (store.latents(rows.iloc[start : start + batch_size]) for start in starts)
        yield from decode_each(parts, denoiser, bar)


def decode_latents(latents: Tensor, denoiser: Denoiser, batch_size: int = 96) -> list[Tensor]:
    """Decode latents [n, …] to pictures [3, H, W] in [0, 1] on the CPU, ``batch_size`` at a time."""
    return list(decode_each(latents.split(batch_size), denoiser))


def decode_each(
    parts: Iterable[Tensor], denoiser: Denoiser, bar: Callable[[int], None] | None = None
) -> Iterator[Tensor]:
    """Decode batches of latents [n, …]; gives the pictures [3, H, W] in [0, 1] on the CPU, one by one. ``bar`` counts
    them."""
    for part in parts:
        pictures = denoiser.decode(part.to(denoiser.device)).float().cpu()
        if bar is not None:
            bar(len(part))
        yield from pictures
