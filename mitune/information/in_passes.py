"""Scores by need: measured at a few times for all candidates of a prompt, at the rest for those still in the race.

A score that can be measured so says how it is begun (``Score.opens``): :class:`Unfinished` then holds its errors,
filled in time by time. Times and noise are those of the score measured at once, so who stays to the end gets the same
number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.information.denoising import denoising_terms
from mitune.information.elimination import Array, Elimination, Forecast, add_up, forecast, turns
from mitune.information.noising import Noising
from mitune.scores import Term

Conditions = Callable[[Sequence[int]], list[Condition]]
"""Rows ↦ the conditions that they are compared under, as many for each."""


class Unfinished:
    """Holds what is measured so far of a score of n pictures: weighted errors under each of their conditions.

    Args:
        denoiser, z0, noising: as of :func:`mitune.information.denoising.denoising_terms`.
        groups: the pictures with equally many conditions, and what gives these.
        own: the place of the condition that the others are held against.
        score: errors [n, times, conditions] -> the score [n].
    """

    def __init__(
        self,
        denoiser: Denoiser,
        z0: Tensor,
        noising: Noising,
        groups: Sequence[tuple[Sequence[int], Conditions]],
        own: int,
        score: Callable[[Tensor], Tensor],
    ) -> None:
        self._denoiser, self._z0, self._noising = denoiser, z0, noising
        self._groups, self._own, self._score = groups, own, score
        self._errors: list[Tensor | None] = [None] * len(z0)  # [times, conditions] of each picture
        times = len(noising.t)
        self.there = np.zeros((len(z0), times), dtype=bool)
        self.turns = turns(times, noising.noise == "antithetic")
        self.forwards = 0

    def measure(self, turn: int, among: NDArray[np.bool_]) -> None:
        """Measure one turn's times of the pictures ``among`` [n]; nothing where it has so many turns no more."""
        if turn >= len(self.turns):
            return
        at, size, before = self.turns[turn], self._noising.batch_size, self._denoiser.forwards
        for members, conditions in self._groups:
            rows = [row for row in members if among[row]]
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                noising = replace(self._noising, seeds=[self._noising.seeds[row] for row in part], at=at)
                index = torch.tensor(part, device=self._z0.device)
                found = denoising_terms(self._denoiser, self._z0[index], conditions(part), noising).error
                self._note(part, at, found.cpu())
        self.there[np.ix_(np.flatnonzero(among), np.asarray(at))] = True
        self.forwards += self._denoiser.forwards - before

    def _note(self, rows: Sequence[int], at: Sequence[int], found: Tensor) -> None:
        for row, error in zip(rows, found, strict=True):
            whole = self._errors[row]
            if whole is None:
                whole = error.new_full((self.there.shape[1], error.shape[1]), float("nan"))
            whole[list(at)] = error
            self._errors[row] = whole

    def rows_of(self, rows: Sequence[int]) -> int:
        """Count the network rows that these pictures take in full."""
        return sum(self.there.shape[1] * error.shape[1] for error in self._of(rows))

    def foretold(self, rows: Sequence[int]) -> Forecast:
        """Say what the scores of one prompt's pictures will be."""
        errors = torch.stack(self._of(rows)).double().numpy()
        others = [place for place in range(errors.shape[2]) if place != self._own]
        gaps = errors[:, :, others] - errors[:, :, [self._own]]
        paired = self._noising.noise == "antithetic"
        there = self.there[list(rows)]
        if paired:  # two neighbours are one: they take one noise
            starts = np.arange(0, gaps.shape[1], 2)
            gaps, there = np.add.reduceat(gaps, starts, axis=1), there[:, starts]
        return forecast(gaps, there)

    def scores(self, rows: Sequence[int]) -> Tensor:
        """Give the scores of pictures of which all times are measured."""
        found = torch.empty(len(rows), dtype=torch.float64)
        place = {row: number for number, row in enumerate(rows)}
        for members, _ in self._groups:
            part = [row for row in members if row in place]
            if part:
                found[[place[row] for row in part]] = self._score(torch.stack(self._of(part))).double().cpu()
        return found

    def _of(self, rows: Sequence[int]) -> list[Tensor]:
        return [error for row in rows if (error := self._errors[row]) is not None]


@dataclass(frozen=True, eq=False)
class Contest:
    """Says what the race is for: the best ``k`` and the worst ``losers`` of a prompt by ``by``, the sum of ``parts``.

    ``level``: of these, the share that may leave before all of their times are measured.
    """

    by: str
    parts: tuple[Term, ...]
    k: int
    losers: int
    level: float

    @property
    def said(self) -> str:
        """Say it in words, for the folder that is bound to it."""
        ends = f"the best {self.k}" + (f" and the worst {self.losers}" if self.losers else "")
        return f"in passes for {ends} of a prompt"


@dataclass(frozen=True, eq=False)
class Passed:
    """Holds what the passes came to.

    Attributes:
        scores: each score [n]; of those that left, what was foretold when they did.
        left_after: [n] passes after which a picture left the race; 0: it was measured in full.
        forwards, whole: network rows by score: spent, and what all pictures would have taken in full.
    """

    scores: dict[str, Tensor]
    left_after: list[int]
    forwards: dict[str, int]
    whole: dict[str, int]


def in_passes(
    opened: Mapping[str, Unfinished],
    known: Mapping[str, Sequence[float]],
    groups: Sequence[Hashable],
    contest: Contest,
) -> Passed:
    """Measure the scores ``opened`` of n pictures, in full for those in whom the contest is still open at the end.

    Args:
        opened: by name.
        known: the other scores that the contest goes by, each [n].
        groups: [n] the prompt of each picture.
        contest: what the race is for.
    """
    labels = np.asarray(groups)
    prompts = [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(groups)]
    races = [Elimination(len(rows), contest.k, contest.losers, contest.level) for rows in prompts]
    running = np.ones(len(labels), dtype=bool)
    left_after = np.zeros(len(labels), dtype=int)
    estimates = {name: np.full(len(labels), np.nan) for name in opened}
    turns_in_all = max(len(one.turns) for one in opened.values())
    for turn in range(turns_in_all):
        for one in opened.values():
            one.measure(turn, running)
        if turn == turns_in_all - 1:
            break
        for rows, race in zip(prompts, races, strict=True):
            if race.decided:
                continue
            foretold = {name: one.foretold(rows) for name, one in opened.items()}
            race.look(_sum(contest.parts, foretold, known, rows))
            gone = [place for place, row in enumerate(rows) if running[row] and not race.running[place]]
            for place in gone:
                row = rows[place]
                running[row], left_after[row] = False, turn + 1
                for name, seen in foretold.items():
                    estimates[name][row] = seen.mean[place]
    stayed = np.flatnonzero(running).tolist()
    found = {}
    for name, one in opened.items():
        found[name] = torch.from_numpy(estimates[name])
        found[name][stayed] = one.scores(stayed)
    return Passed(
        found,
        left_after.tolist(),
        {name: one.forwards for name, one in opened.items()},
        {name: one.rows_of(range(len(labels))) for name, one in opened.items()},
    )


def _sum(
    parts: Sequence[Term],
    foretold: Mapping[str, Forecast],
    known: Mapping[str, Sequence[float]],
    rows: Sequence[int],
) -> Forecast:
    def of(name: str) -> Forecast:
        if name in foretold:
            return foretold[name]
        values: Array = np.asarray(known[name], dtype=np.float64)[list(rows)]
        return Forecast(values, np.zeros(len(rows)))

    return add_up([(term.weight, term.normalised, of(term.name)) for term in parts])
