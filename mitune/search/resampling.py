"""Resampling: which particles go on, and how often, given their log-weights.

Every scheme is unbiased: particle i of N has N w_i offspring on average (Chopin & Papaspiliopoulos, *An Introduction to
Sequential Monte Carlo*, chapter 9). All prompts are resampled at once; there is no loop over prompts or particles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.search.catalogue import RESAMPLINGS

# N w_i meant to be whole may come out a rounding below it; its last copy must not be left to chance.
_ROUND_OFF = 1e-9


def ancestors(log_weights: Tensor, scheme: str, uniforms: Tensor) -> Tensor:
    """The ancestors [P, N] that uniform draws ``uniforms`` [P, N] in [0, 1) choose; row p depends on row p alone.

    A scheme is a function of weights and uniforms that gives them, rising along each row. UserError for an unknown
    scheme, a NaN or +∞ weight, or a prompt all of whose weights are zero.
    """
    draw = RESAMPLINGS.find(scheme).load()
    weights = normalised(log_weights.to(uniforms.dtype))
    found: Tensor = draw(weights, uniforms.to(weights))
    return found


# -- schemes -----------------------------------------------------------------------------------------------------------


def multinomial(weights: Tensor, uniforms: Tensor) -> Tensor:
    """N independent draws."""
    return _invert(weights, uniforms.sort(-1).values)


def stratified(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One draw in each of N equal strata of [0, 1) (Kitagawa 1996)."""
    n = weights.shape[-1]
    return _invert(weights, (torch.arange(n, device=weights.device) + uniforms) / n)


def systematic(weights: Tensor, uniforms: Tensor) -> Tensor:
    """As ``stratified``, with one draw for all strata."""
    return stratified(weights, uniforms[..., :1])


def residual(weights: Tensor, uniforms: Tensor) -> Tensor:
    """⌊N w⌋ offspring for certain, the remaining ones multinomial by the remainders (Liu & Chen 1998)."""
    whole, rest = _whole_and_rest(weights)
    n = weights.shape[-1]
    missing = n - whole.sum(-1, keepdim=True)
    drawn = (torch.arange(n, device=weights.device) < missing).long()
    return _from_counts(whole.scatter_add(-1, _invert(rest, uniforms), drawn))


def ssp(weights: Tensor, uniforms: Tensor) -> Tensor:
    """⌊N w⌋ or ⌈N w⌉ offspring by the Srinivasan sampling process (Gerber, Chopin & Whiteley 2019).

    Two particles with fractions x and y meet; one comes out whole (0 or 1), the other keeps x + y less that, each with
    its mean unchanged. The order of the meetings is free: here a knock-out tournament, log₂ N rounds of it.
    """
    counts, fraction = _whole_and_rest(weights)
    index = torch.arange(weights.shape[-1], device=weights.device).expand_as(counts)
    used = 0
    while fraction.shape[-1] > 1:
        pairs = fraction.shape[-1] // 2
        x, y = fraction[..., : 2 * pairs : 2], fraction[..., 1 : 2 * pairs : 2]
        i, j = index[..., : 2 * pairs : 2], index[..., 1 : 2 * pairs : 2]
        u = uniforms[..., used : used + pairs]
        used += pairs
        both = x + y
        tops = both >= 1
        # Below 1 the first keeps both fractions with probability x/(x + y); from 1 on it becomes whole with
        # (1 − y)/(2 − x − y): E is x either way.
        first = u * torch.where(tops, 2 - both, both) < torch.where(tops, 1 - y, x)
        counts = counts.scatter_add(-1, torch.where(first, i, j), tops.long())
        kept = torch.where(first ^ tops, i, j)
        odd = slice(2 * pairs, None)
        fraction = torch.cat([both - tops.to(both.dtype), fraction[..., odd]], -1)
        index = torch.cat([kept, index[..., odd]], -1)
    # The fractions add up to a whole number, so what is left is 0 or 1 but for round-off.
    return _from_counts(counts.scatter_add(-1, index, (fraction > 0.5).long()))


