"""The scores by which the model itself judges, with their keys: a new one is a file, a row here and a test.

The code of a row (``make``) is called, with ``settings`` made of its keys,

* of the path: (schedule, settings), once a population; it gives an :class:`mitune.sampling.loop.Observer` of its name
  (``reads_prompts``: other arguments);
* of latents: (denoiser, z0, given, noising, settings), as :mod:`mitune.information.given` and ``noising`` say; it gives
  [n], or {score: [n]} with those that it ``shares_pass_with``; ``opens`` is called likewise, and gives an
  :class:`mitune.information.in_passes.Unfinished`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.parts import Catalogue, Part
from mitune.pixels.catalogue import SOURCES
from mitune.settings import GUIDANCE, STEPS, Settings, key

NOISES = {
    "independent": "drawn anew at each time",
    "antithetic": "neighbouring times take n and −n",
    "coupled": "one forward path",
}
WEIGHTINGS = {
    "continuous": "the likelihood's own −½ λ'(t)",
    "paper": "κ_t of MI-Tune's eq. 2",
    "uniform": "all times alike",
    "profile": "as measured (scorer.profile)",
}
STRATEGIES = {
    "even": "midpoints of equal stretches",
    "stratified": "one drawn in each stretch",
    "random": "drawn all over the range",
    "small": "even in its lowest third",
    "middle": "even in its middle third",
    "large": "even in its highest third",
    "importance": "dense where scorer.profile is high",
}
FORMS = {"square": "‖ε̂_c − ε̂_∅‖²", "orthogonal": "the product of velocities, as RFMI has it for flows"}
# On the sampler's path there is a guided prediction, too.
PATH_FORMS = FORMS | {
    "guided": "of flows: that product of the guided velocity, as RFMI's published code has it"
}
NEGATIVES = {
    "edits": "minimal edits, mined from the prompt pool",
    "words": "words exchanged within the prompt",
    "pool": "drawn from the prompt pool",
    "list": "those of scorer.contrast.given",
}
EDITS = {"swap": "two words exchanged", "substitute": "a word in another's place", "drop": "a part left out"}
# Of cas.
DIVERGENCES = {"hutchinson": "finite difference", "jvp": "exact derivative, twice the work"}
RULES = ("simpson38", "simpson13", "trapezoid")
INVERSIONS = {"trapezoid": "second order", "ddim": "first order, as published"}
ENDS = {"denoised": "by way of ε̂ there", "normal": "N(0, I), as published"}
SPACINGS = {"angle": "even in arctan of noise over signal", "time": "even in t"}

# Strategies whose times stand for all of the range.
_WHOLE_RANGE = ("even", "stratified", "random", "importance")
NATS_FROM = 5
"""Highest ``t_min`` (of 1000) at which what lies below may be left out of a number in nats: a twentieth and less of the
information of Gaussian pairs of correlation up to 0.98, see tests/test_meanings.py."""
ALL_TIMES = 1000


# -- their keys --------------------------------------------------------------------------------------------------------


@dataclass
class MIConfig(Settings):
    t_min: int = key(
        50, "mi, mi_continuous, rfmi: steps at or below are left out (of 1000)", low=0, high=STEPS
    )
    form: str | None = key(
        None,
        "mi, mi_continuous: how the two predictions of a step are compared (default: square; rfmi is orthogonal)",
        choices=PATH_FORMS,
    )


@dataclass
class TimesConfig(Settings):
    """When a scorer noises a picture, and what each time counts."""

    times: int = key(8, "times a picture is noised at", low=1, high=STEPS)
    t_min: int = key(400, "lowest time (of 1000)", low=0, high=STEPS)
    t_max: int = key(1000, "highest time", low=0, high=STEPS)
    weighting: str = key("continuous", "what a time counts", choices=WEIGHTINGS)
    strategy: str = key("even", "where the times lie", choices=STRATEGIES)


@dataclass
class ElboConfig(TimesConfig):
    noise: str = key("independent", "the noise of a picture's times", choices=NOISES)


@dataclass
class MIImageConfig(ElboConfig):
    """Set ``mi_image``; one pass gives elbo too where all but ``form`` is as for elbo."""

    form: str = key("square", "how two predictions are compared", choices=FORMS)


@dataclass
class LLRImageConfig(TimesConfig):
    paths: int = key(1, "forward paths averaged", low=1, high=1000)
    guidance: float = key(1.0, "guidance of the reverse steps; 1 = none", low=0, high=GUIDANCE)


@dataclass
class ContrastConfig(ElboConfig):
    times: int = key(6, "times a picture is noised at", low=1, high=STEPS)
    t_min: int = key(560, "lowest time (of 1000)", low=0, high=STEPS)
    edits: int = key(8, "minimal edits of the prompt, or other prompts, to tell it from", low=1, high=1000)
    negatives: str = key("edits", "the other prompts", choices=NEGATIVES)
    kinds: list[str] = key([*EDITS], "kinds of edits", choices=EDITS, filled=True)
    given: str | None = key(
        None, "negatives=list: the other prompts, a source like prompts.source", path=True
    )


@dataclass
class CASConfig(Settings):
    steps: int = key(10, "steps of the inversion", low=2, high=STEPS)
    probes: int = key(20, "random probes of the divergence a step", low=1, high=10_000)
    recursion: int = key(2, "fixed-point passes of an inversion step", low=0, high=100)
    divergence: str = key("hutchinson", "how the divergence is found", choices=DIVERGENCES)
    rule: str = key("simpson38", "quadrature over the steps", choices=RULES)
    inversion: str = key("trapezoid", "a step", choices=INVERSIONS)
    end: str = key("denoised", "density at the path's end", choices=ENDS)
    spacing: str = key("angle", "of the steps", choices=SPACINGS)


@dataclass
class GroundingConfig(Settings):
    t_max: int = key(
        250, "grounding: steps above are left out, but for the last (of 1000)", low=1, high=STEPS
    )
    phrases: str = key("auto", "who finds the things that a prompt names", choices=SOURCES)


@dataclass
class GroundingImageConfig(TimesConfig):
    """Set ``grounding_image``: maps of attention tell most where little noise is left."""

    times: int = key(4, "times a picture is noised at", low=1, high=STEPS)
    t_min: int = key(0, "lowest time (of 1000)", low=0, high=STEPS)
    t_max: int = key(200, "highest time", low=0, high=STEPS)
    weighting: str = key("uniform", "what a time counts", choices=WEIGHTINGS)
    phrases: str = key("auto", "who finds the things that a prompt names", choices=SOURCES)


# -- the rows ----------------------------------------------------------------------------------------------------------


def _free(own: Any) -> int:
    return 0


def _said(own: Any) -> str:
    return ""


def _always(own: Any) -> bool:
    return True


@dataclass(frozen=True)
class Score(Part):
    """A column that says how well pictures go with their prompts; higher = better.

    >>> SCORES["llr"].needs_noise, SCORES["elbo"].rows(ElboConfig(times=4))
    (True, 8)

    Attributes:
        where: what it is measured on: the sampler's "path" (free of charge), the final "latent", or the "picture".
        section: whose keys ``scorer.<section>`` it reads (default: those of its own name).
        columns: further columns that come with it -> what they say.
        rows: its settings -> network rows a candidate costs.
        unit: its settings -> the number's unit or range, in words; "" where ``meaning`` says it.
        on_pictures: what stands in for it where there is a picture and no path.
        opens: ``module:function`` that begins to measure it a few times at a time
            (:mod:`mitune.information.in_passes`); "" where it takes all of its rows at once.
        shares_pass_with: scores that its ``make`` gives as well, for nothing where the two are set alike.
        races: candidates can be dropped by it while they are drawn.
        steers: a search can be steered by it in a reward's place.
        flow_only: it is defined on rectified flows alone.
        needs_noise: of a path: it is measured on the noise that a stochastic sampler adds.
        reads_prompts: of a path: its code is called with (denoiser, tasks, settings), the tasks none where only asked
            whether the model will do.
        checks: ``module:function`` called with (texts, settings, key), which refuses prompts that it cannot score.
        looks: it looks at attention maps, which a network does not show while it trains checkpointed or compiled.
        needs_pool: it tells a prompt from others, found in a pool of them.
        external: it judges by weights of its own, whose identity is noted.
        note: what was measured about it, said where pictures are chosen by it.
        noted: its settings -> whether that was measured with them.
    """

    where: str = "latent"
    section: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: Callable[[Any], int] = _free
    unit: Callable[[Any], str] = _said
    on_pictures: str = ""
    opens: str = ""
    shares_pass_with: tuple[str, ...] = ()
    races: bool = False
    steers: bool = False
    flow_only: bool = False
    needs_noise: bool = False
    looks: bool = False
    needs_pool: bool = False
    reads_prompts: bool = False
    checks: str = ""
    external: bool = False
    note: str = ""
    noted: Callable[[Any], bool] = _always

    def __post_init__(self) -> None:
        if self.where not in ("path", "latent", "picture") or ":" not in self.make:
            raise ValueError(
                f"the row of the score {self.name} does not say where it is measured and by which code"
            )

    @property
    def home(self) -> str:
        """The section of its keys."""
        return self.section or self.name

    def own(self, scorer: Mapping[str, Any], **changed: Any) -> Any:
        """Its settings, from the section ``scorer`` of a configuration; None where it has none.

        ``changed``: keys with other values, of which it takes those that it has.
        """
        if self.settings is None:
            return None
        names = {item.name for item in dataclasses.fields(self.settings)}  # type: ignore[arg-type]
        given = {**scorer.get(self.home, {}), **changed}
        return self.settings(**{name: value for name, value in given.items() if name in names})


def is_in_nats(own: Any) -> bool:
    """Tell whether a score on forward noise, set so, is information in nats: the likelihood's weights, all times."""
    return (
        own.weighting == "continuous"
        and own.strategy in _WHOLE_RANGE
        and own.t_min <= NATS_FROM
        and own.t_max >= ALL_TIMES
        and getattr(own, "guidance", 1.0) == 1.0
    )


