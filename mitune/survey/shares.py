"""Shares of rounds, by group and averaged over groups, with 95 % intervals from persons drawn anew.

The persons are the clusters: the answers of one are alike. An average is the mean of the groups, each counting the
same, whatever their sizes; persons are drawn within their groups.

A difference has the percentiles of its draws, expanded for few persons. Of a share the draws give the variance, which
says how many independent answers it is worth, and the interval is Wilson's of so many with Student's quantile:
percentiles miss what few persons choose seldom far too often (``benchmarks/survey.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitune.survey.counting import Counted

Array = NDArray[np.float64]
Party = tuple[Array, Array]
"""The top and the bottom of a share, of each person: [people, cells]."""
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
    """Draw persons anew: how often each is in each draw, [draws, people]."""
    return rng.multinomial(people, np.full(people, 1 / people), size=draws).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The draws of each group.

    Attributes:
        people: of each group, [groups].
        value, size: Σ top / Σ bottom, and Σ bottom, [groups, cells].
        off: of each draw, from the value, with the spread that a sample as large has: [groups, draws, cells].
    """

    people: NDArray[np.int64]
    value: Array
    size: Array
    off: Array


def _draw(parties: list[Party], group: NDArray[np.int64], seed: int, draws: int) -> _Drawn:
    """Draw persons within each group; of two parties the difference of the shares."""
    rng = np.random.default_rng(seed)
    people = np.bincount(group)
    cells = parties[0][0].shape[1]
    value, size = np.zeros((len(people), cells)), np.zeros((len(people), cells))
    off = np.full((len(people), draws, cells), math.nan)
    for place, count in enumerate(people.tolist()):
        own = [(top[group == place], bottom[group == place]) for top, bottom in parties]
        value[place], size[place] = _ratio(np.ones((1, count)), own)[0], own[0][1].sum(0)
        if count > 1:
            off[place] = _ratio(weights(count, draws, rng), own) - value[place]
            off[place] *= math.sqrt(count / (count - 1))
    return _Drawn(people, value, size, off)


def _ratio(counts: Array, parties: list[Party]) -> Array:
    """The share, of persons counted so often [draws, people], or the difference of two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, *rest = ((counts @ top) / (counts @ bottom) for top, bottom in parties)
        return first - rest[0] if rest else first


def shares(top: Array, bottom: Array, group: NDArray[np.int64], seed: int = 0, draws: int = DRAWS) -> Shares:
    """Estimate Σ top / Σ bottom, 0 to 1, over the persons of each group, and the mean of the groups.

    Args:
        top, bottom: of each person, [people, cells].
        group: of each person, 0 … [people].
        seed, draws: of the resampling, and how many.
    """
    from scipy import stats

    found = _draw([(top, bottom)], group, seed, draws)
    groups, value = len(found.people), found.value
    single = value * (1 - value) / np.where(found.size > 0, found.size, math.nan)  # of independent answers
    worth = found.size / _effect(_variance(found.off), single)
    low, high = (
        np.full((groups + 1, value.shape[1]), math.nan),
        np.full((groups + 1, value.shape[1]), math.nan),
    )
    freedom = np.where(found.people > 1, found.people - 1, math.nan)[:, None]
    low[:-1], high[:-1] = _wilson(value, worth, stats.t.ppf(1 - _TAIL, freedom))
    mean = value.mean(0)
    if groups == 1:
        low[-1], high[-1] = low[0], high[0]
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = value * (1 - value) / worth / groups**2
            whole = np.where(
                parts.sum(0) > 0, mean * (1 - mean) / parts.sum(0), groups**2 / (1 / worth).sum(0)
            )
            free = np.where(parts.sum(0) > 0, parts.sum(0) ** 2 / (parts**2 / freedom).sum(0), freedom.min())
        low[-1], high[-1] = _wilson(mean, whole, stats.t.ppf(1 - _TAIL, free))
    return Shares(np.vstack([value, mean]), low, high)


def _variance(off: Array) -> Array:
    """The mean square of draws [groups, draws, cells], those without a share left out; NaN where they are many."""
    known = np.isfinite(off)
    many = known.sum(1)
    total = np.where(known, off, 0.0) ** 2
    return np.where(many > off.shape[1] / 2, total.sum(1) / np.maximum(many, 1), math.nan)


def _effect(variance: Array, single: Array) -> Array:
    """By how much clustering widens: half of what a cell's own draws say, and half the mean of a group's cells, as of
    what is seldom chosen the draws say little, and of what is never chosen nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(single > 0, variance / single, math.nan)
    known = np.isfinite(own)
    mean = np.where(known, own, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    pooled = np.where(known.any(1), mean, 1.0)[:, None] + np.where(np.isfinite(single), 0.0, math.nan)
    return np.maximum((np.where(known, own, pooled) + pooled) / 2, 1e-9)


def _wilson(value: Array, worth: Array, quantile: Array) -> tuple[Array, Array]:
    """Wilson's interval of a share of ``worth`` independent answers."""
    square = quantile**2 / worth
    middle, scale = (value + square / 2) / (1 + square), 1 / (1 + square)
    reach = scale * np.sqrt(square * value * (1 - value) + square**2 / 4)
    return np.maximum(middle - reach, 0.0), np.minimum(middle + reach, 1.0)


def gaps(parties: list[Party], group: NDArray[np.int64], seed: int = 0, draws: int = DRAWS) -> Shares:
    """Estimate the difference of two shares, or one that may be below 0, as :func:`shares` does shares.

    Args:
        parties: one, or two of which the second is taken from the first.
        group: of each person, 0 … [people].
        seed, draws: of the resampling, and how many.
    """
    from scipy import stats

    found = _draw(parties, group, seed, draws)
    groups, variance = len(found.people), _variance(found.off)
    value = np.vstack([found.value, found.value.mean(0)])
    low, high = np.full_like(value, math.nan), np.full_like(value, math.nan)
    freedom = np.where(found.people > 1, found.people - 1, math.nan)[:, None] + np.zeros_like(variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        free = variance.sum(0) ** 2 / (variance**2 / freedom).sum(0)  # Welch and Satterthwaite
    free = np.where(variance.sum(0) > 0, free, freedom.min(0))
    for place, (off, own) in enumerate(zip([*found.off, found.off.mean(0)], [*freedom, free], strict=True)):
        edges = stats.norm.cdf(stats.t.ppf(_TAIL, own))
        for cell in range(value.shape[1]):
            known = off[np.isfinite(off[:, cell]), cell]
            if math.isfinite(edges[cell]) and len(known) > draws / 2:
                bounds = np.quantile(known, [edges[cell], 1 - edges[cell]])
                low[place, cell], high[place, cell] = value[place, cell] + bounds
    if groups == 1:
        low[-1], high[-1] = low[0], high[0]
    return Shares(value, low, high)


def combinations(counted: Counted) -> Shares | None:
    """Estimate how often each combination was chosen, in binary order of the names (000, 001, …): Table 3's rows. None
    where a round does not show all names, or they are too many, or one."""
    names = len(counted.names)
    if not 1 < names <= MANY or not len(counted.person) or not counted.shown.all():
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
        parties = [(tops[:, own], bottoms[:, own]) for own in (first, second)]
        return pairs, gaps(parties, counted.person_group)
    both = shown[:, first] & shown[:, second]
    ahead = (chosen[:, first].astype(float) - chosen[:, second]) * both
    return pairs, gaps([(counted.summed(ahead), counted.summed(both))], counted.person_group)


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