# -- what they share ---------------------------------------------------------------------------------------------------


def normalised(log_weights: Tensor) -> Tensor:
    """Weights [P, N] that sum to 1 along each row.

    UserError for a NaN or +∞ log-weight, or a row that is −∞ throughout.
    """
    if bool((log_weights.isnan() | (log_weights == float("inf"))).any()):
        raise UserError("resampling: a log-weight is NaN or +inf; a particle that failed must have -inf")
    dead = (log_weights == -float("inf")).all(-1)
    if bool(dead.any()):
        row = int(dead.long().argmax())
        raise UserError(f"resampling: all weights of prompt number {row} are zero; no particle can go on")
    return log_weights.softmax(-1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² [P] of log-weights [P, N]: N where all are equal, 1 where one has all; 0 where none has any."""
    top = log_weights.amax(-1, keepdim=True)
    weights = (log_weights - top.clamp(min=torch.finfo(log_weights.dtype).min)).exp()
    return weights.sum(-1).square() / weights.square().sum(-1).clamp(min=torch.finfo(weights.dtype).tiny)


def capped(log_weights: Tensor, families: Tensor, cap: float) -> Tensor:
    """Log-probabilities [P, N] to resample with, such that no family's share exceeds ``cap``.

    ``families`` [P, N]: index in 0…N − 1 of what a particle descends from. A share above the cap is cut to it and what
    is cut goes to the others in proportion. Where fewer than 1/cap families live, each gets the same. Offspring of
    particle i then carry w_i / ρ_i, so that estimates stay exact.
    """
    weights = normalised(log_weights)
    share = torch.zeros_like(weights).scatter_add_(-1, families, weights)
    limit = (1 / (share > 0).sum(-1, keepdim=True)).clamp(min=cap)
    ranked = share.sort(-1, descending=True).values
    number = torch.arange(ranked.shape[-1], device=ranked.device)
    tail = ranked.flip(-1).cumsum(-1).flip(-1)
    # With the k largest at the cap, the others grow by this; the right k is the first that keeps them below it.
    growth = ((1 - number * limit) / tail.clamp(min=torch.finfo(tail.dtype).tiny)).clamp(min=0)
    fits = growth * ranked <= limit * (1 + _ROUND_OFF)
    scale = growth.gather(-1, fits.long().argmax(-1, keepdim=True))
    log_factor = torch.minimum(limit, scale * share).log() - share.log()
    chances = weights.log() + log_factor.gather(-1, families)
    return chances.masked_fill(weights == 0, -float("inf")).log_softmax(-1)


def _invert(weights: Tensor, points: Tensor) -> Tensor:
    """For each point in [0, 1) the particle in whose stretch of the cumulated weights it lies."""
    total = weights.cumsum(-1)
    # Divided by its own end the sum reaches 1 exactly, so trailing particles of weight zero are never hit.
    total = total / total[..., -1:].clamp(min=torch.finfo(total.dtype).tiny)
    points = points.clamp(max=1 - torch.finfo(points.dtype).eps)
    found = torch.searchsorted(total, points.contiguous(), right=True)
    return found.clamp(max=weights.shape[-1] - 1)


def _from_counts(counts: Tensor) -> Tensor:
    """Ancestors [P, N] of offspring counts [P, N] that sum to N."""
    slots = torch.arange(counts.shape[-1], device=counts.device).expand_as(counts)
    return torch.searchsorted(counts.cumsum(-1), slots.contiguous(), right=True)


def _whole_and_rest(weights: Tensor) -> tuple[Tensor, Tensor]:
    """⌊N w⌋ (integers) and what is left of N w [P, N]."""
    expected = weights * weights.shape[-1]
    whole = (expected + _ROUND_OFF).floor()
    return whole.long(), (expected - whole).clamp(min=0)
