"""Racing as it is configured: when candidates are dropped, by which score, and what looking costs; and its pilot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.information.scoring import Scoring
from mitune.sampling.loop import Guide, Observer
from mitune.sampling.racing import Cut, Look, Pilot, Racing, check_cuts, cuts_for, steps_at
from mitune.sampling.seeds import candidate_seed
from mitune.scores import SCORES
from mitune.stages.common import prompt_pool, scoring_of
from mitune.tasks import Task


class Watcher(Protocol):
    """What steers, or follows, one population while it is drawn."""

    @property
    def guide(self) -> Guide:
        """Its guide."""

    @property
    def observers(self) -> Sequence[Observer]:
        """Those that were there, and what it needs beside them."""

    def columns(self, latents: Tensor) -> dict[str, list[Any]]:
        """What it adds to the table, a value a candidate asked for; ``latents``: of those that finished."""


class Watch(Protocol):
    """Makes the watcher of each population; ``forwards``: network rows that all of them have spent."""

    @property
    def forwards(self) -> int: ...

    def begin(
        self, tasks: Sequence[Task], seeds: Sequence[int], groups: Tensor, observers: Sequence[Observer]
    ) -> Watcher:
        """Of these candidates; ``groups`` [n]: the prompt of each, as numbers; ``observers``: there already."""


# -- racing ------------------------------------------------------------------------------------------------------------


def cuts_of(config: DictConfig, branches: int = 2) -> list[Cut]:
    """The cuts that ``sampler.racing`` asks for, none where it is off. Raises UserError for what cannot be done.

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
        return cuts_for(racing.speedup, at, candidates, steps, k, look, branches)
    cuts = [Cut(step, survivors) for step, survivors in zip(at, racing.survivors, strict=True)]
    check_cuts(cuts, candidates, k)
    return cuts


def survivors_of(config: DictConfig, branches: int = 2) -> int:
    """How many candidates of a prompt finish; ``branches`` as of ``cuts_of``."""
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
    """The score ``by`` with the few times and edits of a look, else as the section ``scorer`` has it."""
    few = {"times": times, "edits": edits}
    changed = {key: value for key, value in few.items() if key in config.scorer.get(by, ())}
    own: DictConfig = OmegaConf.merge(config, {"scorer": {by: changed}} if changed else {})  # type: ignore[assignment]
    # Not in the held-out prompts: what is learned from the candidates must not have seen them.
    return scoring_of(own, denoiser, [by], lambda: prompt_pool(config.prompts))


def running_score(scoring: Scoring, tasks: Sequence[Task], seeds: Sequence[int]) -> str | Look:
    """What ranks the candidates of one population: the observer's name, or a look by the one score of ``scoring``.

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


def _together(observers: Sequence[Observer], scorings: Iterable[Scoring]) -> list[Observer]:
    """``observers``, and those of ``scorings`` that are not among them."""
    there = {observer.name for observer in observers}
    more = [other for scoring in scorings for other in scoring.observers()]
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
    ) -> RaceWatcher:
        """The race of these candidates."""
        by = running_score(self.scoring, tasks, seeds)
        policy = Racing(self.cuts, groups, by, self.scoring.denoiser.schedule)
        return RaceWatcher(policy, _together(observers, [self.scoring]))


@dataclass(frozen=True, eq=False)
class RaceWatcher:
    """One race."""

    guide: Racing
    observers: Sequence[Observer]

    def columns(self, latents: Tensor) -> dict[str, list[Any]]:
        """The store's columns ``RACE``."""
        steps = self.guide.dropped_at.tolist()
        return {"dropped_at": [step or None for step in steps], "race": self.guide.score.tolist()}


def race_of(config: DictConfig, denoiser: Denoiser) -> Race | None:
    """The race of ``sampler.racing``; None where it is off."""
    cuts, racing = cuts_of(config, denoiser.branches), config.sampler.racing
    if not cuts:
        return None
    return Race(cuts, look_scoring(config, denoiser, racing.by, racing.times, racing.edits))


# -- its pilot ---------------------------------------------------------------------------------------------------------


def column(name: str, step: int) -> str:
    """The column of a running score after so many steps; after all of them: its own final value."""
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
    ) -> PilotWatcher:
        """The pilot of these candidates."""
        by = {name: running_score(scoring, tasks, seeds) for name, scoring in self.scorings.items()}
        schedule = next(iter(self.scorings.values())).denoiser.schedule
        every = _together(observers, self.scorings.values())
        return PilotWatcher(Pilot(by, dict(self.at), schedule), every, self.steps)


@dataclass(frozen=True, eq=False)
class PilotWatcher:
    """One pilot."""

    guide: Pilot
    observers: Sequence[Observer]
    steps: int

    def columns(self, latents: Tensor) -> dict[str, list[Any]]:
        """``name@step`` for every running score and step, the last step's from the finished latents."""
        found: dict[str, list[Any]] = {}
        own = {observer.name: observer for observer in self.observers}
        for name, by in self.guide.by.items():
            for step, values in sorted(self.guide.scores[name].items()):
                found[column(name, step)] = values.tolist()
            rows = torch.arange(len(latents))
            last = own[by].result() if isinstance(by, str) else by(latents, rows, self.steps)
            found[column(name, self.steps)] = last.double().cpu().tolist()
        return found
