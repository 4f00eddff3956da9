"""Cluster bootstrap intervals: prompts are drawn anew, never single pictures.

Pictures of one prompt are alike (an easy prompt is easy for all of them), so the prompt is the independent
unit; resampling pictures would give intervals far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_AT_ONCE = 4_000_000  # resampling weights held in memory at a time (32 MB)


class Estimate(NamedTuple):
    """Holds a figure and its 95 % interval; ``low`` and ``high`` are NaN where one prompt alone tells nothing of
    the spread.

    >>> mean_ci([1.0, 2.0, 3.0], groups=["a", "b", "c"]).mean, mean_ci([1.0, 2.0], ["a", "a"]).interval
    (2.0, None)
    """

    mean: float
    low: float
    high: float

    @property
    def interval(self) -> list[float] | None:
        """``[low, high]``, or None where there is none (JSON knows no NaN)."""
        return [self.low, self.high] if math.isfinite(self.low) and math.isfinite(self.high) else None


def mean_ci(
    values: ArrayLike, groups: Sequence[Any] | NDArray[Any], seed: int = 0, n: int = 2000
) -> Estimate:
    """Mean of ``values`` [m] and its 95 % interval from ``n`` resamplings of the clusters in ``groups`` [m].

    Raises ValueError when the lengths differ, nothing is given, or a value is not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    return _ratio_ci(data, np.ones_like(data), groups, seed, n)


def cell(values: Sequence[float] | NDArray[np.float64], seed: int = 0, n: int = 2000) -> dict[str, Any]:
    """Give ``{"mean", "ci95"}`` of one value a prompt, as JSON holds them; NaN is left out, and nothing is null."""
    told = np.asarray(values, dtype=np.float64)
    told = told[np.isfinite(told)]
    if not len(told):
        return {"mean": None, "ci95": None}
    estimate = mean_ci(told, np.arange(len(told)), seed, n)
    return {"mean": estimate.mean, "ci95": estimate.interval}


def paired_difference(
    before: ArrayLike, after: ArrayLike, groups: Sequence[Any] | NDArray[Any], seed: int = 0, n: int = 2000
) -> Estimate:
    """Estimate the mean of ``after − before``, with its cluster-bootstrap 95 % interval.

    Args:
        before, after: [m], row by row of the same prompt and seed.
        groups: the cluster of each row, [m].
        seed, n: of the resamplings, and how many.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"before has shape {first.shape}, after {second.shape}: a paired difference needs equal ones"
        )
    return mean_ci(second - first, groups, seed, n)


def paired_ratio(
    before: ArrayLike, after: ArrayLike, groups: Sequence[Any] | NDArray[Any], seed: int = 0
) -> Estimate:
    """Estimate ``mean(after) / mean(before)``, with its cluster-bootstrap 95 % interval.

    Args:
        before, after: [m] as for :func:`paired_difference`, ``before`` positive.
        groups, seed: as there.
    """
    return _ratio_ci(np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64), groups, seed)


def mean_of_means_ci(
    values: ArrayLike, groups: Sequence[Any], parts: Sequence[Any], seed: int = 0, n: int = 2000
) -> Estimate:
    """Estimate the mean of the means of ``parts``, with its 95 % interval: clusters are drawn anew within each part.

    Args:
        values: [m].
        groups: the cluster of each row, [m].
        parts: the part of each row, [m]; each counts the same, however many rows it has.
        seed, n: of the resamplings, and how many.
    """
    data, labels, member = np.asarray(values, np.float64), np.asarray(groups), np.asarray(parts)
    generator = np.random.default_rng(seed)
    means, drawn, fewest = [], np.zeros(n), 0
    names = np.unique(member)
    for name in names:
        rows = member == name
        _, own = np.unique(labels[rows], return_inverse=True)
        sums, counts = np.bincount(own, data[rows]), np.bincount(own)
        means.append(sums.sum() / counts.sum())
        times = generator.multinomial(len(sums), np.full(len(sums), 1.0 / len(sums)), size=n)
        drawn += (times @ sums) / (times @ counts) / len(names)
        fewest = min(fewest or len(sums), len(sums))
    value = float(np.mean(means))
    if fewest < 2:
        return Estimate(value, math.nan, math.nan)
    edge = tail(fewest)
    low, high = np.quantile(drawn, [edge, 1.0 - edge])
    return Estimate(value, float(low), float(high))


def _ratio_ci(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    groups: Sequence[Any] | NDArray[Any],
    seed: int,
    n: int = 2000,
) -> Estimate:
    """Interval of Σ numerator / Σ denominator over resampled clusters (a mean has the denominator 1)."""
    labels = np.asarray(groups)
    if numerator.ndim != 1 or numerator.shape != denominator.shape or labels.shape != numerator.shape:
        raise ValueError(
            f"values {numerator.shape} and groups {labels.shape} must be one-dimensional and equally long"
        )
    if not len(numerator):
        raise ValueError("no values to average")
    if not (np.isfinite(numerator).all() and np.isfinite(denominator).all()):
        raise ValueError("values must be finite")

    # np.unique sorts the clusters, so the draw does not depend on the order of the rows.
    _, member = np.unique(labels, return_inverse=True)
    sums = np.stack(
        [np.bincount(member, numerator), np.bincount(member, denominator)], axis=1
    )  # [clusters, 2]
    clusters = len(sums)
    total, weight = sums.sum(axis=0)
    value = float(total / weight)
    if clusters < 2:
        return Estimate(value, math.nan, math.nan)

    generator = np.random.default_rng(seed)
    chance = np.full(clusters, 1.0 / clusters)
    resampled = []
    for start in range(0, n, step := max(1, _DRAWS_AT_ONCE // clusters)):
        counts = generator.multinomial(clusters, chance, size=min(step, n - start))
        drawn = counts @ sums
        resampled.append(drawn[:, 0] / drawn[:, 1])
    edge = tail(clusters)
    low, high = np.quantile(np.concatenate(resampled), [edge, 1.0 - edge])
    return Estimate(value, float(low), float(high))


def tail(clusters: int) -> float:
    """Tail share of the expanded percentile interval for few clusters.

    The plain percentile interval is too narrow by √((n−1)/n), and uses normal where t quantiles belong: α′/2 =
    Φ(√(n/(n−1)) · t_{α/2, n−1}) mends both (Hesterberg, What Teachers Should Know About the Bootstrap, 2015, §5.1).
    """
    from scipy import stats

    quantile = stats.t.ppf(0.025, clusters - 1)
    return float(stats.norm.cdf(math.sqrt(clusters / (clusters - 1)) * quantile))
