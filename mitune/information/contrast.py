"""`contrast`: how much better a picture goes with its own prompt than with prompts that differ in one thing.

    contrast(z; c) = −log Σ_k exp(−gap_k),    gap_k = error(z; c_k) − error(z; c)  ≈  log p(z|c) − log p(z|c_k)

the InfoNCE form (van den Oord et al., arXiv 1807.03748) of the ELBO gap to other prompts c_k in place of the null
prompt. ``error`` is the weighted denoising error of :mod:`mitune.information.denoising`. All conditions of one
picture see the same noise, so what the picture shares with every prompt cancels. (With c itself in the sum it were
−log(1 + Σ_k exp(−gap_k)), the log-posterior of c among them: the same ranking, but flat where all gaps are large.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.information.denoising import gaps
from mitune.tasks import Task, tasks_of


def contrast(
    denoiser: Denoiser,
    z0: Tensor,
    prompts: Sequence[Task | str],
    negatives: Sequence[Sequence[str]],
    t: Tensor,
    weights: Tensor,
    seeds: Sequence[int],
    batch_size: int = 64,
    noise: str = "independent",
    emphasis: Tensor | None = None,
) -> Tensor:
    """Score of each picture for its prompt against its negatives, [n] float64; higher = better aligned.

    Args:
        z0: latents [n, ...].
        prompts: n tasks or texts; those of different candidates share the batches. A picture stays as it is.
        negatives: n lists, such as :func:`mitune.information.negatives.negatives` finds; they may differ in length, but
            none is empty.
        t, weights: [m] times and their weights, from :func:`mitune.information.times.time_grid`.
        seeds: n; a candidate's noise depends on its own seed alone.
        batch_size: rows of a forward, and candidates whose text encodings are held at a time.
        noise: of the m times of one picture: drawn apart, in pairs n and −n ("antithetic"), or along one forward path
            ("coupled": the gaps are log-likelihood ratios of that path, ``llr`` against c_k).
        emphasis: [m] factors on a coupled path's own weights, from ``Weighting.emphasis``.

    Costs m · (negatives + 1) forwards a picture; every distinct text is encoded once.

    Raises UserError for a prompt without a negative, ValueError where the lengths differ.
    """
    if not len(z0) == len(prompts) == len(negatives) == len(seeds):
        raise ValueError(
            f"{len(z0)} latents, {len(prompts)} prompts, {len(negatives)} negatives, {len(seeds)} seeds"
        )
    groups: defaultdict[int, list[int]] = defaultdict(list)
    tasks = tasks_of(prompts)
    for row, others in enumerate(negatives):
        if not others:
            raise UserError(
                f"contrast: prompt {tasks[row].text!r} has no other prompt to be told from; give more prompts"
            )
        groups[len(others)].append(row)
    if not groups:
        return torch.empty(0, dtype=torch.float64, device=z0.device)

    sets = [
        [task, *(task.reworded(text) for text in others)]
        for task, others in zip(tasks, negatives, strict=True)
    ]
    unique = {task.key: task for own in sets for task in own}
    number = {key: place for place, key in enumerate(sorted(unique))}
    encoded = encode(denoiser, [unique[key] for key in number], batch_size)
    score = torch.empty(len(z0), dtype=torch.float64, device=z0.device)
    # Pictures with equally many negatives go together: no forward is spent on padding.
    for count in sorted(groups):
        for start in range(0, len(groups[count]), batch_size):
            rows = groups[count][start : start + batch_size]
            conditions = [encoded[[number[sets[row][k].key] for row in rows]] for k in range(count + 1)]
            index = torch.tensor(rows, device=z0.device)
            error = gaps(
                denoiser,
                z0[index],
                conditions,
                t,
                weights,
                [seeds[row] for row in rows],
                batch_size=batch_size,
                noise=noise,
                emphasis=emphasis,
            )
            score[index] = soft_least(error[:, 1:].double() - error[:, :1].double()).to(score.device)
    return score


def soft_least(gap: Tensor) -> Tensor:
    """−log Σ_k exp(−gap_k) [n] of gaps [n, k]: their smooth minimum, ruled by the negative that fits best."""
    return -torch.logsumexp(-gap, dim=-1)


def encode(denoiser: Denoiser, tasks: Sequence[Task], batch_size: int) -> Condition:
    """Encode each task, one row each, ``batch_size`` at a time."""
    parts = [denoiser.encode(tasks[start : start + batch_size]) for start in range(0, len(tasks), batch_size)]
    return Condition.cat(parts)
