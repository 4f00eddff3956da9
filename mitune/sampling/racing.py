"""Racing: successive halving in the sampling loop. At chosen steps only the best candidates of every prompt go on.

Karnin, Koren and Somekh (ICML 2013, Sequential Halving) for candidates instead of arms: what is spent on a candidate
follows how well it has done so far. A candidate keeps its seed and its noise, so one that survives is the one that
would have been drawn without racing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.sampling.loop import Guide, Population, Step

Look = Callable[[Tensor, Tensor, int], Tensor]
"""``look(z0, rows, step)``: scores [n], higher = better, of the predicted pictures ẑ_0 [n, …] of the candidates
``rows`` [n] (CPU; index among those asked for) after ``step`` steps. It may cost forwards."""


@dataclass(frozen=True)
class Cut:
    """After ``step`` steps (from 1 on) only ``survivors`` candidates of every prompt go on."""

    step: int
    survivors: int


class Racing(Guide):
    """Drops the lowest candidates of each prompt at every cut.

    >>> from mitune.information.llr import PathLLR
    >>> race = Racing([Cut(step=4, survivors=1)], groups=torch.tensor([0, 0, 1, 1]), by="llr")
    >>> given = denoiser.encode_prompts(["a", "a", "b", "b"])
    >>> len(sample(denoiser, given, range(4), SamplerConfig("ddpm", steps=10), [PathLLR()], race))
    2

    Args:
        cuts: as ``check_cuts`` wants them.
        groups: [n] the prompt of each candidate asked for, as numbers; groups may differ in size.
        by: the name of an observer, whose ``result()`` so far ranks the candidates, or a ``Look`` at ẑ_0.

    After the loop ``dropped_at`` [n] int64 holds the steps a dropped candidate had taken (0: it finished) and ``score``
    [n] float64 what it was last ranked by (NaN: never). All prompts are cut at once; the host waits for the device once
    a cut, and nowhere else. Equal scores are settled for the candidate that comes first. A NaN ranks first: it stays
    until somebody sees it.
    """

    reads_steps = True

    def __init__(self, cuts: Sequence[Cut], groups: Tensor, by: str | Look) -> None:
        self.cuts = {cut.step: cut for cut in cuts}
        self.by = by
        self._groups = groups.to("cpu", torch.long)
        self.dropped_at = torch.zeros(len(groups), dtype=torch.long)
        self.score = torch.full((len(groups),), float("nan"), dtype=torch.float64)

    def after(self, step: Step, population: Population) -> Tensor | None:
        """Choose the rows that go on after this step; None for all."""
        cut = self.cuts.get(step.index + 1)
        if cut is None:
            return None
        rows = population.rows
        values = running(self.by, step, population)
        chosen = best_of_groups(values, self._groups[rows], cut.survivors)
        dropped = torch.ones(len(rows), dtype=torch.bool)
        dropped[chosen] = False
        self.score[rows] = values
        self.dropped_at[rows[dropped]] = cut.step
        return chosen if bool(dropped.any()) else None


class Pilot(Guide):
    """Drops nobody and notes how every candidate would have been ranked at each of ``steps``.

    ``by`` as for ``Racing``, by name. ``scores[name][step]`` is [n] float64 on the CPU.
    """

    reads_steps = True

    def __init__(self, by: dict[str, str | Look], steps: dict[str, Sequence[int]]) -> None:
        self.by, self.steps = by, {name: set(chosen) for name, chosen in steps.items()}
        self.scores: dict[str, dict[int, Tensor]] = {name: {} for name in by}

    def after(self, step: Step, population: Population) -> None:
        """Note the running scores after this step."""
        done = step.index + 1
        for name, by in self.by.items():
            if done in self.steps[name]:
                self.scores[name][done] = running(by, step, population)


def running(by: str | Look, step: Step, population: Population) -> Tensor:
    """Rank the population after ``step``: scores [n] float64 on the CPU. ValueError for an unknown observer."""
    if isinstance(by, str):
        if by not in population.observers:
            raise ValueError(f"no observer {by!r}; there are {', '.join(population.observers) or 'none'}")
        values = population.observers[by].result()
    else:
        values = by(step.predicted, population.rows, step.index + 1)
    return values.cpu().double()


def best_of_groups(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Rows [m], rising, of the ``count`` highest ``values`` [n] of every group [n] (all of a smaller group)."""
    order = values.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    _, sizes = groups.unique(return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[torch.arange(len(order)) - starts < count].sort().values


# -- schedules ---------------------------------------------------------------------------------------------------------


def steps_at(at: Sequence[float], steps: int) -> list[int]:
    """Numbers of steps from ``at``: shares of all ``steps`` below 1, numbers of steps from 1 on.

    Raises UserError for one that is neither, or unless they rise and leave a step to save.
    """
    found = []
    for value in at:
        if not value > 0 or (value >= 1 and value != int(value)):
            raise UserError(
                f"sampler.racing.at: {value:g} is neither a share of the steps (above 0, below 1) nor a number of steps"
            )
        found.append(round(value * steps) if value < 1 else int(value))
    shown = ", ".join(f"{value:g}" for value in at)
    if not found or found[0] < 1 or found[-1] >= steps or sorted(set(found)) != found:
        raise UserError(
            f"sampler.racing.at=[{shown}] with sampler.steps={steps}: cuts must fall after different steps of 1 to"
            f" {steps - 1}, in rising order"
        )
    return found


def check_cuts(cuts: Sequence[Cut], candidates: int, k: int) -> None:
    """Raise UserError unless every cut drops somebody and leaves ``k`` a prompt."""
    shown = f"sampler.racing.survivors=[{','.join(str(cut.survivors) for cut in cuts)}]"
    if cuts[-1].survivors < k:
        raise UserError(
            f"{shown}: {k} candidates a prompt must be left to choose from (select.k and select.losers); leave"
            " more, or choose fewer"
        )
    alive = candidates
    for cut in cuts:
        if cut.survivors >= alive:
            raise UserError(
                f"{shown}: the cut after step {cut.step} leaves {cut.survivors} of {alive} candidates; every"
                " cut must leave fewer than came to it"
            )
        alive = cut.survivors


def rows_of(
    cuts: Sequence[Cut],
    candidates: int,
    steps: int,
    look: int = 0,
    finish: int = 0,
    branches: int | Sequence[int] = 2,
) -> int:
    """Count the network rows that one prompt's candidates take: drawing, a ``look`` of so many rows at every candidate
    that comes to a cut, and ``finish`` rows for every one that is left at the end (its scores).

    Args:
        cuts: when candidates are dropped.
        candidates: at the start.
        steps: of the sampler.
        look, finish: rows a candidate.
        branches: rows of every step, or of each (``Denoiser.branches``, times what the sampler evaluates in it).
    """
    each = [branches] * steps if isinstance(branches, int) else branches
    total, alive, done = 0, candidates, 0
    for cut in cuts:
        total += alive * (sum(each[done : cut.step]) + look)
        alive, done = min(alive, cut.survivors), cut.step
    return total + alive * (sum(each[done:]) + finish)


def cuts_for(
    speedup: float,
    at: Sequence[int],
    candidates: int,
    steps: int,
    k: int,
    look: int = 0,
    branches: int | Sequence[int] = 2,
) -> list[Cut]:
    """Find cuts that make drawing take at least ``speedup`` times fewer network rows, looks included.

    Every cut leaves the same share, and as many candidates as the target allows.

    Args:
        speedup: how many times fewer.
        at: steps to cut after.
        candidates, steps, look, branches: as of ``rows_of``.
        k: survivors at least.

    Raises UserError where not even ``k`` survivors would reach it, naming what they do reach, and where there are too
    few candidates for so many cuts.
    """
    rows = functools.partial(rows_of, candidates=candidates, steps=steps, look=look, branches=branches)
    whole = rows([])
    best: list[Cut] = []
    for left in range(k, candidates):
        share = (left / candidates) ** (1 / len(at))
        cuts = [
            Cut(step, max(left, round(candidates * share ** (number + 1)))) for number, step in enumerate(at)
        ]
        sizes = [candidates, *(cut.survivors for cut in cuts)]
        if any(after >= before for before, after in itertools.pairwise(sizes)):
            continue
        if whole < speedup * rows(cuts):
            if best:
                return best
            raise UserError(
                f"sampler.racing.speedup={speedup:g}: with {left} of {candidates} candidates left the network rows fall"
                f" {whole / rows(cuts):.2f} times only; cut earlier (sampler.racing.at), look less"
                " (sampler.racing.times), or raise generate.candidates"
            )
        best = cuts
    if not best:
        raise UserError(
            f"sampler.racing.at: {len(at)} cuts need more than {candidates} candidates to leave {k} of them; give fewer"
            " cuts, or raise generate.candidates"
        )
    return best
