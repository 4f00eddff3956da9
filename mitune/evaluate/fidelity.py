"""Fidelity: how far the pictures as a whole are from real ones, whatever their prompts ask for."""

from __future__ import annotations

from torch import Tensor


def kernel_distance(features: Tensor, real: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of ``features`` [n, d] and ``real`` [m, d], k(x, y) = (x·y/d + 1)³.

    The kernel inception distance (Bińkowski et al., 1801.01401) with features of any network, which should have entries
    of size one. 0 on average where both are drawn from one distribution, so it may come out negative.
    ValueError with fewer than two rows of either, or different widths.
    """
    if min(len(features), len(real)) < 2 or features.shape[1:] != real.shape[1:]:
        raise ValueError(f"features {tuple(features.shape)} and {tuple(real.shape)} cannot be compared")
    x, y = (part.detach().cpu().double() for part in (features, real))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        own = kernel(a, a)
        return (own.sum() - own.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
