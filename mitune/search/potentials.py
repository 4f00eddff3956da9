"""What steers a population: a reward at the picture a particle is heading for, or what the model itself says of it.

The target is p(path) · exp(U/α); a potential says U of every particle at every step, and what it is in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError, check_known
from mitune.referees.reward import Reward
from mitune.sampling.loop import Observer
from mitune.scores import INFORMATION, SCORES
from mitune.search.path_contrast import PathContrast
from mitune.tasks import Task


class RewardPotential:
    """U = r(ẑ_0(z_t)), the reward of the one-step prediction (Kim et al.), and of the picture itself at the end.

    RewardPotential(load_reward("clip", config.scorer), denoiser)
    """

    def __init__(self, reward: Reward, denoiser: Denoiser) -> None:
        self.reward = reward
        self.name = reward.name
        self.differentiable = reward.differentiable
        self._denoiser = denoiser

    def value(self, z0: Tensor, prompts: list[str]) -> Tensor:
        """Rewards [n] of predicted latents [n, …]; ValueError unless there is one for each."""
        scores = self.reward.score(self._shown(z0), prompts)
        if scores.shape != (len(z0),):
            raise ValueError(f"reward '{self.name}' gave {tuple(scores.shape)} for {len(z0)} pictures")
        return scores

    def _shown(self, z0: Tensor) -> Tensor:
        """Decode the latents for the reward to see."""
        return self._denoiser.decode(z0)


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


def path_potential(
    denoiser: Denoiser,
    prompts: Sequence[str],
    particles: int,
    by: str = "llr",
    negatives: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
    scorer: Mapping[str, Any] | None = None,
) -> PathPotential:
    """Make a potential of what the path of ``particles`` particles of each of P prompts says, in nats.

    Args:
        denoiser: the model.
        prompts: P texts.
        particles: of each prompt.
        by: "llr", "mi" or "grounding", which cost no forward beyond guidance's own, or "contrast", which costs one a
            particle and step for each of a prompt's ``negatives``.
        negatives: P lists of other prompts, equally long.
        batch_size: particles a forward of "contrast".
        scorer: the section ``scorer``, by whose keys "mi" is measured (default: as they are by default).

    UserError for an unknown ``by``, and contrast without negatives.
    """
    check_known("search.reward", by, INFORMATION)
    score = SCORES[by]
    if score.where == "path":
        tasks = [Task.of(text) for text in prompts for _ in range(max(particles, 1))]
        asked = (denoiser, tasks) if score.reads_prompts else (denoiser.schedule,)
        observer: Observer = score.load()(*asked, score.own(scorer or {}))
    else:
        lengths = {len(texts) for texts in negatives or ()}
        if negatives is None or len(negatives) != len(prompts) or len(lengths) != 1 or 0 in lengths:
            raise UserError(
                "search.reward=contrast: every prompt needs the same number of other prompts, at least one"
            )
        conditions = [
            denoiser.encode_prompts(list(texts)).repeat_interleave(max(particles, 1))
            for texts in zip(*negatives, strict=True)
        ]
        observer = PathContrast(denoiser, conditions, batch_size)
    return PathPotential(observer)
