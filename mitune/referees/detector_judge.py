"""What judges that count and place what a detector finds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mitune.errors import naming, short
from mitune.referees.catalogue import LookConfig
from mitune.referees.detection import Detection
from mitune.referees.detectors import open_detector
from mitune.referees.judge_files import find_judge
from mitune.referees.pairs import check_pairs
from mitune.referees.placement import framed

# What may stand behind a name that ends as these do.
FAMILIES = {
    "owlv2": ("owlv2",),
    "grounding_dino": ("grounding-dino",),
    "detr": ("detr", "rt_detr_v2", "d_fine", "mask2former"),
}
ALL = tuple(kind for kinds in FAMILIES.values() for kind in kinds)


class DetectorReward(ABC):
    """Judges pictures by a rule on what a detector finds in them; it cannot be differentiated.

    Args:
        name: of the judge.
        settings: its keys.
        device: where the detector computes.
        place: the section of keys that names the detector (default: the judge's own).
        kinds: the ``model_type`` that the detector may have (default: by the judge's name).

    Raises UserError: settings out of bounds, no such detector.
    """

    differentiable = False

    def __init__(
        self,
        name: str,
        settings: LookConfig,
        device: torch.device | str,
        place: str | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        self.name, self.settings = name, settings
        key = place or f"scorer.{name}.path"
        settings.check(f"{key.rpartition('.')[0]}.")
        own = kinds or next(kinds for family, kinds in FAMILIES.items() if name.endswith(family))
        source = find_judge(settings.path, key, settings.revision)
        self.detector = open_detector(source, own, device, settings.batch_size)

    @property
    def confidence(self) -> float:
        """The least confidence of an object."""
        own = self.settings.confidence
        return self.detector.usual if own is None else own

    @property
    def identity(self) -> str:
        """The detector, and from which confidence on it is believed."""
        return f"{self.detector.source.identity} above {self.confidence:g}"

    @abstractmethod
    def asked(self, prompt: str) -> Any:
        """Read what a prompt asks for. Raises UserError where that is nothing that is judged here."""

    @abstractmethod
    def names(self, asked: Any) -> tuple[str, ...]:
        """Name what the detector has to look for."""

    @abstractmethod
    def judged(self, asked: Any, found: Sequence[Detection], beside: Any) -> float:
        """Score a picture by what was ``found`` in it, its boxes as the benchmark measures them, and by what else
        :meth:`beside` saw there.
        """

    def beside(self, pictures: Tensor) -> Sequence[Any]:
        """Look at ``pictures`` otherwise than by the detector: something of each."""
        return [None] * len(pictures)

    def check_names(self, names: Sequence[str], where: str) -> None:
        """Raise UserError, naming ``where``, for something that the detector cannot find."""
        self.detector.check_names(names, where)

    def check(self, prompts: Sequence[str], key: str) -> None:
        """Raise UserError, naming ``key``, for a prompt that cannot be judged. No weights are read."""
        for prompt in prompts:
            with naming(key):
                self.check_names(self.names(self.asked(prompt)), f"the prompt {short(prompt)!r}")

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        return torch.tensor(self.values(pictures, prompts), dtype=torch.float32, device=pictures.device)

    def detailed(
        self, pictures: Tensor, prompts: list[str], notes: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Give the ``value`` of each picture with all of its digits, as a benchmark's files have it."""
        return [{"value": value} for value in self.values(pictures, prompts)]

    def values(self, pictures: Tensor, prompts: list[str]) -> list[float]:
        """Scores as :meth:`score` gives them, with all of their digits."""
        check_pairs(self.name, pictures, prompts)
        self.check(list(dict.fromkeys(prompts)), self.name)
        asked = [self.asked(prompt) for prompt in prompts]
        names = [self.names(one) for one in asked]
        look = [row for row, own in enumerate(names) if own]
        found: dict[int, list[Detection]] = {}
        if look:
            seen = self.detector.detect(pictures[look], [names[row] for row in look], self.confidence)
            found = dict(zip(look, seen, strict=True))
        size = (pictures.shape[-2], pictures.shape[-1])
        values = []
        for row, (one, more) in enumerate(zip(asked, self.beside(pictures), strict=True)):
            own = [replace(thing, box=framed(thing.box, *size)) for thing in found.get(row, ())]
            values.append(self.judged(one, own, more))
        return values
