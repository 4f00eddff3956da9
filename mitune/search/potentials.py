"""What steers a population: a reward at the picture a particle is heading for, or what the model itself says of it.

The target is p(path) · exp(U/α); a potential says U of every particle at every step, and what it is in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.referees.reward import Reward
from mitune.sampling.loop import Observer


@dataclass(frozen=True)
class LatentReward:
    """A reward that reads latents [n, …] instead of pictures: ``function(latents, prompts)`` gives scores [n]."""

    name: str
    function: Callable[[Tensor, list[str]], Tensor]
    differentiable: bool = True

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] of the latents ``pictures``."""
        return self.function(pictures, prompts)


class WeightedReward:
    """Σ_k w_k r_k: several rewards with weights are a reward.

    Differentiable where all are. UserError if there is none, a weight is not finite, or some read latents and others
    pictures.
    """

    def __init__(self, terms: Mapping[str, float], rewards: Mapping[str, Reward]) -> None:
        if not terms:
            raise UserError("search.reward is empty; name at least one reward")
        for name, weight in terms.items():
            if name not in rewards:
                raise UserError(
                    f"search.reward: there is no reward '{name}' (there are {', '.join(rewards)})"
                )
            if not math.isfinite(weight):
                raise UserError(f"search.reward: the weight of '{name}' is {weight}; give a finite number")
        self.terms = [(weight, rewards[name]) for name, weight in terms.items()]
        self.name = "+".join(f"{weight:g}*{name}" for name, weight in terms.items())
        self.differentiable = all(reward.differentiable for _, reward in self.terms)
        latent = {reads_latents(reward) for _, reward in self.terms}
        if len(latent) > 1:
            raise UserError(f"search.reward: {self.name} mixes rewards of latents with rewards of pictures")
        self.latent = latent.pop()

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Weighted sum [n]."""
        total = torch.zeros(len(pictures), device=pictures.device)
        for weight, reward in self.terms:
            total = total + weight * reward.score(pictures, prompts)
        return total


def reads_latents(reward: Reward) -> bool:
    """Whether a reward wants latents and no pictures."""
    return isinstance(reward, LatentReward) or bool(getattr(reward, "latent", False))


class RewardPotential:
    """U = r(ẑ_0(z_t)), the reward of the one-step prediction, decoded where the reward reads pictures (Kim et al.).

    At the end it is the reward of the picture itself.
    """

    def __init__(self, reward: Reward, denoiser: Denoiser) -> None:
        self.reward = reward
        self.name = reward.name
        self.differentiable = reward.differentiable
        self._denoiser = denoiser

    def value(self, z0: Tensor, prompts: list[str]) -> Tensor:
        """Rewards [n] of predicted latents [n, …]; ValueError unless there is one for each."""
        seen = z0 if reads_latents(self.reward) else self._denoiser.decode(z0)
        scores = self.reward.score(seen, prompts)
        if scores.shape != (len(z0),):
            raise ValueError(f"reward '{self.name}' gave {tuple(scores.shape)} for {len(z0)} pictures")
        return scores


class PathPotential:
    """U = what an observer of the sampler's path has measured so far: no reward model, and no gradient.

    With ``PathLLR``, U tends to i(z_0; c) = log p(z_0|c)/p(z_0), so without guidance the target tends to
    p(z|c)^(1 + 1/α) p(z)^(−1/α): what classifier-free guidance of scale 1 + 1/α is meant to draw from, and does not.
    ``PathMI`` and ``PathContrast`` steer by mutual information and against other prompts.
    """

    differentiable = False

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.name = observer.name


Potential = RewardPotential | PathPotential
