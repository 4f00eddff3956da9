"""The keys of balanced generation, with the ways to balance the phrases of a prompt, and those of editing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mitune.errors import UserError
from mitune.parts import Catalogue, Part
from mitune.pixels.catalogue import SOURCES
from mitune.settings import CANDIDATES, ROUNDS, SEED, Settings, key


@dataclass(frozen=True)
class Balance(Part):
    """A way to balance phrases: its code makes a denoiser of a denoiser and a ``SamplerConfig``.

    Attributes:
        sets: the values that keys of ``BalancingConfig`` have where they are null; a key that is in no row of its own
            is none of its keys.
        asks: the network is asked more than a plain walk asks it.
        gradient: the walk is moved along a gradient through the network, so that its path has no density.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    asks: bool = False
    gradient: bool = False


BALANCES = Catalogue(
    "sampler.balance",
    Balance("elbo", "at each step the phrases that the picture lacks are told louder (Zhou et al. 2025)",
            "mitune.pixels.balance:ByGap", sets={"strength": 1.2, "share": 1.0}, asks=True),
    Balance("uniform", "every phrase is told louder, always alike: elbo's control, without its cost",
            "mitune.pixels.balance:Uniform", sets={"strength": 1.1, "share": 1.0}),
    Balance("attend_excite", "the noisy picture is moved to where the least attended phrase is attended more (Chefer et"
            " al. 2023)", "mitune.pixels.excitation:Excited", asks=True, gradient=True,
            sets={"share": 0.5, "step": 20.0, "thresholds": [0.05, 0.5, 0.8], "refinements": 20}),
)  # fmt: skip


@dataclass
class BalancingConfig(Settings):
    """Set how ``sampler.balance`` balances; null is as the method has it."""

    strength: float | None = key(
        None, "how much louder: 1.2 of elbo (the weakest phrase), 1.1 of uniform (each)", above=0, high=10
    )
    share: float | None = key(
        None, "of the steps, from the first: all of elbo and uniform, half of attend_excite", above=0, high=1
    )
    phrases: str | None = key(None, "how the phrases of a prompt are found (null: auto)", choices=SOURCES)
    step: float | None = key(
        None, "attend_excite: how far along the gradient at the first step; 0.7 of it at the last (null: 20)",
        above=0, high=1e6,
    )  # fmt: skip
    thresholds: list[float] | None = key(
        None,
        "attend_excite: the attention that every phrase has to reach at 0, 0.2 and 0.4 of the steps (null: [0.05, 0.5,"
        " 0.8])",
        low=0,
        high=1,
        sizes=3,
    )
    refinements: int | None = key(
        None,
        "attend_excite: how often the picture is moved to reach one, at most (null: 20)",
        low=0,
        high=CANDIDATES,
    )

    def filled(self, balance: str) -> BalancingConfig:
        """Give the settings with the values of a way to balance in the place of nulls."""
        sets = {"phrases": "auto", **BALANCES[balance].sets}
        empty = {name: value for name, value in sets.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **empty)

    def foreign(self, balance: str | None) -> list[str]:
        """List the keys that are given and that ``balance`` does not read; None reads none."""
        own = {"phrases", *BALANCES[balance].sets} if balance else set()
        names = (item.name for item in dataclasses.fields(self))
        return [name for name in names if getattr(self, name) is not None and name not in own]

    def check_read(self, balance: str | None) -> None:
        """Raise UserError for a key that is given and that ``balance`` does not read."""
        if found := self.foreign(balance):
            readers = [name for name in BALANCES if found[0] not in self.foreign(name)]
            raise UserError(
                f"sampler.balancing.{found[0]}={getattr(self, found[0])}: nothing reads it with"
                f" sampler.balance={balance or 'null'}; leave it out, or say sampler.balance={' or '.join(readers)}"
            )


# -- editing -----------------------------------------------------------------------------------------------------------

MODES = {
    "auto": "reweight where the prompts are the same, replace where their words have equally many tokens, else refine",
    "replace": "every word of the target looks where the source's word at its place does",
    "refine": "words that both have look where they did, new ones look for themselves",
    "reweight": "refine, with edit.phrase looked at edit.weight times as much",
}


@dataclass
class EditConfig(Settings):
    """Changing what was asked in a picture, and nothing else (Prompt-to-Prompt, Hertz et al. 2022)."""

    source: str | None = key(None, "the prompt of the picture as it is", basic=True)
    target: str | None = key(None, "the prompt of the picture as it shall be", basic=True)
    pairs: str | None = key(
        None,
        "instead of one edit a table of them (.jsonl, .csv, …): source, target, and maybe picture, seed, mode, phrase,"
        " weight",
        path=True,
        basic=True,
    )
    picture: str | None = key(
        None, "a picture of edit.source to edit (default: one is drawn)", path=True, basic=True
    )
    picture_seed: int | None = key(
        None, "draw the picture of this seed, as metadata.jsonl of a sample names it", low=0, high=SEED
    )
    number: int = key(0, "draw candidate number so many of edit.source", low=0, high=CANDIDATES)
    mode: str = key("auto", "how the two prompts' attention goes together", choices=MODES, basic=True)
    phrase: str | None = key(
        None, "words whose part of the picture changes (default: the phrases that differ)", basic=True
    )
    weight: float | None = key(
        None, "reweight: how much edit.phrase is looked at (1: as it is)", low=-100, high=100, basic=True
    )
    cross_share: float = key(
        0.8, "share of the steps, the first, in which the words look where the source's do", low=0, high=1
    )
    self_share: float = key(
        0.4,
        "share of the steps, the first, in which the picture looks at itself as the source does",
        low=0,
        high=1,
    )
    blend: bool = key(True, "keep the source outside of the part that changes", basic=True)
    threshold: float = key(
        0.6, "blend: a place changes where its map reaches this share of the map's highest", above=0, high=1
    )
    scorers: list[str] = key([], "scores of the target prompt that the pictures get, before and after")
    round: int | None = key(
        None,
        "edit with the adapter of this round of run= (default: the last that is trained; 0: the base model)",
        low=0,
        high=ROUNDS,
    )
    rows_per_unit: int = key(32, "edits a file; what a killed command loses at most", low=1, high=CANDIDATES)
    out: str | None = key(
        None, "the folder to write (default: a numbered one, RUN/edits/001 and on)", path=True, basic=True
    )
