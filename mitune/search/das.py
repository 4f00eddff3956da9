"""Two ready-made searches: DAS, steered by a reward, and the same machine steered by the model's own information."""

from __future__ import annotations

from collections.abc import Sequence

from mitune.denoiser import Denoiser
from mitune.errors import UserError, check_known
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.referees.reward import Reward
from mitune.sampling.loop import Observer
from mitune.sampling.steps import Sampler
from mitune.scores import INFORMATION
from mitune.search.path_contrast import PathContrast
from mitune.search.potentials import PathPotential, Potential, RewardPotential
from mitune.search.smc import Steered, particle_seeds, steer
from mitune.search.weights import Steering


def das(
    denoiser: Denoiser,
    prompts: Sequence[str],
    reward: Reward,
    particles: int,
    sampler: Sampler,
    settings: Steering | None = None,
    seed: int = 0,
    first: int = 0,
    observers: Sequence[Observer] = (),
) -> Steered:
    """``particles`` of each prompt, drawn from p · exp(r/α) (Kim et al., ICLR 2025, arXiv 2501.05803).

    ``seed``: the run's; particle number i starts from the noise of candidate ``first`` + i. UserError as ``steer``.
    """
    potential = RewardPotential(reward, denoiser)
    return _search(denoiser, prompts, potential, particles, sampler, settings, seed, first, observers)


def steer_by_information(
    denoiser: Denoiser,
    prompts: Sequence[str],
    particles: int,
    sampler: Sampler,
    settings: Steering | None = None,
    seed: int = 0,
    first: int = 0,
    by: str = "llr",
    negatives: Sequence[Sequence[str]] | None = None,
    observers: Sequence[Observer] = (),
) -> Steered:
    """As ``das``, but with what the path itself says in place of a reward, in nats: "llr", "mi" or "contrast".

    The first two cost no forward beyond guidance's own; "contrast" costs one for each of a prompt's ``negatives`` (P
    lists, equally long). UserError for an unknown ``by``, contrast without negatives, and as ``steer``.
    """
    settings = settings or Steering()
    potential = information(denoiser, prompts, particles, by, negatives, settings.batch_size)
    return _search(denoiser, prompts, potential, particles, sampler, settings, seed, first, observers)


def information(
    denoiser: Denoiser,
    prompts: Sequence[str],
    particles: int,
    by: str = "llr",
    negatives: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
) -> PathPotential:
    """What the path of ``particles`` particles of each of P prompts says, as a potential; else as
    ``steer_by_information``.
    """
    check_known("search.reward", by, INFORMATION)
    observer: Observer
    if by == "llr":
        observer = PathLLR()
    elif by == "mi":
        observer = PathMI(denoiser.schedule)
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


def _search(
    denoiser: Denoiser,
    prompts: Sequence[str],
    potential: Potential,
    particles: int,
    sampler: Sampler,
    settings: Steering | None,
    seed: int,
    first: int,
    observers: Sequence[Observer],
) -> Steered:
    seeds = particle_seeds(seed, prompts, particles, first)
    return steer(denoiser, prompts, seeds, sampler, potential, settings, observers)
