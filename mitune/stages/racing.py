"""Racing as it is configured: when candidates are dropped, by which score, and what looking costs; and its pilot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.information.scoring import Scoring
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.loop import Guide, Observer
from mitune.sampling.racing import Cut, Look, Pilot, Racing, check_cuts, cuts_for, steps_at
from mitune.sampling.seeds import candidate_seed
from mitune.sampling.solver import in_interval, solver_of
from mitune.scores import SCORES
from mitune.stages.inputs import candidate_sampler, prompt_pool, scoring_of
from mitune.tasks import Task


@dataclass(frozen=True, eq=False)
class Watcher:
    """Steers, or follows, one population while it is drawn.

    Attributes:
        guide: its guide in the sampling loop; None where nobody is dropped.
        observers: those that were there, and those that it needs beside them.
        columns: the latents of the candidates that finished -> what it adds to the table, a value a candidate.
    """

    guide: Guide | None
    observers: Sequence[Observer]
    columns: Callable[[Tensor], dict[str, list[Any]]]


class Watch(Protocol):
    """Makes the watcher of each population; ``forwards``: network rows that all of them have spent."""

    @property
    def forwards(self) -> int: ...

    def begin(
        self, tasks: Sequence[Task], seeds: Sequence[int], groups: Tensor, observers: Sequence[Observer]
    ) -> Watcher:
        """Watch these candidates; ``groups`` [n]: the prompt of each, as numbers; ``observers``: there already."""


# -- racing ------------------------------------------------------------------------------------------------------------


def cuts_of(config: DictConfig, branches: int = 2) -> list[Cut]:
    """Give the cuts that ``sampler.racing`` asks for, none where it is off. Raises UserError for what cannot be done.

    ``branches``: the model's, on which a speedup depends where looks cost something; with most models' two, mistakes
    are found before one is loaded.
    """
    racing, candidates = config.sampler.racing, config.generate.candidates
    if racing.by is None:
        return []
    steps, k = config.sampler.steps, config.select.k + config.select.losers
    at = steps_at(racing.at, steps)
    if racing.speedup is not None:
        look = look_cost(racing.by, config.scorer, racing.times, racing.edits)
        return cuts_for(racing.speedup, at, candidates, steps, k, look, step_rows(config, branches))
    cuts = [Cut(step, survivors) for step, survivors in zip(at, racing.survivors, strict=True)]
    check_cuts(cuts, candidates, k)
    return cuts


def step_rows(config: DictConfig, branches: int) -> list[int]:
    """Count the network rows of each step of one candidate: ``branches`` for each evaluation that the sampler makes. At
    most: outside of a guidance interval a step takes fewer (``rows_of_steps``, once a model has laid out its times).
    """
    return [branches * count for count in SAMPLERS[config.sampler.name].evaluated(config.sampler.steps)]


def rows_of_steps(denoiser: Denoiser, sampler: SamplerConfig) -> list[int]:
    """Count the network rows of each step of one candidate that is observed. Its first evaluation is at the step's
    time, all others at the next.
    """
    times = [at.t for at in solver_of(denoiser, sampler).steps]
    rows = [denoiser.branches if in_interval(sampler.guidance_interval, t) else 1 for t in times]
    counts = SAMPLERS[sampler.name].evaluated(len(times))
    return [own + (count - 1) * after for own, after, count in zip(rows, [*rows[1:], 0], counts, strict=True)]


def survivors_of(config: DictConfig, branches: int = 2) -> int:
    """Count the candidates of a prompt that finish; ``branches`` as of ``cuts_of``."""
    cuts = cuts_of(config, branches)
    return cuts[-1].survivors if cuts else config.generate.candidates


def look_cost(by: str, scorer: Mapping[str, Any], times: int | None, edits: int) -> int:
    """Network rows that a look at one candidate takes: 0 for a score of the path.

    ``contrast`` may take fewer, where a prompt has fewer edits.
    """
    if times is None:
        return 0
    return SCORES[by].rows(SCORES[by].own(scorer, times=times, edits=edits))


def look_scoring(config: DictConfig, denoiser: Denoiser, by: str, times: int | None, edits: int) -> Scoring:
    """Make the score that a look takes, else as the section ``scorer`` has it.

    Args:
        config, denoiser: of the stage.
        by: the score's name.
        times: noise levels that it is estimated at.
        edits: other prompts that ``contrast`` compares with.
    """
    few = {"times": times, "edits": edits}
    changed = {key: value for key, value in few.items() if key in config.scorer.get(by, ())}
    own: DictConfig = OmegaConf.merge(config, {"scorer": {by: changed}} if changed else {})  # type: ignore[assignment]
    # Not in the held-out prompts: what is learned from the candidates must not have seen them.
    return scoring_of(own, denoiser, [by], lambda: prompt_pool(config.prompts))


def running_score(scoring: Scoring, tasks: Sequence[Task], seeds: Sequence[int]) -> str | Look:
    """Give what ranks the candidates of one population: the observer's name, or a look by the one score of ``scoring``.

    Each look draws its own noise from the candidates' own seeds: none that the sampler, another look or a score of the
    finished picture uses. So a look that was lucky is not lucky again.
    """
    (name,) = scoring.names
    if SCORES[name].where == "path":
        return name

    def look(z0: Tensor, rows: Tensor, step: int) -> Tensor:
        chosen = rows.tolist()
        fresh = [candidate_seed(seeds[row], "look", step) for row in chosen]
        return scoring.on_latents(z0, [tasks[row] for row in chosen], fresh)[name]

    return look


def _together(
    observers: Sequence[Observer], scorings: Iterable[Scoring], tasks: Sequence[Task]
) -> list[Observer]:
    """``observers``, and those of ``scorings`` that are not among them."""
    there = {observer.name for observer in observers}
    more = [other for scoring in scorings for other in scoring.observers(tasks)]
    return [*observers, *(other for other in more if other.name not in there)]


@dataclass(frozen=True, eq=False)
class Race:
    """Drops candidates at ``cuts`` by the one score of ``scoring``."""

    cuts: Sequence[Cut]
    scoring: Scoring

    @property
    def forwards(self) -> int:
        """Network rows that the looks have taken."""
        return sum(self.scoring.forwards.values())

    def begin(
        self, tasks: Sequence[Task], seeds: Sequence[int], groups: Tensor, observers: Sequence[Observer]
    ) -> Watcher:
        """Begin the race of these candidates; it adds the store's columns ``RACE``."""
        by = running_score(self.scoring, tasks, seeds)
        guide = Racing(self.cuts, groups, by)

        def columns(latents: Tensor) -> dict[str, list[Any]]:
            steps = guide.dropped_at.tolist()
            return {"dropped_at": [step or None for step in steps], "race": guide.score.tolist()}

        return Watcher(guide, _together(observers, [self.scoring], tasks), columns)


