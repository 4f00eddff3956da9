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
from dataclasses import replace

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.information.catalogue import ContrastConfig
from mitune.information.denoising import gaps, relative
from mitune.information.given import Given, encode
from mitune.information.in_passes import Conditions, Unfinished
from mitune.information.noising import Noising
from mitune.tasks import Task, tasks_of


def measure(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: ContrastConfig
) -> Tensor:
    """Measure the score ``contrast``. Raises UserError for a prompt that has no other to be told from."""
    asked = (settings.negatives, settings.edits, settings.kinds)
    others = [given.pool.others(task.text, *asked) for task in given.tasks]
    return contrast(denoiser, z0, given.tasks, others, noising)


def contrast(
    denoiser: Denoiser,
    z0: Tensor,
    prompts: Sequence[Task | str],
    negatives: Sequence[Sequence[str]],
    noising: Noising,
) -> Tensor:
    """Score each picture for its prompt against its negatives, [n] float64; higher = better aligned.

    Args:
        z0: latents [n, ...].
        prompts: n tasks or texts; those of different candidates share the batches. A picture stays as it is.
        negatives: n lists, such as :meth:`mitune.information.negatives.Pool.others` finds; they may differ in length,
            but none is empty.
        noising: along one forward path ("coupled") the gaps are log-likelihood ratios of that path, ``llr`` against
            c_k. Its batch size is also the most candidates whose text encodings are held at a time.

    Costs m · (negatives + 1) forwards a picture; every distinct text is encoded once.

    Raises UserError for a prompt without a negative, ValueError where the lengths differ.
    """
    seeds, batch_size = noising.seeds, noising.batch_size
    tasks = _checked(z0, prompts, negatives, seeds)
    groups = _alike(tasks, negatives)
    if not groups:
        return torch.empty(0, dtype=torch.float64, device=z0.device)

    of = _conditions(denoiser, tasks, negatives, batch_size)
    score = torch.empty(len(z0), dtype=torch.float64, device=z0.device)
    for members in groups:
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            index = torch.tensor(rows, device=z0.device)
            error = gaps(denoiser, z0[index], of(rows), replace(noising, seeds=[seeds[row] for row in rows]))
            score[index] = soft_least(error[:, 1:].double() - error[:, :1].double()).to(score.device)
    return score


def opened(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: ContrastConfig
) -> Unfinished:
    """Begin to measure the score ``contrast``. Raises UserError as :func:`measure`."""
    asked = (settings.negatives, settings.edits, settings.kinds)
    others = [given.pool.others(task.text, *asked) for task in given.tasks]
    tasks = _checked(z0, given.tasks, others, noising.seeds)
    of = _conditions(denoiser, tasks, others, noising.batch_size)

    def score(error: Tensor) -> Tensor:
        found = relative(error.sum(1))
        return soft_least(found[:, 1:].double() - found[:, :1].double())

    return Unfinished(denoiser, z0, noising, [(rows, of) for rows in _alike(tasks, others)], 0, score)


def _checked(
    z0: Tensor, prompts: Sequence[Task | str], negatives: Sequence[Sequence[str]], seeds: Sequence[int]
) -> list[Task]:
    """The tasks. Raises as :func:`contrast`."""
    if not len(z0) == len(prompts) == len(negatives) == len(seeds):
        raise ValueError(
            f"{len(z0)} latents, {len(prompts)} prompts, {len(negatives)} negatives, {len(seeds)} seeds"
        )
    tasks = tasks_of(prompts)
    for task, others in zip(tasks, negatives, strict=True):
        if not others:
            raise UserError(
                f"contrast: prompt {task.text!r} has no other prompt to be told from; give more prompts"
            )
    return tasks


def _alike(tasks: Sequence[Task], negatives: Sequence[Sequence[str]]) -> list[list[int]]:
    """Pictures with equally many negatives, the fewest first: together no forward is spent on padding."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, others in enumerate(negatives):
        groups[len(others)].append(row)
    return [groups[count] for count in sorted(groups)]


def _conditions(
    denoiser: Denoiser, tasks: Sequence[Task], negatives: Sequence[Sequence[str]], batch_size: int
) -> Conditions:
    """What gives the conditions of pictures with equally many negatives: their own first. Each text is encoded once."""
    sets = [
        [task, *(task.reworded(text) for text in others)]
        for task, others in zip(tasks, negatives, strict=True)
    ]
    unique = {task.key: task for own in sets for task in own}
    number = {key: place for place, key in enumerate(sorted(unique))}
    encoded = encode(denoiser, [unique[key] for key in number], batch_size)

    def of(rows: Sequence[int]) -> list[Condition]:
        return [encoded[[number[sets[row][k].key] for row in rows]] for k in range(len(sets[rows[0]]))]

    return of


def soft_least(gap: Tensor) -> Tensor:
    """−log Σ_k exp(−gap_k) [n] of gaps [n, k]: their smooth minimum, ruled by the negative that fits best."""
    return -torch.logsumexp(-gap, dim=-1)
