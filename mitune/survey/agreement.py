"""How far people agree with one another (Krippendorff's α), and with scores (Kendall's τ, area under the curve)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitune.evaluate.bootstrap import tail
from mitune.survey.counting import Counted
from mitune.survey.shares import shares, weights

Array = NDArray[np.float64]
_AT_ONCE = 4_000_000  # pairs of pictures times draws in memory
_DRAWS = 1000


def alpha(values: Array) -> float:
    """Compute Krippendorff's α of nominal answers: ``values`` [units, kinds], how many gave which answer to a unit. NaN
    where no unit has two answers, or all are the same.

    1 − D_o / D_e: the disagreement within units by the one of answers drawn from all units.
    """
    told = values[values.sum(1) >= 2]
    if not len(told):
        return math.nan
    return float(_alpha(*_parts(told), np.ones((1, len(told))))[0])


def _parts(values: Array) -> tuple[Array, Array]:
    """Of each unit: Σ_{c≠k} n_c n_k / (m − 1), and n_c."""
    total = values.sum(1)
    return (total**2 - (values**2).sum(1)) / (total - 1), values


def _alpha(observed: Array, values: Array, counts: Array) -> Array:
    """α of units counted so often, [draws, units]."""
    kinds = counts @ values
    total = kinds.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        within = counts @ observed / total
        expected = (total**2 - (kinds**2).sum(1)) / (total * (total - 1))
        return 1 - np.where(expected > 0, within / expected, math.nan)


def agree_among(counted: Counted, pairs: bool, seed: int = 0) -> dict[str, Any]:
    """Give ``{"alpha", "ci95", "units"}``: of choosing a picture or not or, of ``pairs``, of which of the two. The
    interval draws prompts anew: a person drawn twice would agree with himself."""
    values, prompt = _units(counted, pairs)
    many = values.sum(1) >= 2
    values, prompt = values[many], prompt[many]
    value = alpha(values)
    found: dict[str, Any] = {
        "alpha": value if math.isfinite(value) else None,
        "ci95": None,
        "units": len(values),
    }
    clusters, member = np.unique(prompt, return_inverse=True)
    if math.isfinite(value) and len(clusters) > 1:
        counts = weights(len(clusters), _DRAWS, np.random.default_rng(seed))[:, member]
        drawn = _alpha(*_parts(values), counts)
        edge = tail(len(clusters))
        low, high = np.nanquantile(drawn, [edge, 1 - edge])
        found["ci95"] = [float(low), float(high)]
    return found


def _units(counted: Counted, pairs: bool) -> tuple[Array, NDArray[np.int64]]:
    """(how often each answer was given [units, kinds], the prompts of the units)."""
    if pairs:
        low, high = (
            np.where(counted.shown, counted.picture, fill).T for fill in (np.iinfo(np.int64).max, -1)
        )
        first = low.min(0)
        keys = np.stack([counted.prompt, first, high.max(0)], 1)
        taken = counted.chosen.sum(1) == 1
        own = (counted.chosen & (counted.picture == first[:, None])).any(1)
        kind = np.where(~taken, 2, np.where(own, 0, 1))
        units, member = np.unique(keys, axis=0, return_inverse=True)
        values = np.zeros((len(units), 3))
        np.add.at(values, (member.ravel(), kind), 1)
        return values, units[:, 0]
    units, member, taken, _ = _pictures(counted)
    values = np.zeros((len(units), 2))
    np.add.at(values, (member, taken.astype(int)), 1)
    return values, units[:, 0]


def _pictures(
    counted: Counted,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """(the pictures shown as (prompt, picture) [units, 2]; of each showing its unit, whether it was chosen, and its
    answer). A picture that stands for several names was shown once."""
    answer, name = np.nonzero(counted.shown)
    showing = np.stack([answer, counted.picture[answer, name]], 1)
    _, first = np.unique(showing, axis=0, return_index=True)
    answer, name = answer[first], name[first]
    keys = np.stack([counted.prompt[answer], counted.picture[answer, name]], 1)
    units, member = np.unique(keys, axis=0, return_inverse=True)
    return units, member.ravel(), counted.chosen[answer, name], answer


@dataclass(frozen=True, eq=False)
class _Judged:
    """Answers about pictures that have a score.

    Attributes:
        score, group: of each picture: only those of one group are compared.
        person, picture, chosen: of each showing.
        answer: of each showing.
    """

    score: Array
    group: NDArray[np.int64]
    person: NDArray[np.int64]
    picture: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    answer: NDArray[np.int64]


def agree_with(
    counted: Counted, scores: Mapping[tuple[str, str], Mapping[str, float]], alone: bool, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Give for each score ``{"tau", "tau_ci95", "auc", "auc_ci95", "pictures"}``.

    A score that is the same of all is left out.

    Args:
        counted: the answers.
        scores: of (prompt, picture).
        alone: pictures were shown one by one, and are compared across prompts; else those of a prompt are.
        seed: of the persons drawn anew.

    τ is between a picture's score and the share of people who chose it, and the mean over prompts where each has
    several; the area is the chance that of a picture chosen and one not chosen the former has the higher score.
    """
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    units, member, chosen, answer = _pictures(counted)
    found = {}
    for name in names:
        values = [
            scores.get((counted.prompts[prompt], counted.pictures[picture]), {}).get(name, math.nan)
            for prompt, picture in units.tolist()
        ]
        known = np.isfinite(values)
        place = np.cumsum(known) - 1
        own = known[member] if len(units) else np.zeros(0, bool)
        if len({*np.array(values)[known].tolist()}) < 2:
            continue
        group = np.zeros(int(known.sum()), np.int64) if alone else units[known, 0]
        judged = _Judged(
            np.array(values)[known],
            group,
            counted.person[answer[own]],
            place[member[own]],
            chosen[own],
            answer[own],
        )
        area = _area_alone(judged, counted.people, seed) if alone else _area(judged, counted, seed)
        found[name] = {**_tau(judged, counted.people, seed), **area, "pictures": int(known.sum())}
    return found


