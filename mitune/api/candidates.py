"""Candidates that were drawn, with their scores, and the training set that is chosen among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mitune.api.asking import Score, name_of
from mitune.api.pictures import images
from mitune.data import dataset as datasets
from mitune.data.selection import choose
from mitune.data.settings import SelectConfig
from mitune.data.store import LATENT_ROW, UNIT, CandidateStore, Unit
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import COMBINED
from mitune.stages.candidates import decode_each, decode_latents
from mitune.stages.settings import GenerateConfig
from mitune.stages.units import bind_model

if TYPE_CHECKING:
    from PIL.Image import Image

    from mitune.api.model import Model

_STORED = ["kept", UNIT, LATENT_ROW]


@dataclass(eq=False)
class TrainingSet:
    """Holds chosen pictures, for :meth:`mitune.Model.train`.

    Attributes:
        dataset: a ``datasets.Dataset`` as the stage ``select`` writes it: image, text, latent, score, scores, seed,
            candidate, prompt_id, category, preferred, weight, ….
        by: the score that chose.
        candidates: M, of each prompt.
    """

    dataset: Any
    by: str
    candidates: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} pictures, chosen by {self.by} among {self.candidates} a prompt)"

    def save(self, folder: str | Path) -> None:
        """Write the set to ``folder``, atomically; ``datasets.load_from_disk(folder)`` reads it.

        Raises UserError where the disk refuses.
        """
        datasets.save(self.dataset, Path(folder))


@dataclass(eq=False)
class Candidates:
    """Holds pictures that a model drew, with their scores.

        candidates = model.draw(["a red circle"], candidates=8)
        candidates.table.sort_values("contrast")
        candidates.images(candidates.best("contrast"))[0].show()

    Attributes:
        model: the model that drew them.
        seed: of the run.
        latents: [n, …] float32 on the CPU, row by row of the table.
        scores: what was asked for, functions by their names.
        sampler: how they were drawn.
        judges: identity by name, of the judges that are not the model itself.
    """

    model: Model
    seed: int
    latents: Tensor
    scores: tuple[str, ...]
    sampler: SamplerConfig
    judges: dict[str, str]
    _units: Sequence[Unit]
    _rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Candidates({len(self)} of {self._rows['prompt_id'].nunique()} prompts)\n{self.table}"

    @property
    def table(self) -> pd.DataFrame:
        """A row a candidate: prompt_id, prompt, category, candidate, seed, and one column a score (higher = better)."""
        return self._rows.drop(columns=_STORED)

    def best(self, by: Score, k: int = SelectConfig.k) -> pd.DataFrame:
        """Give the rows of the ``k`` best candidates of each prompt by a score, a sum of scores, or a function of
        yours that was asked for. Raises UserError as :meth:`select`.
        """
        rows = self._chosen(by, SelectConfig(k=k))
        return self.table.loc[rows[LATENT_ROW]]

    def pictures(self, rows: pd.DataFrame | Iterable[int] | None = None) -> Tensor:
        """Give pictures [n, 3, H, W] float32 in [0, 1] on the CPU: of some rows of the table, or of all."""
        latents = self.latents
        if rows is not None:
            latents = latents[
                torch.tensor([*(rows.index if isinstance(rows, pd.DataFrame) else rows)], dtype=torch.long)
            ]
        if not len(latents):
            return torch.empty(0, 3, *self.model.denoiser.picture_size)
        return torch.stack(decode_latents(latents, self.model.denoiser, GenerateConfig.batch_size))

    def each_picture(self) -> Iterator[Tensor]:
        """Give the pictures [3, H, W] of all rows one by one: a batch of them is in memory."""
        yield from decode_each(self.latents.split(GenerateConfig.batch_size), self.model.denoiser)

    def images(self, rows: pd.DataFrame | Iterable[int] | None = None) -> list[Image]:
        """Give the same as PIL images."""
        return images(self.pictures(rows))

    def select(
        self,
        by: Score = SelectConfig.by,
        k: int = SelectConfig.k,
        *,
        losers: int = SelectConfig.losers,
        threshold: float | None = SelectConfig.threshold,
        fraction: float = SelectConfig.fraction,
        balance: bool = SelectConfig.balance,
        difficulty: float = SelectConfig.difficulty,
    ) -> TrainingSet:
        """Choose the training set, as the stage ``select`` does.

        Args:
            by: the score that chooses; a weighted sum such as ``z(contrast)+z(elbo)``, a function of yours whose column
                is there, or ``random``.
            k: winners of each prompt.
            losers: its worst ones beside them, for an objective that learns from both.
            threshold: lowest score of a winner.
            fraction: share of the prompts kept, the clearest.
            balance: as many prompts of every category.
            difficulty: how much more hard prompts count.

        Raises UserError: no such column, k + losers above the candidates of a prompt, a value out of its bounds.
        """
        settings = SelectConfig(
            k=k, losers=losers, threshold=threshold, fraction=fraction, balance=balance, difficulty=difficulty
        )
        rows = self._chosen(by, settings)
        latents = self.latents[torch.tensor(rows[LATENT_ROW].tolist(), dtype=torch.long)]
        pictures = decode_latents(latents, self.model.denoiser, GenerateConfig.batch_size)
        number, identity = self.model.rounds + 1, self.model.identity
        training = datasets.build(rows, pictures, latents, round=number, model=identity)
        return TrainingSet(training, self._column(by), self._units[0].candidates_per_prompt)

    def save(self, folder: str | Path) -> None:
        """Write all candidates to ``folder`` as the stage ``generate`` does, so that ``mitune score`` and ``mitune
        agree`` read them. Raises UserError for a folder that holds others, or where the disk refuses.
        """
        store = CandidateStore(folder)
        store.bind(self._units)
        bind_model(store.folder, self.model.identity, "pictures of", "folder", self.judges)
        for unit in self._units:
            rows = self._rows[self._rows[UNIT] == unit.index]
            table = rows.drop(columns=[UNIT, LATENT_ROW])
            store.write_unit(
                unit,
                {name: table[name].tolist() for name in table},
                self.latents[rows[LATENT_ROW].tolist()],
            )

    def _chosen(self, by: Score, settings: SelectConfig) -> pd.DataFrame:
        settings.check("select.")
        return choose(self._rows, self._column(by), settings, self.seed)

    def _column(self, by: Score) -> str:
        """What the table can be ordered by: ``combined`` stands for its sum where it has no column."""
        name = by if isinstance(by, str) else name_of(by)
        return self.model.scorer.combined if name == COMBINED and name not in self._rows else name
