"""What every judge does with pictures and prompts first: see that they belong together, and take them in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError


def check_pairs(name: str, pictures: Tensor, prompts: Sequence[str]) -> None:
    """Raise UserError unless there is a prompt for each of the ``pictures`` [n, 3, H, W]."""
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise UserError(f"{name}: pictures are [n, 3, H, W], not {list(pictures.shape)}")
    if len(pictures) != len(prompts):
        raise UserError(f"{name}: {len(pictures)} pictures but {len(prompts)} prompts; give one for each")


def in_batches(function: Callable[..., Tensor], size: int, *columns: Any) -> Tensor:
    """``function`` of rows of the ``columns``, ``size`` at a time, joined."""
    parts = [
        function(*(column[start : start + size] for column in columns))
        for start in range(0, len(columns[0]), size)
    ]
    return torch.cat(parts)
