"""The searches, proposals, tempering and resampling schemes by name, and the keys of ``search``."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.information.catalogue import SCORES
from mitune.parts import Catalogue, Part
from mitune.settings import CANDIDATES, GUIDANCE, Settings, key, section

SEARCHES = Catalogue(
    "search.by",
    Part("das", "sequential Monte Carlo on the way from noise to picture", "mitune.search.smc:steer"),
    Part("rcp", "latents climb a judge, held back by score distillation (Referee Can Play)",
         "mitune.search.referee:climb"),
)  # fmt: skip

STARTS = {
    "noise": "the noise that a sampler would start from",
    "sample": "the picture that the sampler draws",
}

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


_STEPS = 100_000


@dataclass
class ViewsConfig(Settings):
    """Show a picture to the referee from many sides, so that what pleases it is no pattern of one of them."""

    number: int = key(10, "views of a picture a step (0: the picture as it is)", low=0, high=1000)
    size: int | None = key(
        224, "side that they are pooled to (null: the picture's own)", unit="pixels", low=8, high=4096
    )
    rotate: float = key(30.0, "largest rotation", unit="degrees", low=0, high=180)
    shift: float = key(0.1, "largest shift, as a share of the side", low=0, high=1)
    perspective: float = key(0.2, "how far corners move inwards, as a share of half the side", low=0, below=1)
    perspective_share: float = key(0.4, "share of the views with perspective", low=0, high=1)
    colour: float = key(0.1, "largest change of brightness, contrast, saturation and hue", low=0, high=0.5)
    colour_share: float = key(0.5, "share of the views with other colours", low=0, high=1)
    erase: list[float] = key(
        [0.1, 0.4],
        "[low,high]: share of the area that a rectangle, the same in all views of a step, hides",
        low=0,
        below=1,
        sizes=2,
    )
    noise: float = key(0.1, "largest standard deviation of a view's own noise", low=0, high=10)
    more_noise: float = key(0.2, "standard deviation of the noise on every view", low=0, high=10)
    hardest: int | None = key(
        None, "of the views, those that the referee likes least count (null: all)", low=1, high=1000
    )


@dataclass
class DistillConfig(Settings):
    """Score distillation: the model's own opinion of the latent, noised to a random time."""

    weight: list[float] = key(
        [0.390625, 0.1953125],
        "[first,last]: factor on guided minus drawn noise, by a cosine over the steps; [0,0]: off, no network",
        low=0,
        high=1000,
        sizes=2,
    )
    guidance: float = key(30.0, "classifier-free guidance scale of its network", low=0, high=GUIDANCE)
    times: list[float] = key(
        [0.05, 0.948], "[low,high]: random times, as shares of the schedule", low=0, high=1, sizes=2
    )
    prefix: str = key("", "put before the prompt that the network is told", empty=True)


@dataclass
class RestartConfig(Settings):
    """The running mean of the latents, from which they start again now and then."""

    decay: float = key(0.95, "of the running mean", low=0, below=1)
    start: int = key(40, "first step that begins at the running mean", low=1, high=_STEPS)
    every: int | None = key(60, "steps between two of them (null: never)", low=1, high=_STEPS)


@dataclass
class RefereeConfig(Settings):
    """Drawing by a referee's gradient (``sampler=inversion``); the defaults are the published code's."""

    start: str = key("noise", "where the latents start", choices=STARTS)
    start_guidance: float | None = key(
        None, "start=sample: the sampler's guidance there (default: as elsewhere)", low=0, high=GUIDANCE
    )
    steps: int = key(160, "of a picture", low=1, high=_STEPS)
    referee_steps: int | None = key(
        150, "the first of them, in which the referee has its say (null: all)", low=0, high=_STEPS
    )
    referee_weight: float = key(
        2.0,
        "size of the referee's step over that of distillation (that is off: its root mean square a cell); 0: none",
        low=0,
        high=1000,
    )
    lr: float = key(1.0, "factor on the referee's step after warmup", low=0, high=1000)
    min_lr: float = key(0.5, "the same at the end, by a cosine", low=0, high=1000)
    warmup: int = key(10, "steps up to lr", low=0, high=_STEPS)
    noise: float = key(
        0.2, "standard deviation of what is added in each of the two moves of a step", low=0, high=10
    )
    end_noise: float = key(0.01, "the same once the referee is silent", low=0, high=10)
    views: ViewsConfig = section(ViewsConfig)
    distill: DistillConfig = section(DistillConfig)
    restart: RestartConfig = section(RestartConfig)


@dataclass
class SearchConfig(Settings):
    """Steering the candidates of a prompt as one population (``sampler=das``), or drawing each up a judge
    (``sampler=inversion``)."""

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
    rcp: RefereeConfig = section(RefereeConfig)
