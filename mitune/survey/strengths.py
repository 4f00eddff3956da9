"""Bradley–Terry strengths of what was compared in pairs: i is chosen over j with the probability σ(θ_i − θ_j)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mitune.evaluate.bootstrap import tail
from mitune.survey.counting import Counted
from mitune.survey.shares import DRAWS, weights

Array = NDArray[np.float64]
# Of a win each way between any two: so that who never lost has a strength that is a number.
_PRIOR = 0.01
_STEPS, _ENOUGH, _STRIDE = 100, 1e-10, 2.0


@dataclass(frozen=True, eq=False)
class Strengths:
    """Log-strengths [names], their mean 0, with 95 % intervals from persons drawn anew; ``wins``: [names, names], how
    often the one was chosen over the other, half of a tie each."""

    value: Array
    low: Array
    high: Array
    wins: Array


def fit(wins: Array) -> Array:
    """Find the strengths of largest likelihood [..., names] for ``wins`` [..., names, names], by Newton's steps."""
    names = wins.shape[-1]
    own = wins + _PRIOR * (1 - np.eye(names))
    games, won = own + own.swapaxes(-1, -2), own.sum(-1)
    theta = np.zeros(won.shape)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(np.clip(theta[..., None, :] - theta[..., :, None], -500, 500)))
        slope = won - (games * chance).sum(-1)
        curve = games * chance * (1 - chance)
        hessian = curve.sum(-1)[..., None] * np.eye(names) - curve + 1 / names  # + 1/n: the mean stays 0
        step = np.linalg.solve(hessian, slope[..., None])[..., 0]
        largest = np.abs(step).max(-1, keepdims=True)
        theta += step * np.minimum(1, _STRIDE / np.maximum(largest, 1e-300))
        if largest.max() < _ENOUGH:
            break
    return theta - theta.mean(-1, keepdims=True)


def strengths(counted: Counted, seed: int = 0, draws: int = DRAWS) -> Strengths | None:
    """Estimate the strengths from rounds of two names; None where there are none. Groups are drawn from apart."""
    pairs = counted.shown.sum(1) == 2
    if not pairs.any() or counted.people < 2:
        return None
    taken = counted.chosen.astype(float) - 0.5 * (counted.chosen.sum(1) != 1)[:, None] * counted.chosen
    taken[counted.chosen.sum(1) == 0] = 0.5
    taken *= counted.shown & pairs[:, None]
    per_answer = taken[:, :, None] * counted.shown[:, None, :] * (1 - np.eye(len(counted.names)))
    wins = counted.summed(per_answer)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((draws, *wins.shape[1:]))
    for group in range(len(counted.groups)):
        own = wins[counted.person_group == group]
        counts = weights(len(own), draws, rng)
        drawn += np.einsum("dp,pij->dij", counts, own, optimize=True)
    value, edge = fit(wins.sum(0)), tail(counted.people)
    low, high = np.quantile(fit(drawn), [edge, 1 - edge], axis=0)
    return Strengths(value, low, high, wins.sum(0))
