"""Scorers by name: what each needs (the sampler's path, the final latent, the picture) and how it is computed.

Every column is higher = better aligned. ``mi``, ``mi_continuous`` and ``llr`` are free on the path; ``elbo`` and
``contrast`` cost forwards on forward noise; ``oracle`` (with its column ``exact``) judges pictures of the embedded
world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.config import LATENT_SCORERS, PATH_SCORERS, PICTURE_SCORERS, SCORERS
from mitune.denoiser import Denoiser
from mitune.errors import UserError, nearest
from mitune.information.contrast import contrast
from mitune.information.edits import EditMiner
from mitune.information.elbo import elbo, time_grid
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI


class Scoring:
    """The scores that a set of candidates gets.

    Args:
        names: scorers, of :data:`mitune.config.SCORERS`.
        settings: mapping ``scorer name -> parameters`` (section ``scorer`` of the configuration).
        denoiser: the model that judges (the one that draws).
        pool: prompts in which ``contrast`` finds its edits.
        seed: of the edits.
        batch_size: rows of a forward when noise is put on pictures.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Mapping[str, Any],
        denoiser: Denoiser,
        pool: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 96,
    ) -> None:
        for name in names:
            if name not in SCORERS:
                raise UserError(
                    f"there is no scorer '{name}'{nearest(name, SCORERS)}; choose among {', '.join(SCORERS)}"
                )
        self.names = tuple(names)
        self.settings = settings
        self.denoiser = denoiser
        self.batch_size = batch_size
        self._miner = EditMiner(pool, seed) if "contrast" in names else None
        self._edits: dict[str, list[str]] = {}

    def observers(self) -> list[Any]:
        """Fresh observers of one batch's path."""
        makers = {
            "mi": lambda: self._path_mi("paper"),
            "mi_continuous": lambda: self._path_mi("continuous"),
            "llr": PathLLR,
        }
        return [makers[name]() for name in self.names if name in PATH_SCORERS]

    def _path_mi(self, weighting: str) -> PathMI:
        return PathMI(self.denoiser.schedule, weighting, self.settings["mi"]["t_min"])

    def on_latents(self, latents: Tensor, texts: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
        """Scores of final latents [n, …] for their own prompts, by noise drawn from their own seeds: each [n]."""
        return {
            name: getattr(self, f"_{name}")(latents, list(texts), list(seeds))
            for name in self.names
            if name in LATENT_SCORERS
        }

    def on_pictures(self, pictures: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Scores of pictures [n, 3, H, W] in [0, 1] for their own prompts: each [n]."""
        if "oracle" not in self.names:
            return {}
        from mitune.worlds.shapes import oracle_scores

        scores = torch.as_tensor(oracle_scores(pictures, list(texts)))
        return {"oracle": scores, "exact": (scores == 1.0).double()}

    @property
    def needs_pictures(self) -> bool:
        return any(name in PICTURE_SCORERS for name in self.names)

    def _elbo(self, latents: Tensor, texts: list[str], seeds: list[int]) -> Tensor:
        settings = self.settings["elbo"]
        t, weights = time_grid(
            self.denoiser.schedule, settings["times"], settings["t_min"], settings["t_max"]
        )
        condition = self.denoiser.encode_prompts(texts)
        return elbo(
            self.denoiser,
            latents,
            condition,
            t,
            weights,
            seeds,
            batch_size=self.batch_size,
            noise=settings["noise"],
        )

    def _contrast(self, latents: Tensor, texts: list[str], seeds: list[int]) -> Tensor:
        settings = self.settings["contrast"]
        t, weights = time_grid(
            self.denoiser.schedule, settings["times"], settings["t_min"], settings["t_max"]
        )
        negatives = [self.edits(text) for text in texts]
        return contrast(
            self.denoiser,
            latents,
            texts,
            negatives,
            t,
            weights,
            seeds,
            batch_size=self.batch_size,
            noise=settings["noise"],
        )

    def edits(self, text: str) -> list[str]:
        """The minimal edits that ``contrast`` tells a prompt from. Raises UserError when the pool yields none."""
        if self._miner is None:
            return []
        if text not in self._edits:
            settings = self.settings["contrast"]
            found = self._miner.edits(text, settings["edits"], kinds=tuple(settings["kinds"]))
            if not found:
                raise UserError(
                    f"contrast finds no edit of the prompt {text!r} among the prompts given; give more prompts, or"
                    " choose another score with select=mi and scorers=[mi,llr]"
                )
            self._edits[text] = [edit.text for edit in found]
        return self._edits[text]


def check_oracle(names: Sequence[str], texts: Sequence[str], key: str) -> None:
    """Raise UserError if the oracle is to judge a prompt that is none of the embedded world's."""
    if "oracle" not in names:
        return
    from mitune.worlds.shapes import parse_prompt

    for text in texts:
        try:
            parse_prompt(text)
        except ValueError as error:
            others = ",".join(name for name in names if name != "oracle")
            raise UserError(
                f"{key}: the oracle judges prompts of the embedded world only, not {text!r}; say {key}=[{others}]"
            ) from error
