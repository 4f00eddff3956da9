"""A unit that was begun: its finished batches lie beside the finished units, so that a command told to leave loses the
batch in hand at most.

They are one safetensors file, ``begun-000003.safetensors``: the latents, seeds and scores of the first candidates of
the unit, and a note of the model, of how they were drawn and scored, and of what they took. It is gone once the unit is
finished, so nobody but the command that draws ever reads it; one that does not fit is not used.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

import safetensors
import torch
from torch import Tensor

from mitune.data.store import CandidateStore, Look, Unit
from mitune.digests import FILES, intact, seal, sha256_of
from mitune.errors import UserError
from mitune.files import user_errors, write_tensors
from mitune.reading import check_regular
from mitune.stages.units import CostCounter

EVERY = 60.0  # seconds between two saves: what a process that is killed without a word loses beside its batch
_SCORE = "score."  # the beginning of a score's name in the file


@dataclass(frozen=True, eq=False)
class Batch:
    """Holds some candidates of a unit, drawn and scored: on the CPU, ``latents`` [n, …] and each score [n]."""

    seeds: list[int]
    latents: Tensor
    scores: dict[str, Tensor]


class BegunUnit:
    """Keeps the finished batches of a unit while it is drawn, in their order.

    Args:
        store: where the unit will be.
        unit: which one.
        model: the identity of what draws.
        how: a digest of what else the batches depend on: how they are drawn and scored.
        counter: of what it takes.
    """

    def __init__(self, store: CandidateStore, unit: Unit, model: str, how: str, counter: CostCounter) -> None:
        self.path = store.begun_path(unit.index)
        self._made_by, self.counter = {"model": model, "how": how}, counter
        self.batches: list[Batch] = []
        self._cost: dict[str, Any] = {}
        self._saved, self._when = 0, time.monotonic()

    def resume(self, seeds: list[int]) -> int:
        """Take up what an earlier command drew of the candidates that start from ``seeds``; gives how many it was."""
        found = self._read()
        if found is None or found[0].seeds != seeds[: len(found[0].seeds)]:
            return 0
        batch, self._cost = found
        self.batches, self._saved = [batch], 1
        self.counter.add(self._cost)
        return len(batch.seeds)

    def add(self, batch: Batch) -> None:
        """Keep another batch, and save where that was long ago."""
        self.batches.append(batch)
        self._cost = self.counter.read()
        if time.monotonic() - self._when > EVERY:
            self.save()

    def save(self) -> None:
        """Write down the batches, if there are others than those written. Raises UserError if the disk refuses."""
        if len(self.batches) == self._saved:
            return
        tensors = {
            "latents": torch.cat([batch.latents for batch in self.batches]),
            "seeds": torch.tensor([seed for batch in self.batches for seed in batch.seeds]),
        }
        for name in self.batches[0].scores:
            tensors[_SCORE + name] = torch.cat([batch.scores[name] for batch in self.batches])
        # A file's tensors have no order; a table's columns have.
        note = {**self._made_by, "scores": [*self.batches[0].scores], "cost": self._cost}
        note |= {FILES: _digests(tensors)}
        write_tensors(self.path, tensors, {"note": json.dumps(seal(note))})
        self._saved, self._when = len(self.batches), time.monotonic()

    def finish(self) -> None:
        """Remove the file: the unit is on disk."""
        with user_errors(self.path):
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[Batch, dict[str, Any]] | None:
        """The batches on disk as one, and what they took; None where there are none, or not as they were written."""
        try:
            check_regular(self.path)
            with safetensors.safe_open(self.path, framework="pt") as file:
                note = json.loads((file.metadata() or {})["note"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (UserError, OSError, ValueError, KeyError, safetensors.SafetensorError):
            return None
        if not intact(note) or note.get(FILES) != _digests(tensors):
            return None
        if any(note.get(name) != value for name, value in self._made_by.items()):
            return None
        scores = {name: tensors[_SCORE + name] for name in note["scores"]}
        return Batch(tensors["seeds"].tolist(), tensors["latents"], scores), note["cost"]


def _digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: sha256_of(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }


def clear_begun(store: CandidateStore, look: Look) -> None:
    """Remove the batches of units that are finished: a kill came between. Main process only."""
    finished = {store.begun_path(index) for index in look.whole}
    for path in finished.intersection(store.folder.glob("begun-*")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
