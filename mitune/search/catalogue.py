"""The searches, proposals, tempering and resampling schemes by name, and the keys of ``search``."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.information.catalogue import SCORES
from mitune.parts import Catalogue, Part
from mitune.settings import CANDIDATES, Settings, key

SEARCHES = Catalogue(
    "search.by",
    Part("das", "sequential Monte Carlo on the way from noise to picture", "mitune.search.smc:steer"),
)

PROPOSALS = Catalogue(
    "search.proposal",
    Part("auto", "gradient wherever the reward has one"),
    Part("gradient", "up the reward (twisted)"),
    Part("bootstrap", "as the sampler would"),
)


@dataclass(frozen=True)
class TemperingPart(Part):
    """One schedule of λ: its code maps k = 0 … S and gamma to λ_k.

    Attributes:
        adaptive: the schedule is an upper bound; the particles say how far below it λ stays.
    """

    adaptive: bool = False


TEMPERINGS = Catalogue(
    "search.tempering",
    TemperingPart("adaptive", "as the particles allow", "mitune.search.tempering:linear", adaptive=True),
    TemperingPart("gamma", "(1 + gamma)^k - 1, at most 1 (DAS)", "mitune.search.tempering:capped_growth"),
    TemperingPart("exponential", "gamma's curve scaled to end at 1", "mitune.search.tempering:scaled_growth"),
    TemperingPart("linear", "even steps", "mitune.search.tempering:linear"),
    TemperingPart("constant", "1 throughout (twisted diffusion)", "mitune.search.tempering:constant"),
)

RESAMPLINGS = Catalogue(
    "search.resampling",
    Part("multinomial", "independent draws", "mitune.search.resampling:multinomial"),
    Part("residual", "whole copies first, the rest multinomial", "mitune.search.resampling:residual"),
    Part("stratified", "one draw in each of N strata", "mitune.search.resampling:stratified"),
    Part("systematic", "one draw, shifted N times", "mitune.search.resampling:systematic"),
    Part("ssp", "Srinivasan sampling process (least variance)", "mitune.search.resampling:ssp"),
)


@dataclass
class SearchConfig(Settings):
    """Steering the candidates of a prompt as one population (``sampler=das``)."""

    by: str | None = key(None, "which search (null: off)", choices=SEARCHES.meanings)
    reward: str | None = key(
        None,
        "what draws the particles: a judge of pictures (clip, jpeg, aesthetic+20*clip, …), or the model itself:"
        f" {', '.join(SCORES.where(lambda score: score.steers))}. Short: reward=",
        basic=True,
    )
    alpha: float = key(
        1.0,
        "temperature of the target p exp(reward/alpha), in the reward's unit. Short: alpha=",
        above=0,
        high=1e9,
        basic=True,
    )
    particles: int | None = key(
        None, "of one population (default: all candidates of a prompt are one)", low=1, high=CANDIDATES
    )
    proposal: str = key("auto", "how particles move", choices=PROPOSALS.meanings)
    tempering: str = key("adaptive", "when the reward begins to count", choices=TEMPERINGS.meanings)
    gamma: float = key(0.008, "of tempering=gamma and exponential", above=0, high=1000)
    resampling: str = key("ssp", "how those that go on are drawn", choices=RESAMPLINGS.meanings)
    ess: float = key(
        0.5, "resample where the effective sample size falls below this share of the particles", low=0, high=1
    )
    cap: float = key(
        1.0, "largest share of a population that may descend from one of its first particles", above=0, high=1
    )
    max_drift: float | None = key(
        None,
        "bound on the reward's pull, in standard deviations of a step's noise (null: none)",
        above=0,
        high=1e6,
    )
    edits: int = key(
        3, "reward=contrast: edits that the path is told from, a forward a step each", low=1, high=1000
    )