def _ranking(own: Any) -> str:
    return f"ranking score over t {own.t_min}…{own.t_max}"


def _nats(own: Any) -> str:
    """An estimate over a part of the times is no information in nats, however well it ranks."""
    return "nats" if is_in_nats(own) else _ranking(own)


def _above(own: Any) -> str:
    form = f", {own.form} form" if own.form else ""
    return f"ranking score over t above {own.t_min}{form}"


def _square(own: Any) -> bool:
    return own.form in (None, "square")


def _cas_rows(own: Any) -> int:
    each = 2 * own.probes if own.divergence == "jvp" else own.probes + 1
    return int(2 * (own.steps * each + (own.steps - 1) * own.recursion))


_mi = functools.partial(
    Score, settings=MIConfig, where="path", section="mi", unit=_above, on_pictures="mi_image"
)
SCORES = Catalogue(
    "score",
    _mi("mi", "MI-Tune's point-wise mutual information along the sampler's path (its eq. 2)",
        "mitune.information.mi:path_mi", races=True, steers=True,
        note="ranks at chance on the embedded world (Kendall's τ 0.02 with its oracle), its paper found τ 0.4 with"
             " BLIP-VQA on SD 2.1; select=contrast_half_elbo ranks better here", noted=_square),
    _mi("mi_continuous", "the same with the continuous weights ½(−λ')",
        "mitune.information.mi:path_mi_continuous", races=True),
    _mi("rfmi", "RFMI's product of velocities along a flow's path (arXiv 2503.14358)",
        "mitune.information.mi:path_rfmi", races=True, flow_only=True),
    Score("llr", "log-likelihood ratio of the sampler's path, with the prompt against without, nats",
          "mitune.information.llr:path_llr", where="path", on_pictures="llr_image", races=True, steers=True,
          needs_noise=True),
    Score("mi_image", "how far the prompt moves the denoiser on the finished picture",
          "mitune.information.elbo:measure_both", MIImageConfig, rows=lambda own: 2 * own.times, unit=_nats,
          shares_pass_with=("elbo",), races=True),
    Score("elbo", "how much better the prompt explains noise put on the picture than the null prompt does",
          "mitune.information.elbo:measure", ElboConfig, rows=lambda own: 2 * own.times, unit=_nats, races=True,
          opens="mitune.information.elbo:opened"),
    Score("llr_image", "log-likelihood ratio, with the prompt against without, of forward paths from the picture",
          "mitune.information.llr:measure", LLRImageConfig, rows=lambda own: 2 * own.times * own.paths, unit=_nats,
          races=True),
    # Told from a few prompts, not from all: never the information itself. Fewer rows where a prompt has few edits.
    Score("contrast", "how much better the prompt explains the picture than minimal edits of it do",
          "mitune.information.contrast:measure", ContrastConfig, rows=lambda own: (own.edits + 1) * own.times,
          unit=_ranking, races=True, steers=True, needs_pool=True, opens="mitune.information.contrast:opened"),
    Score("grounding", "whether every thing that the prompt names is somewhere in the picture and apart from the"
          " others, by attention along the sampler's path", "mitune.pixels.grounding:PathGrounding",
          GroundingConfig, where="path", on_pictures="grounding_image", steers=True, looks=True, reads_prompts=True,
          checks="mitune.pixels.grounding:check_phrases"),
    Score("grounding_image", "the same by attention on the finished picture", "mitune.pixels.grounding:measure",
          GroundingImageConfig, rows=lambda own: own.times, unit=_ranking, looks=True,
          checks="mitune.pixels.grounding:check_phrases"),
    Score("cas", "log p(z|c) − log p(z) along the probability-flow ODE, nats",
          "mitune.information.cas:measure", CASConfig, rows=_cas_rows),
)  # fmt: skip
