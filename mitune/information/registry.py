"""Scorers by name: what each needs (the sampler's path, the final latent, the picture) and how it is computed.

Every column is higher = better aligned. ``mi``, ``mi_continuous``, ``rfmi`` (of flows) and ``llr`` are free on the
path; ``mi_image``, ``elbo``, ``llr_image``, ``contrast`` and ``cas`` cost forwards on the latent; ``oracle`` (with its
column ``exact``) judges pictures of the embedded world; ``clip``, ``pickscore`` and the others of
:mod:`mitune.referees` judge any picture; a weighted sum (:mod:`mitune.scores`) is made of other columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from omegaconf import OmegaConf
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.information.cas import cas
from mitune.information.contrast import contrast, encode
from mitune.information.edits import EditMiner
from mitune.information.elbo import elbo, mi_and_elbo
from mitune.information.llr import PathLLR, llr_image
from mitune.information.mi import PathMI
from mitune.information.negatives import MINED, negatives
from mitune.information.times import Profile, Weighting, time_grid
from mitune.referees.weighted import load_reward
from mitune.scores import (
    LATENT_SCORERS,
    ON_PICTURES,
    PATH_SCORERS,
    PICTURE_SCORERS,
    SCORES,
    scorers_of,
    sums,
)

REFEREES = SCORES.where(lambda score: score.external)


class Scoring:
    """The scores that a set of candidates gets.

    Args:
        names: scores, of :data:`mitune.scores.SCORERS` or weighted sums of them.
        settings: mapping ``scorer name -> parameters`` (section ``scorer`` of the configuration).
        denoiser: the model that judges (the one that draws).
        pool: prompts in which ``contrast`` finds its edits, or which it draws its other prompts from.
        given: other prompts for ``contrast`` (scorer.contrast.negatives=list).
        seed: of the edits, and of times drawn at random.
        batch_size: rows of a forward when noise is put on pictures.
        profile: for the scorers with weighting=profile or strategy=importance.

    ``forwards``: network rows spent since it was made, by scorer; a pass that two scorers share counts for both, as
    each would need it alone.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Mapping[str, Any],
        denoiser: Denoiser,
        pool: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 96,
        given: Sequence[str] = (),
        profile: Profile | None = None,
    ) -> None:
        self._combined = settings.get("combined", "")
        self.names = tuple(names)
        self.scorers = tuple(scorers_of(names, self._combined))
        self.settings = settings
        self.denoiser = denoiser
        self.seed = seed
        self.batch_size = batch_size
        self.forwards: Counter[str] = Counter()
        if "rfmi" in self.scorers and denoiser.schedule.kind != "flow":
            raise UserError(
                f"rfmi is defined on rectified flows, and {denoiser.identity} is a diffusion model: ask for mi"
            )
        self._pool, self._given, self._profile = pool, given, profile
        mines = "contrast" in self.scorers and settings["contrast"]["negatives"] in MINED
        self._miner = EditMiner(pool, seed) if mines else None
        self._edits: dict[str, list[str]] = {}
        # Their weights are read when the first picture is judged, and once.
        self._referees: dict[str, Any] = {
            name: load_reward(name, settings, denoiser.device) for name in self.scorers if name in REFEREES
        }

    def observers(self) -> list[Any]:
        """Fresh observers of one batch's path."""
        makers: dict[str, Callable[[], Any]] = {
            "mi": lambda: self._path_mi("paper"),
            "mi_continuous": lambda: self._path_mi("continuous"),
            "rfmi": lambda: self._path_mi("continuous", "orthogonal"),
            "llr": PathLLR,
        }
        return [makers[name]() for name in self.scorers if name in PATH_SCORERS]

    def _path_mi(self, weighting: str, form: str = "square") -> PathMI:
        return PathMI(self.denoiser.schedule, weighting, self.settings["mi"]["t_min"], form=form)

    def on_latents(self, latents: Tensor, texts: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
        """Scores of final latents [n, …] for their own prompts, by noise drawn from their own seeds: each [n]."""
        wanted = [name for name in self.scorers if name in LATENT_SCORERS]
        texts, seeds = list(texts), list(seeds)
        condition = self._encode(texts) if set(wanted) - {"contrast"} else None
        found: dict[str, Tensor] = {}
        for names in self._passes(wanted):
            before = self.denoiser.forwards
            values: tuple[Tensor, ...]
            if condition is None or names == ("contrast",):
                values = (self._contrast(latents, texts, seeds),)
            else:
                values = self._PASSES[names](self, latents, condition, seeds)
            found |= dict(zip(names, values, strict=True))
            for name in names:
                self.forwards[name] += self.denoiser.forwards - before
        return {name: found[name] for name in wanted}

    def on_pictures(self, pictures: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Scores of pictures [n, 3, H, W] in [0, 1] for their own prompts: each [n]."""
        found: dict[str, Tensor] = {}
        if "oracle" in self.scorers:
            from mitune.worlds.shapes import oracle_scores

            scores = torch.as_tensor(oracle_scores(pictures, list(texts)))
            found |= {"oracle": scores, "exact": (scores == 1.0).double()}
        with torch.no_grad():
            found |= {name: judge.score(pictures, list(texts)) for name, judge in self._referees.items()}
        return found

    @property
    def judges(self) -> dict[str, str]:
        """Which weights the referees judge with, by scorer."""
        return {name: judge.identity for name, judge in self._referees.items()}

    def on_table(self, table: Mapping[str, Any], groups: Sequence[Any] | None) -> dict[str, list[float]]:
        """The sums, from the columns they are made of; ``groups``: the prompt of each row (:func:`scores.weigh`)."""
        return {
            name: values.tolist() for name, values in sums(table, self.names, self._combined, groups).items()
        }

    @property
    def needs_pictures(self) -> bool:
        return any(name in PICTURE_SCORERS for name in self.scorers)

    def _encode(self, texts: list[str]) -> Condition:
        """The condition of each row; candidates of one prompt share one encoding."""
        unique = list(dict.fromkeys(texts))
        number = {text: place for place, text in enumerate(unique)}
        with torch.no_grad():
            return encode(self.denoiser, unique, self.batch_size)[[number[text] for text in texts]]

    def _passes(self, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """The scorers; those together that one pass gives: mi_image and elbo, where they are set alike."""
        both = ("mi_image", "elbo")
        settings = [{**self.settings[name], "form": None} for name in both]
        if not set(both) <= set(wanted) or settings[0] != settings[1]:
            return [(name,) for name in wanted]
        return [both, *((name,) for name in wanted if name not in both)]

    def _noising(self, name: str, seeds: list[int]) -> dict[str, Any]:
        """At which times, with what noise and weights a scorer looks: as ``denoising_terms`` takes them."""
        settings = self.settings[name]
        noise = settings.get("noise", "coupled")
        weighting = Weighting(
            self.denoiser.schedule, settings["weighting"], settings["t_min"], settings["t_max"], self._profile
        )
        t, weights = time_grid(
            self.denoiser.schedule,
            settings["times"],
            settings["t_min"],
            settings["t_max"],
            settings["weighting"],
            settings["strategy"],
            self._profile,
            self.seed,
        )
        if noise == "coupled" and not bool((t.diff() > 0).all()):
            raise UserError(
                f"scorer.{name}: strategy={settings['strategy']} names a time twice, and a path passes it once;"
                f" lower scorer.{name}.times={settings['times']} or choose strategy=even"
            )
        # A path brings the likelihood's own weights.
        emphasis = weighting.emphasis(t) if noise == "coupled" and weighting.name != "continuous" else None
        return {
            "t": t,
            "weights": weights,
            "seeds": seeds,
            "batch_size": self.batch_size,
            "noise": noise,
            "emphasis": emphasis,
        }

    def _mi_and_elbo(self, z: Tensor, condition: Condition, seeds: list[int]) -> tuple[Tensor, ...]:
        form = self.settings["mi_image"]["form"]
        both = mi_and_elbo(self.denoiser, z, condition, form=form, **self._noising("mi_image", seeds))
        return tuple(estimate.value for estimate in both)

    def _mi_image(self, z: Tensor, condition: Condition, seeds: list[int]) -> tuple[Tensor, ...]:
        return self._mi_and_elbo(z, condition, seeds)[:1]

    def _elbo(self, z: Tensor, condition: Condition, seeds: list[int]) -> tuple[Tensor, ...]:
        return (elbo(self.denoiser, z, condition, **self._noising("elbo", seeds)),)

    def _llr_image(self, z: Tensor, condition: Condition, seeds: list[int]) -> tuple[Tensor, ...]:
        noising, settings = self._noising("llr_image", seeds), self.settings["llr_image"]
        del noising["noise"], noising["weights"]  # always a path, with its own weights
        own = {"paths": settings["paths"], "guidance": settings["guidance"]}
        return (llr_image(self.denoiser, z, condition, **own, **noising),)

    def _cas(self, z: Tensor, condition: Condition, seeds: list[int]) -> tuple[Tensor, ...]:
        own = self.settings["cas"]
        return (cas(self.denoiser, z, condition, seeds, batch_size=self.batch_size, **own).total,)

    _PASSES: ClassVar[dict[tuple[str, ...], Callable[..., tuple[Tensor, ...]]]] = {
        ("mi_image", "elbo"): _mi_and_elbo,
        ("mi_image",): _mi_image,
        ("elbo",): _elbo,
        ("llr_image",): _llr_image,
        ("cas",): _cas,
    }

    def _contrast(self, z: Tensor, texts: list[str], seeds: list[int]) -> Tensor:
        others = [self.edits(text) for text in texts]
        return contrast(self.denoiser, z, texts, others, **self._noising("contrast", seeds))

    def edits(self, text: str) -> list[str]:
        """The other prompts that ``contrast`` tells a prompt from. Raises UserError when there are none."""
        if text not in self._edits:
            settings = self.settings["contrast"]
            self._edits[text] = negatives(
                settings["negatives"],
                [text],
                settings["edits"],
                self._pool,
                self._given,
                self.seed,
                tuple(settings["kinds"]),
                self._miner,
            )[0]
        return self._edits[text]


def check_oracle(names: Sequence[str], texts: Sequence[str], key: str, combined: str = "") -> None:
    """Raise UserError if the oracle is to judge a prompt that is none of the embedded world's."""
    if "oracle" not in scorers_of(names, combined):
        return
    from mitune.worlds.shapes import parse_prompt

    for text in texts:
        try:
            parse_prompt(text)
        except ValueError as error:
            others = ",".join(name for name in names if "oracle" not in scorers_of([name], combined))
            raise UserError(
                f"{key}: the oracle judges prompts of the embedded world only, not {text!r}; say {key}=[{others}]"
            ) from error


def check_judges(names: Sequence[str], texts: Sequence[str], key: str, settings: Mapping[str, Any]) -> None:
    """Whether those who judge pictures can: the oracle these prompts, the referees at all. No weights are read.

    ``settings``: section ``scorer``. Raises UserError.
    """
    check_oracle(names, texts, key, settings["combined"])
    for name in scorers_of(names, settings["combined"]):
        if name in REFEREES:
            load_reward(name, OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings)  # type: ignore[arg-type]


def check_no_path(names: Sequence[str], key: str, combined: str = "", there: Sequence[str] = ()) -> None:
    """Raise UserError if a score of the sampler's path is asked of finished pictures; ``there``: columns they have."""
    for name in scorers_of(names, combined):
        if name in PATH_SCORERS and name not in there:
            raise UserError(
                f"{key}: {name} is measured on the sampler's own path, and a finished picture has none; use"
                f" {ON_PICTURES[name]}"
            )
