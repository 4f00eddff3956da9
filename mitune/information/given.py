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
    """The tasks of n pictures.

    Args:
        tasks: n, or their texts.
        pool: where other prompts are found.
        batch_size: tasks encoded at once.
    """

    def __init__(self, denoiser: Denoiser, tasks: Sequence[Task | str], pool: Pool, batch_size: int) -> None:
        self.tasks, self.pool = tasks_of(tasks), pool
        self._denoiser, self._batch_size = denoiser, batch_size

    @cached_property
    def _encoded(self) -> tuple[Condition, list[int]]:
        """One encoding of each task, and which is whose."""
        unique = {task.key: task for task in self.tasks}
        number = {key: place for place, key in enumerate(unique)}
        with torch.no_grad():
            found = encode(self._denoiser, list(unique.values()), self._batch_size)
        return found, [number[task.key] for task in self.tasks]

    @cached_property
    def condition(self) -> Condition:
        """The condition of each row; candidates of one task share one encoding."""
        return self.condition_of(range(len(self.tasks)))

    def condition_of(self, rows: Sequence[int]) -> Condition:
        """The conditions of some rows."""
        found, number = self._encoded
        return found[[number[row] for row in rows]]
