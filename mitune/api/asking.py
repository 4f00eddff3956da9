"""Scores as a user of Python asks for them: names, weighted sums of names, and functions of his own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from mitune.data.prompts import make_prompt
from mitune.data.selection import NOT_SCORES
from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.information.scoring import Scoring, check_judges
from mitune.pixels.settings import BALANCES
from mitune.referees.function import Function, FunctionReward
from mitune.sampling.catalogue import SamplerConfig, is_deterministic
from mitune.scores import COLUMNS, COMBINED, NEEDS_NOISE, SCORERS, STEERED, scorers_of
from mitune.stages.inputs import make_scoring
from mitune.stages.progress import Bar, progress
from mitune.tasks import Task

Score = str | Function
"""A score's name, a weighted sum of names, or a function (pictures [n, 3, H, W] in [0, 1], prompts) -> [n]."""
_TAKEN = (*SCORERS, *COLUMNS, *STEERED, COMBINED, *sorted(NOT_SCORES), "text")


@dataclass(frozen=True)
class Asked:
    """Holds the names of the scores that were asked for, in their order, and the user's functions among them."""

    names: tuple[str, ...]
    functions: tuple[FunctionReward, ...] = ()

    @classmethod
    def of(cls, scores: Score | Iterable[Score]) -> Asked:
        """Read one score or several. Raises UserError for none, and for a function without a name of its own."""
        given = [scores] if isinstance(scores, str) or callable(scores) else list(scores)
        if not given:
            raise UserError("scores: there are none; give at least one")
        judges = {id(one): FunctionReward(one, known=_TAKEN) for one in given if not isinstance(one, str)}
        names = [one if isinstance(one, str) else judges[id(one)].name for one in given]
        own = [judge.name for judge in judges.values()]
        twice = [name for name in own if own.count(name) > 1]
        if twice:
            raise UserError(f"scores: two functions are called {twice[0]}; give one of them another name")
        return cls(tuple(dict.fromkeys(names)), tuple(judges.values()))

    def plain(self, combined: str) -> list[str]:
        """List the scorers that the names stand for, without the user's functions. UserError for unknown ones."""
        own = [judge.name for judge in self.functions]
        return [name for name in scorers_of(self.names, combined, own) if name not in own]


def name_of(score: Score) -> str:
    """Give the column that a score has in a table."""
    return Asked.of(score).names[0]


def tasks_of_prompts(prompts: str | Task | Iterable[str | Task]) -> list[Task]:
    """Make tasks of prompts, each once; one prompt may come alone. Raises UserError where there are none."""
    given = [prompts] if isinstance(prompts, (str, Task)) else list(prompts)
    tasks = [make_prompt(one) if isinstance(one, str) else one for one in given]
    if not tasks:
        raise UserError("prompts: there are none; give at least one")
    return list({task.key: task for task in tasks}.values())


def check_asked(asked: Asked, tasks: Sequence[Task], scorer: Mapping[str, Any]) -> None:
    """Check what can be without weights: that the names are scores, and that their judges can judge these prompts.
    Raises UserError.
    """
    check_judges(asked.plain(scorer["combined"]), [task.text for task in tasks], "scores", scorer)


def check_noise(asked: Asked, sampler: SamplerConfig, combined: str) -> None:
    """Raise UserError where a score is read off the sampler's noise, and the sampler adds none."""
    needing = [name for name in asked.plain(combined) if name in NEEDS_NOISE]
    if needing and is_deterministic(sampler.name, sampler.eta):
        raise UserError(
            f"scores: {needing[0]} needs a sampler that adds noise: SamplerConfig(eta=1), or leave it out"
        )
    if needing and sampler.balance and BALANCES[sampler.balance].gradient:
        raise UserError(
            f"scores: {needing[0]} is a ratio of path densities, and balance={sampler.balance!r} moves pictures beside"
            " their path; leave one of them out"
        )


def scoring_for(
    asked: Asked,
    denoiser: Denoiser,
    scorer: Mapping[str, Any],
    pool: Iterable[str],
    seed: int,
    batch_size: int,
) -> Scoring:
    """Make the scores as the stages do (:func:`mitune.stages.inputs.make_scoring`).

    Args:
        asked: which.
        denoiser: the model that judges.
        scorer: their settings, section by section.
        pool: prompts in which ``contrast`` finds its edits.
        seed, batch_size: as of :class:`mitune.information.scoring.Scoring`.
    """
    return make_scoring(scorer, denoiser, asked.names, lambda: pool, seed, batch_size, asked.functions)


def bar(title: str, total: int, shown: bool, unit: str = "candidates") -> AbstractContextManager[Bar]:
    """Count on standard error, or for nobody to see."""
    return progress(title, total, unit=unit) if shown else nullcontext(Bar(title, total, unit=unit))
