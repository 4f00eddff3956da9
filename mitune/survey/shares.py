"""Shares of rounds, by group and averaged over groups, with 95 % intervals from persons drawn anew.

The persons are the clusters: the answers of one are alike. An average is the mean of the groups, each counting the
same, whatever their sizes; persons are drawn within their groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitune.evaluate.bootstrap import tail
from mitune.survey.counting import Counted

Array = NDArray[np.float64]
DRAWS = 2000
MANY = 6  # names of which all combinations are told
_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares with their intervals: [groups + 1, cells], the average over the groups last. NaN: there is none."""

    value: Array
    low: Array
    high: Array


def weights(people: int, draws: int, rng: np.random.Generator) -> Array:
    """How often each person is in each draw, [draws, people]."""
    return rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(np.float64)


def shares(
    top: Array,
    bottom: Array,
    group: NDArray[np.int64],
    seed: int = 0,
    draws: int = DRAWS,
    less: tuple[Array, Array] | None = None,
) -> Shares:
    """Estimate Σ top / Σ bottom over the persons of each group, and the mean of the groups.

    Args:
        top, bottom: of each person, [people, cells].
        group: of each person, 0 … [people].
        seed, draws: of the resampling, and how many.
        less: another such share is taken from it: its top and bottom.
    """
    rng = np.random.default_rng(seed)
    groups, cells = int(group.max()) + 1 if len(group) else 0, top.shape[1]
    value, low, high = (np.full((groups + 1, cells), math.nan) for _ in range(3))
    moved, parts = np.zeros((draws, cells)), list[tuple[int, Array]]()
    parties = [(top, bottom), *([less] if less else [])]
    for place in range(groups):
        own = group == place
        people = int(own.sum())
        value[place] = _ratio(np.ones((1, people)), parties, own)[0]
        if people < 2:
            moved += math.nan
            continue
        drawn = _ratio(weights(people, draws, rng), parties, own)
        low[place], high[place] = _quantiles(drawn, np.full(cells, tail(people)))
        if less is None:
            _widen(value[place], low[place], high[place], (bottom[own] > 0).sum(0))
        spread = (drawn - value[place]) * math.sqrt(people / (people - 1))
        moved += spread / groups
        parts.append((people, (spread**2).mean(0)))
    if groups:
        value[-1] = value[:-1].mean(0)
        low[-1], high[-1] = (low[0], high[0]) if groups == 1 else _average(value[-1], moved, parts)
    return Shares(value, low, high)


def _ratio(counts: Array, parties: list[tuple[Array, Array]], own: NDArray[np.bool_]) -> Array:
    """The share, of persons counted so often [draws, people], or the difference of two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, *rest = ((counts @ top[own]) / (counts @ bottom[own]) for top, bottom in parties)
        return first - rest[0] if rest else first


def _quantiles(drawn: Array, edges: Array) -> tuple[Array, Array]:
    """The quantiles at ``edges`` [cells] and 1 − ``edges`` of draws [draws, cells]; draws without a share are left out,
    and NaN is where they are many."""
    low, high = np.full(len(edges), math.nan), np.full(len(edges), math.nan)
    for cell, edge in enumerate(edges):
        known = drawn[np.isfinite(drawn[:, cell]), cell]
        if math.isfinite(edge) and len(known) > len(drawn) / 2:
            low[cell], high[cell] = np.quantile(known, [edge, 1 - edge])
    return low, high


def _widen(value: Array, low: Array, high: Array, people: NDArray[np.int64]) -> None:
    """Of what nobody chose, or everybody, no draw tells anything: the bound is that of so many persons who agree."""
    reach = 1 - _TAIL ** (1 / np.maximum(people, 1))
    none, all_ = (value == 0) & (low == high), (value == 1) & (low == high)
    high[none], low[all_] = reach[none], 1 - reach[all_]


def _average(value: Array, moved: Array, parts: list[tuple[int, Array]]) -> tuple[Array, Array]:
    """The interval of a mean of groups, with the degrees of freedom of Welch and Satterthwaite."""
    from scipy import stats

    if not parts:
        return np.full_like(value, math.nan), np.full_like(value, math.nan)
    total = np.sum([spread for _, spread in parts], axis=0)
    below = np.sum([spread**2 / (people - 1) for people, spread in parts], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(below > 0, total**2 / below, parts[0][0] - 1)
    low, high = _quantiles(moved, stats.norm.cdf(stats.t.ppf(_TAIL, freedom)))
    return value + low, value + high


def combinations(counted: Counted) -> Shares | None:
    """Estimate how often each combination was chosen, in binary order of the names (000, 001, …): Table 3's rows. None
    where a round does not show all names, or there are too many."""
    names = len(counted.names)
    if names > MANY or not len(counted.person) or not counted.shown.all():
        return None
    number = counted.chosen @ (1 << np.arange(names)[::-1])
    cells = number[:, None] == np.arange(1 << names)
    return shares(counted.summed(cells), counted.summed(np.ones_like(cells)), counted.person_group)


def marginals(counted: Counted) -> Shares:
    """Estimate how often each name was chosen, whatever else was: [groups + 1, names]."""
    return shares(counted.summed(counted.chosen), counted.summed(counted.shown), counted.person_group)


def differences(counted: Counted, alone: bool = False) -> tuple[list[tuple[int, int]], Shares]:
    """Estimate for each two names how much more often the one was chosen: in the rounds that show both or, where
    pictures are shown ``alone``, in those of either."""
    names = len(counted.names)
    pairs = [(one, other) for one in range(names) for other in range(one + 1, names)]
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    shown, chosen = counted.shown, counted.chosen
    if alone:
        tops, bottoms = counted.summed(chosen), counted.summed(shown)
        less = tops[:, second], bottoms[:, second]
        return pairs, shares(tops[:, first], bottoms[:, first], counted.person_group, less=less)
    both = shown[:, first] & shown[:, second]
    ahead = (chosen[:, first].astype(float) - chosen[:, second]) * both
    return pairs, shares(counted.summed(ahead), counted.summed(both), counted.person_group)


def by_category(counted: Counted) -> list[Shares]:
    """Estimate :func:`marginals` of each category's rounds: Table 4's columns."""
    found = []
    for place in range(len(counted.categories)):
        own = (counted.category == place)[:, None]
        found.append(
            shares(
                counted.summed(counted.chosen & own),
                counted.summed(counted.shown & own),
                counted.person_group,
            )
        )
    return found


def told(estimate: Shares, group: int, cell: int) -> dict[str, Any]:
    """Give ``{"share", "ci95"}`` of one cell as JSON holds it; None for what there is not."""
    value, low, high = (float(own[group, cell]) for own in (estimate.value, estimate.low, estimate.high))
    return {
        "share": value if math.isfinite(value) else None,
        "ci95": [low, high] if math.isfinite(low) and math.isfinite(high) else None,
    }


def marginals_of(combined: Array) -> Array:
    """Add the shares of all combinations [2^k, …], in binary order of k names, up to the marginals [k, …]."""
    names = (len(combined) - 1).bit_length()
    holds = (np.arange(len(combined))[None] >> np.arange(names)[::-1, None]) & 1
    return holds @ combined
