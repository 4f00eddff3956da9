"""Who is still in the race for the best k of a prompt, from scores of which only some of the times are measured.

What is asked of each candidate is its chance p that the full score would choose it. x_ij is the part of candidate i at
time j, less the mean over the candidates: what all share cancels. The parts at the times to come are Gaussian, given
those that are there: as wide as at the neighbouring times, and as correlated with them as they are among themselves. So
the full score is N(F_i, σ_i²), and p_i the chance that at most k − 1 others come out above it: over x by quadrature,
over the others a Poisson–binomial. σ comes from few numbers, so p is averaged over what χ² says of it, which is
Student's t. No correction for looking often is due: p is a chance given all that is known, at every look.

Candidates leave, the least likely first, as long as Σ p of all that have left is at most ``level`` · k: of the k that
the full scores choose, a share of ``level`` is lost at most, on average. (Successive elimination; Even-Dar, Mannor and
Mansour, JMLR 2006, with a posterior in place of a bound, which after three times would let nobody leave.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, softmax

Array = NDArray[np.float64]
FIRST = 3  # times of the first pass: two ends and a middle, as times in between are taken to be as their neighbours
_PASSES = 8  # about so many passes after it
_NODES, _SPREADS = 24, 5  # of the quadratures over a score, and over its spread
_MOST = 0.99  # of the correlation of two times


def turns(times: int, paired: bool = False) -> list[list[int]]:
    """Part ``times`` times into passes, each spread over the whole range: van der Corput's order, three at first.

    ``paired``: the second of two neighbours goes with the first, whose noise it takes with the other sign.

    >>> turns(7), turns(4, paired=True)
    ([[0, 2, 4], [6], [1], [5], [3]], [[0, 1, 2, 3]])
    """
    size = 2 if paired else 1
    units = [list(range(start, min(start + size, times))) for start in range(0, times, size)]
    bits = max(1, (len(units) - 1).bit_length())
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    order = [units[place] for place in turned if place < len(units)]
    step = max(1, len(units) // _PASSES)
    starts = [0, *range(FIRST, len(order), step), len(order)]
    return [
        sorted(itertools.chain(*order[start:end])) for start, end in itertools.pairwise(starts) if end > start
    ]


@dataclass(frozen=True, eq=False)
class Forecast:
    """Says what the full scores of M candidates will be: ``mean`` [M], ``variance`` [M] (0: known), and by how many
    degrees of freedom that is known."""

    mean: Array
    variance: Array
    freedom: float = np.inf


def forecast(gaps: Array, there: NDArray[np.bool_]) -> Forecast:
    """Foretell −log Σ_k exp(−Σ_j gap_ijk) of all U times from those that are there; with one k that is Σ_j gap_ij.

    Args:
        gaps: [M, U, K]: the parts of each time; what is not there is not read.
        there: [M, U].

    The soft minimum is taken at the gaps as the times so far would have them, and spreads as its slope says (delta
    method).
    """
    gaps = np.where(there[:, :, None], gaps, 0.0)
    units, count = there.shape[1], there.sum(1)
    whole = gaps.sum(1) * (units / count)[:, None]
    parts = (gaps * softmax(-whole, axis=1)[:, None, :]).sum(2)
    bent = _soft_least(whole) - parts.sum(1) * units / count
    mean, variance, freedom = _complete(parts, there)
    return Forecast(mean + bent, variance, freedom)


def _soft_least(gap: Array) -> Array:
    least = gap.min(1)
    return np.asarray(least - np.log(np.exp(least[:, None] - gap).sum(1)))


def _complete(parts: Array, there: NDArray[np.bool_]) -> tuple[Array, Array, float]:
    """Mean and variance [M] of the sums over all times of ``parts`` [M, U], and the latter's degrees of freedom."""
    units, count = there.shape[1], there.sum(1)
    many = there.sum(0)
    known = np.flatnonzero(many > 2)
    if not len(known):  # so few candidates say nothing of each other
        unknown = np.full(len(parts), np.nan)
        return unknown, unknown, 0.0
    middle = np.where(there, parts, 0).sum(0)[known] / many[known]
    off = np.where(there[:, known], parts[:, known] - middle, 0.0)
    own = (off**2).sum(0) / (many[known] - 1)
    every = np.arange(units)
    # Where a time has not been seen, or by too few, it is as its neighbours.
    mean, spread = np.interp(every, known, middle), np.sqrt(np.interp(every, known, own))
    scaled = np.where(there, (parts - mean) / np.maximum(spread, 1e-300), 0.0)
    total = scaled.sum(1)
    pairs = float((count * (count - 1)).sum())
    alike = (float((total**2 - (scaled**2).sum(1)).sum()) - (2 * pairs) ** 0.5) / max(pairs, 1.0)
    alike = min(max(alike, 0.0), _MOST)  # less its error by chance: who counts on it too much drops too many
    # Equal correlation: what the times so far say of each to come, and what they leave open.
    slope = alike / (1 + (count - 1) * alike)
    left = ~there
    ahead, square = (left * spread).sum(1), (left * spread**2).sum(1)
    sums = np.where(there, parts, 0).sum(1) + (left * mean).sum(1) + ahead * slope * total
    variance = square * (1 - alike) + ahead**2 * alike * (1 - count * slope)
    return sums, np.maximum(variance, 0.0), float(np.maximum(many[known] - 1, 0).sum())


