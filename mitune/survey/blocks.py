"""Balanced blocks: which prompts, and which of the methods, each participant is asked about.

Counted over the participants from the first to any later one of those planned, every prompt is asked as often as any
other, and every method shown as often as any other: within one, and exactly where the numbers allow.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Asked = tuple[int, tuple[int, ...]]  # a prompt, and the methods whose pictures are shown
_CHOICES = 500  # ways to choose methods that are looked at, of more


def blocks(
    prompts: int, methods: int, shown: int, rounds: int, participants: int, seed: int
) -> list[list[Asked]]:
    """Give each participant's prompts and methods.

    Args:
        prompts, methods: how many there are.
        shown: methods in a round, at most ``methods``.
        rounds: of a participant, at most ``prompts``: nobody is asked about a prompt twice.
        participants: how many there are.
        seed: of what the balance leaves open.
    """
    rng = np.random.default_rng(seed)
    chooser = _Chooser(methods, shown, rng)
    had = np.zeros((prompts, methods))
    return [
        _paired(own, [chooser.choose() for _ in own], had)
        for own in _prompts(prompts, rounds, participants, rng)
    ]


def _paired(
    prompts: Sequence[int], chosen: Sequence[tuple[int, ...]], had: NDArray[np.float64]
) -> list[Asked]:
    """Give each prompt of a participant the methods that it had least; ``had`` [prompts, methods] counts on."""
    from scipy.optimize import linear_sum_assignment

    shows = np.zeros((len(chosen), had.shape[1]))
    for row, names in enumerate(chosen):
        shows[row, names] = 1
    rows, columns = linear_sum_assignment(had[prompts] @ shows.T)
    had[prompts] += shows[columns]
    return [
        (prompts[row], chosen[column]) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _prompts(prompts: int, rounds: int, participants: int, rng: np.random.Generator) -> list[list[int]]:
    """Shuffles of all prompts in a row, cut into pieces; a shuffle begins with what the piece before lacks."""
    row: list[int] = []
    for _ in range(-(-rounds * participants // prompts)):
        fresh = rng.permutation(prompts).tolist()
        begun = len(row) % rounds
        last = {*row[len(row) - begun :]}
        head = [one for one in fresh if one not in last][: rounds - begun] if begun else []
        row += head + [one for one in fresh if one not in {*head}]
    return [row[start : start + rounds] for start in range(0, rounds * participants, rounds)]


class _Chooser:
    """Chooses methods for one round after another, so that their counts never differ by more than one."""

    def __init__(self, methods: int, shown: int, rng: np.random.Generator) -> None:
        self.methods, self.shown, self.rng = methods, shown, rng
        self.often = [0] * methods
        self.together: Counter[tuple[int, int]] = Counter()

    def choose(self) -> tuple[int, ...]:
        """Choose the methods shown least; among them those least together so far."""
        if self.shown == self.methods:
            return tuple(range(self.methods))
        least = sorted(self.often)[self.shown - 1]
        sure = [one for one in range(self.methods) if self.often[one] < least]
        open_ = [one for one in range(self.methods) if self.often[one] == least]
        ways = list(
            itertools.islice(
                itertools.combinations(self.rng.permutation(open_).tolist(), self.shown - len(sure)), _CHOICES
            )
        )
        chosen = min((tuple(sorted((*sure, *way))) for way in ways), key=self._met)
        for one in chosen:
            self.often[one] += 1
        self.together.update(itertools.combinations(chosen, 2))
        return chosen

    def _met(self, own: Sequence[int]) -> int:
        """How often any two of these were together."""
        return sum(self.together[pair] for pair in itertools.combinations(own, 2))
