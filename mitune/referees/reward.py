"""The one interface of every external judge."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Reward(Protocol):
    """Says how well pictures go with their prompts; higher = better, in the judge's own unit."""

    name: str
    differentiable: bool
    """Whether gradients flow from the score back to the pictures."""

    @property
    def identity(self) -> str:
        """The weights that it judges with; two judges of the same name may differ in it."""

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
