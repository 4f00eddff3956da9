"""Rewards by name: judges, and weighted sums of them, which are rewards too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.referees.catalogue import JUDGES
from mitune.referees.pairs import check_pairs
from mitune.referees.reward import Reward
from mitune.scores import terms


class WeightedSum:
    """Σ_k w_k r_k; differentiable where all its parts are. UserError without parts, or for a weight that is no number.

    With weights w and 20 (1 − w) on ``aesthetic`` and ``clip`` it is the mixed reward of DAS (Kim et al. 2025).

    >>> load_reward("jpeg+2*jpeg", {}).identity
    '1 * jpeg at quality 95 + 2 * jpeg at quality 95'
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]], name: str | None = None) -> None:
        if not parts:
            raise UserError("a sum of rewards needs one reward or more")
        for weight, reward in parts:
            if not math.isfinite(weight):
                raise UserError(f"the weight of the reward {reward.name} is {weight}; give a number")
        self.parts = tuple(parts)
        self.name = name or "+".join(f"{weight:g}*{reward.name}" for weight, reward in parts)
        self.differentiable = all(reward.differentiable for _, reward in parts)

    @property
    def identity(self) -> str:
        """The judges, by their weights."""
        return " + ".join(f"{weight:g} * {reward.identity}" for weight, reward in self.parts)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        total = torch.zeros(len(pictures), device=pictures.device)
        for weight, reward in self.parts:
            total = total + weight * reward.score(pictures, prompts).to(total.device)
        return total


def load_reward(name: str, settings: Mapping[str, Any], device: torch.device | str = "cpu") -> Reward:
    """Open the reward called ``name``, or a weighted sum of rewards such as ``aesthetic+20*clip``.

    ``settings``: ``reward name -> parameters`` (section ``scorer`` of the configuration). What can be checked without
    the weights is checked here; they are read when the first picture is judged. Raises UserError: an unknown name, a
    model or head that is not there or is a pickle, a package that is not installed.
    """
    if name.isidentifier():
        judge = JUDGES.find(name)
        reward: Reward = judge.load()(judge.own(settings), device)
        return reward
    parts = terms(name)
    for part in parts:
        check_known(f"reward {name!r}: reward", part.name, JUDGES)
        if part.normalised:
            raise UserError(
                f"reward {name!r}: z({part.name}) compares candidates; a reward judges one picture"
            )
    return WeightedSum(
        [(part.weight, load_reward(part.name, settings, device)) for part in parts], name.replace(" ", "")
    )
