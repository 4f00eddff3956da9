"""An estimate and how far it may be off: the standard error that comes from the noise drawn, not from the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Estimate:
    """``value`` [n] float32 and its ``standard_error`` [n] float32, both in nats; NaN where one draw gives none."""

    value: Tensor
    standard_error: Tensor

    @classmethod
    def of_terms(cls, terms: Tensor, noise: str = "independent", random_times: bool = False) -> Estimate:
        """The sum of ``terms`` [n, m], one for each time, with :func:`standard_error`."""
        return cls(terms.sum(1).float(), standard_error(terms, noise, random_times).float())


def standard_error(terms: Tensor, noise: str = "independent", random_times: bool = False) -> Tensor:
    """Standard error [n] of Σ_j ``terms``[:, j], from the scatter of one draw of noise at each of m times.

    Terms of neighbouring times differ by their noise and by a step of the curve they follow, so half the mean
    squared difference of neighbours estimates a term's variance, a little too high rather than too low (von Neumann
    et al. 1941). Where the times themselves were drawn (``random_times``) the curve belongs to the scatter: deviations
    from the mean of all terms. ``noise`` "antithetic": the two times that share a noise count as one term. "coupled":
    NaN, since all terms come from one path and only further paths tell; so is a single term.
    """
    if noise == "antithetic" and terms.shape[1] > 1:
        whole = terms.shape[1] // 2 * 2
        pairs = terms[:, :whole].unflatten(1, (-1, 2)).sum(2)
        terms = torch.cat([pairs, terms[:, whole:]], 1)
    m = terms.shape[1]
    if noise == "coupled" or m < 2:
        return torch.full_like(terms[:, :1].sum(1), float("nan"))
    if random_times:
        squares = (terms - terms.mean(1, keepdim=True)).square().sum(1)
    else:
        squares = terms.diff(dim=1).square().sum(1) / 2
    return (squares * (m / (m - 1))).sqrt()