def add_up(parts: Sequence[tuple[float, bool, Forecast]]) -> Forecast:
    """Foretell a weighted sum: (weight, standardised within the prompt, what is foretold of it) for each part.

    What two parts leave open goes together as much as they themselves do: they may share their noise.
    """
    means, spreads = [], []
    for weight, standardised, one in parts:
        size = 1.0
        if standardised:  # of the full scores: what is open yet spreads them too
            size = float(np.sqrt(one.mean.var() + one.variance.mean()))
        size = weight / size if size > 0 else 0.0
        means.append(size * (one.mean - one.mean.mean() if standardised else one.mean))
        spreads.append(size * np.sqrt(one.variance))
    variance = np.zeros_like(means[0])
    for i, first in enumerate(means):
        for j, second in enumerate(means):
            variance += (1.0 if i == j else _together(first, second)) * spreads[i] * spreads[j]
    open_ones = [one.freedom for *_, one in parts if one.variance.any()]
    return Forecast(sum(means[1:], means[0]), np.maximum(variance, 0.0), min(open_ones, default=np.inf))


def _together(one: Array, other: Array) -> float:
    if not (one.std() > 0 and other.std() > 0):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def chances(scores: Forecast, k: int, losers: int = 0) -> Array:
    """The chance [M] of each candidate to be among the ``k`` highest or the ``losers`` lowest."""
    freedom = max(3.0, min(scores.freedom, 1e6))
    shares = (np.arange(_SPREADS) + 0.5) / _SPREADS
    spread = np.sqrt(freedom / chdtri(freedom, shares))[:, None] * np.sqrt(scores.variance)
    found = _among_highest(scores.mean, spread, k)
    if losers:
        found = found + _among_highest(-scores.mean, spread, losers)
    return np.minimum(found, 1.0)


def _among_highest(mean: Array, spread: Array, k: int) -> Array:
    """The chance [M] of each to be among the ``k`` highest of N(``mean``, ``spread``²), over the rows of ``spread``."""
    candidates = len(mean)
    if k >= candidates:
        return np.ones(candidates)
    nodes, weights = hermegauss(_NODES)
    at = mean[:, None] + spread[:, :, None] * nodes
    fewer = np.zeros((k, *at.shape))  # chance that so many others are above, of k at most
    fewer[0] = 1.0
    floor = 1e-9 * max(float(np.abs(mean - mean.mean()).max()), 1e-300)
    for other in range(candidates):
        above = ndtr((mean[other] - at) / np.maximum(spread[:, other], floor)[:, None, None])
        above[:, other] = 0.0
        fewer[1:] += (fewer[:-1] - fewer[1:]) * above
        fewer[0] *= 1 - above
    return np.asarray((fewer.sum(0) @ weights / weights.sum()).mean(0))


class Elimination:
    """The race of one prompt's candidates: who has left, and what that may have cost.

    >>> race = Elimination(4, k=1, losers=0, level=0.05)
    >>> race.look(Forecast(np.array([0.0, 5.0, 0.2, 4.9]), np.full(4, 0.04)))
    >>> race.running.tolist()
    [False, True, False, True]

    Args:
        candidates: M of them.
        k, losers: how many of either end are to be found.
        level: the share of these that may leave unseen.
    """

    def __init__(self, candidates: int, k: int, losers: int, level: float) -> None:
        self.k, self.losers, self.level = k, losers, level
        self.running = np.ones(candidates, dtype=bool)
        self._risk = 0.0

    @property
    def decided(self) -> bool:
        """Tell whether nobody can leave any more."""
        return int(self.running.sum()) <= self.k + self.losers

    def look(self, scores: Forecast) -> None:
        """Let leave whom these scores allow. Where one of them is no number nobody leaves: somebody has to see it."""
        if self.decided or not (np.isfinite(scores.mean).all() and np.isfinite(scores.variance).all()):
            return
        chance = chances(scores, self.k, self.losers)
        here = np.flatnonzero(self.running)
        order = here[np.argsort(chance[here], kind="stable")]
        risk = self._risk + np.cumsum(chance[order])
        allowed = int((risk <= self.level * (self.k + self.losers)).sum())
        count = min(allowed, len(here) - self.k - self.losers)
        if count > 0:
            self._risk = float(risk[count - 1])
            self.running[order[:count]] = False
