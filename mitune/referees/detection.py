"""What a detector finds in a picture, and what all detectors here have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, listed, nearest, short
from mitune.reading import reading
from mitune.referees.coco import usual_names
from mitune.referees.judge_files import JudgeSource
from mitune.referees.networks import open_network
from mitune.referees.preprocess import to_images

COMPUTED = re.compile(r"(^|\.)(position_ids|relative_position_index|num_batches_tracked)$")
"""Names of what older folders hold beside the weights: the networks compute it, or have no use for it."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in px, from the top left corner of the picture."""


@dataclass(frozen=True)
class Detection:
    """An object that a detector found in a picture of [H, W] px.

    Attributes:
        label: what it is.
        confidence: how sure the detector is, 0 to 1.
        box: where it is.
        mask: [H, W] bool, its pixels; None of a detector that gives boxes alone.
    """

    label: str
    confidence: float
    box: Box
    mask: Tensor | None = None


class Detector(ABC):
    """Finds objects in pictures, by a transformers folder; the network is read at the first picture.

    Args:
        source: where the model is.
        device: where it computes, in float32.
        batch_size: pictures a forward.
    """

    title: str
    """What such a model is called, in messages."""
    network: str
    """The class of transformers that opens it."""
    processor: str
    """The class of transformers that prepares its pictures."""
    usual: float
    """The least confidence of an object where nothing else is said: the model's authors' own."""

    def __init__(self, source: JudgeSource, device: torch.device | str, batch_size: int) -> None:
        self.source, self.device, self.batch_size = source, torch.device(device), batch_size
        source.preprocessing()  # refuses a folder without one before anything is drawn

    @property
    def labels(self) -> tuple[str, ...]:
        """All that it can find; () where it is told names."""
        return ()

    @cached_property
    def model(self) -> Any:
        """The network, frozen."""
        import transformers

        kind = getattr(transformers, self.network)
        return open_network(kind, self.source, self.title, self.device, missing=COMPUTED)

    @cached_property
    def _processor(self) -> Any:
        """The model's own preparation of pictures, by PIL on every machine: with torchvision it gives other numbers."""
        import transformers

        folder = self.source.open()
        with reading(f"{self.source.key}={self.source.name}: preprocessor_config.json", "fetch it again"):
            return getattr(transformers, self.processor).from_pretrained(folder)

    def _prepared(self, pictures: Tensor) -> dict[str, Tensor]:
        """The network's inputs of ``pictures`` [n, 3, H, W], rounded to whole levels as in a file."""
        inputs = self._processor(images=to_images(pictures), return_tensors="pt")
        return {name: value.to(self.device) for name, value in inputs.items()}

    def check_names(self, names: Sequence[str], where: str) -> None:
        """Raise UserError, naming ``where``, for a name that it cannot find."""
        for name in names:
            if self.labels and name not in self.labels:
                within = [label for label in self.labels if name in label.split() or label in name.split()]
                near = f", it knows {listed(within)}" if within else nearest(name, self.labels)
                raise UserError(
                    f"{where}: the {self.title} {self.source.key}={self.source.name} cannot find"
                    f" {short(name)!r} (it has {len(self.labels)} labels of its own{near}); take a detector that is"
                    " told names (OWLv2, Grounding DINO), or leave the prompt out"
                )

    @torch.no_grad()
    def detect(
        self, pictures: Tensor, names: Sequence[Sequence[str]], confidence: float
    ) -> Iterator[list[Detection]]:
        """Find objects in ``pictures`` [n, 3, H, W] in [0, 1]: a list for each, the most confident first.

        ``names``: of each picture, what to look for; a detector with labels of its own looks for all of them, and one
        that is told none finds none. ``confidence``: objects of a higher one are given.
        """
        looked = [bool(own or self.labels) for own in names]
        seen = self._seen(pictures, names, [row for row, one in enumerate(looked) if one], confidence)
        for one in looked:
            yield next(seen) if one else []

    def _seen(
        self, pictures: Tensor, names: Sequence[Sequence[str]], rows: Sequence[int], confidence: float
    ) -> Iterator[list[Detection]]:
        """The objects of these ``rows``, the most confident first."""
        size = (pictures.shape[-2], pictures.shape[-1])
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            inputs = self._prepared(pictures[part])
            for found in self._found(inputs, [names[row] for row in part], size, confidence):
                yield sorted(found, key=lambda one: -one.confidence)  # stable

    @abstractmethod
    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        """The objects of each picture of ``size`` (height, width), in any order."""


class LabelledDetector(Detector):
    """Has labels of its own, by its ``config.json``. Raises UserError where that names none."""

    def __init__(self, source: JudgeSource, device: torch.device | str, batch_size: int) -> None:
        super().__init__(source, device, batch_size)
        told = source.configuration().get("id2label")
        if not isinstance(told, dict) or not told or not all(key.isdecimal() for key in told):
            raise UserError(
                f"{source.key}={source.name}: its config.json names no labels (id2label); take a whole {self.title}"
                " folder"
            )
        numbers = [int(key) for key in told]
        self._names = dict(zip(numbers, usual_names([str(label) for label in told.values()]), strict=True))

    @property
    def labels(self) -> tuple[str, ...]:
        """All that it can find, by COCO's usual names."""
        return tuple(dict.fromkeys(name for name in self._names.values() if name != "N/A"))


def corners(boxes: Tensor, size: tuple[int, int], square: bool = False) -> Tensor:
    """Boxes [..., 4] in px of a picture of ``size`` (height, width), of their middles and sizes as shares of it (or of
    the ``square`` around it); what lies outside of the picture is cut off.
    """
    height, width = size
    scale = boxes.new_tensor([max(size)] * 4 if square else [width, height, width, height])
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    edges = torch.cat((middle - half, middle + half), -1).float() * scale
    return torch.minimum(edges.clamp(min=0), scale.new_tensor([width, height, width, height]))


def as_box(edges: Tensor) -> Box:
    """Four numbers of a tensor as a box."""
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom
