"""Figures of sets of pictures, from features of any network: how far they are from real ones, how varied they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
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


def truncated_entropy(features: Tensor, groups: Sequence[Any], rank: int = 20) -> float:
    """Entropy in nats of the best-fitting Gaussian along the ``rank`` widest directions of ``features`` [n, d].

    ½ Σ_i log(2πe λ_i), λ_i the largest eigenvalues of the covariance of the features about their own group's (prompt's)
    mean, so that prompts that differ do not count (Ibarrola and Grace 2024: truncated CLIP entropy). −∞ where a
    direction has no spread. ValueError with fewer degrees of freedom than ``rank``.
    """
    wide = features.detach().cpu().to(torch.float64)
    names = list(dict.fromkeys(groups))
    member = torch.tensor([names.index(group) for group in groups])
    freedom = len(wide) - len(names)
    if freedom < rank:
        raise ValueError(f"{len(wide)} pictures of {len(names)} prompts do not span {rank} directions")
    centres = torch.stack([wide[member == number].mean(0) for number in range(len(names))])
    spread = torch.linalg.svdvals(wide - centres[member])[:rank].square() / freedom
    return float(0.5 * (2 * torch.pi * torch.e * spread).log().sum())
