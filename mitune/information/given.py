"""What pictures are scored for: their prompts, and what is made of them when a score asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from mitune.denoiser import Condition, Denoiser
from mitune.information.negatives import Pool
from mitune.tasks import Task, tasks_of


def encode(denoiser: Denoiser, tasks: Sequence[Task], batch_size: int) -> Condition:
    """Encode each task, one row each, ``batch_size`` at a time."""
    parts = [denoiser.encode(tasks[start : start + batch_size]) for start in range(0, len(tasks), batch_size)]
    return Condition.cat(parts)


class Given:
    """What n pictures are scored for.

    Args:
        tasks: n tasks, or texts.
        pool: where other prompts are found.
        batch_size: texts encoded at once.
    """

    def __init__(self, denoiser: Denoiser, tasks: Sequence[Task | str], pool: Pool, batch_size: int) -> None:
        self.tasks, self.pool = tasks_of(tasks), pool
        self.texts = [task.text for task in self.tasks]
        self._denoiser, self._batch_size = denoiser, batch_size

    @cached_property
    def condition(self) -> Condition:
        """The condition of each row; candidates of one task share one encoding."""
        unique = list({task.key: task for task in self.tasks}.values())
        number = {task.key: place for place, task in enumerate(unique)}
        with torch.no_grad():
            found = encode(self._denoiser, unique, self._batch_size)
        return found[[number[task.key] for task in self.tasks]]