def race_of(config: DictConfig, denoiser: Denoiser) -> Race | None:
    """Make the race of ``sampler.racing``; None where it is off. UserError for a cut by a score of the path of which
    nothing is measured yet, as no step before the cut is guided.
    """
    cuts, racing, sampler = cuts_of(config, denoiser.branches), config.sampler.racing, config.sampler
    if not cuts:
        return None
    before = solver_of(denoiser, candidate_sampler(config, denoiser)).steps[: cuts[0].step]
    blind = not any(in_interval(sampler.guidance_interval, at.t) for at in before)
    if blind and SCORES[racing.by].where == "path":
        raise UserError(
            f"sampler.racing.at={list(racing.at)}: {racing.by} tells nothing of the candidates after step"
            f" {cuts[0].step}, as no step up to it lies in sampler.guidance_interval="
            f"{list(sampler.guidance_interval)}; cut later, or give a wider interval"
        )
    return Race(cuts, look_scoring(config, denoiser, racing.by, racing.times, racing.edits))


# -- its pilot ---------------------------------------------------------------------------------------------------------


def column(name: str, step: int) -> str:
    """Name the column of a running score after so many steps; after all of them: its own final value."""
    return f"{name}@{step}"


@dataclass(frozen=True, eq=False)
class PilotRace:
    """Drops nobody; notes every score of ``scorings`` at its ``at`` steps, and at the last of ``steps``."""

    scorings: Mapping[str, Scoring]
    at: Mapping[str, Sequence[int]]
    steps: int

    @property
    def forwards(self) -> int:
        """Network rows that the looks have taken."""
        return sum(sum(scoring.forwards.values()) for scoring in self.scorings.values())

    def begin(
        self, tasks: Sequence[Task], seeds: Sequence[int], groups: Tensor, observers: Sequence[Observer]
    ) -> Watcher:
        """Begin the pilot of these candidates; it adds ``name@step`` for every running score and step, the last step's
        from the finished latents."""
        by = {name: running_score(scoring, tasks, seeds) for name, scoring in self.scorings.items()}
        guide = Pilot(by, dict(self.at))
        together = _together(observers, self.scorings.values(), tasks)
        own = {observer.name: observer for observer in together}

        def columns(latents: Tensor) -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {}
            rows = torch.arange(len(latents))
            for name, score in by.items():
                for step, values in sorted(guide.scores[name].items()):
                    found[column(name, step)] = values.tolist()
                last = own[score].result() if isinstance(score, str) else score(latents, rows, self.steps)
                found[column(name, self.steps)] = last.double().cpu().tolist()
            return found

        return Watcher(guide, together, columns)