def _tau(judged: _Judged, people: int, seed: int) -> dict[str, Any]:
    """τ-b, the mean over the groups in which it is defined. Its interval is shifted by what the draws are off on
    average: shares that are drawn anew are noisier, and noise alone brings τ nearer to 0."""
    first, second = _pairs(judged.group)
    taken, shown = (np.zeros((people, len(judged.score))) for _ in range(2))
    np.add.at(taken, (judged.person, judged.picture), judged.chosen)
    np.add.at(shown, (judged.person, judged.picture), 1)
    ahead = np.sign(judged.score[first] - judged.score[second])
    groups, member = np.unique(judged.group[first], return_inverse=True)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(len(groups)))

    def of(counts: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (counts @ taken) / (counts @ shown)
            other = np.sign(share[:, first] - share[:, second])
            other[~np.isfinite(other)] = 0
            same, moves = (
                np.add.reduceat(values[:, order], starts, axis=1) for values in (ahead * other, other**2)
            )
            tau = same / np.sqrt(moves * np.add.reduceat((ahead**2)[order], starts))
            defined = np.isfinite(tau)
            return np.where(defined, tau, 0).sum(1) / defined.sum(1)

    if not len(first):
        return {"tau": None, "tau_ci95": None}
    value = float(of(np.ones((1, people)))[0])
    if not math.isfinite(value) or people < 2:
        return {"tau": value if math.isfinite(value) else None, "tau_ci95": None}
    counts = weights(people, _DRAWS, np.random.default_rng(seed))
    step = max(1, _AT_ONCE // len(first))
    drawn = np.concatenate([of(counts[start : start + step]) for start in range(0, _DRAWS, step)])
    edge = tail(people)
    moved = np.nanquantile(drawn, [edge, 1 - edge]) - np.nanmean(drawn)
    return {"tau": value, "tau_ci95": [max(-1.0, value + float(moved[0])), min(1.0, value + float(moved[1]))]}


def _pairs(group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of places within one group."""
    parts = []
    for own in np.unique(group):
        places = np.flatnonzero(group == own)
        upper = np.triu_indices(len(places), 1)
        parts.append(np.stack([places[upper[0]], places[upper[1]]]))
    first, second = np.concatenate(parts, axis=1)
    return first, second


def _area(judged: _Judged, counted: Counted, seed: int) -> dict[str, Any]:
    """Over the pairs of a chosen and another picture of one answer."""
    top, bottom = np.zeros(counted.people), np.zeros(counted.people)
    order = np.argsort(judged.answer, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(judged.answer[order])) + 1):
        values, taken = judged.score[judged.picture[rows]], judged.chosen[rows]
        ahead = values[taken][:, None] - values[~taken][None]
        top[judged.person[rows[0]]] += (ahead > 0).sum() + 0.5 * (ahead == 0).sum()
        bottom[judged.person[rows[0]]] += ahead.size
    if not bottom.sum():
        return {"auc": None, "auc_ci95": None}
    found = shares(top[:, None], bottom[:, None], np.zeros(counted.people, np.int64), seed, _DRAWS)
    value, low, high = (float(own[0, 0]) for own in (found.value, found.low, found.high))
    return {"auc": value, "auc_ci95": [low, high] if math.isfinite(low) else None}


def _area_alone(judged: _Judged, people: int, seed: int) -> dict[str, Any]:
    """Over the pairs of any showing in which it was chosen, and any in which it was not."""
    levels, level = np.unique(judged.score, return_inverse=True)
    yes, no = (np.zeros((people, len(levels))) for _ in range(2))
    at = level[judged.picture]
    np.add.at(yes, (judged.person, at), judged.chosen)
    np.add.at(no, (judged.person, at), ~judged.chosen)

    def of(counts: Array) -> Array:
        good, bad = counts @ yes, counts @ no
        below = np.cumsum(bad, axis=1) - bad
        with np.errstate(invalid="ignore", divide="ignore"):
            return (good * (below + bad / 2)).sum(1) / (good.sum(1) * bad.sum(1))

    value = float(of(np.ones((1, people)))[0])
    if not math.isfinite(value) or people < 2:
        return {"auc": value if math.isfinite(value) else None, "auc_ci95": None}
    edge = tail(people)
    low, high = np.nanquantile(of(weights(people, _DRAWS, np.random.default_rng(seed))), [edge, 1 - edge])
    return {"auc": value, "auc_ci95": [float(low), float(high)]}
