"""GenEval's judge: a detector with masks, and a CLIP that tells the colours of what it found."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mitune.errors import naming, short
from mitune.referees.catalogue import COUNTING_CONFIDENCE, GENEVAL_CONFIDENCE, GenevalConfig
from mitune.referees.clip import Clip
from mitune.referees.coco import NAMES as COCO
from mitune.referees.detection import Detection
from mitune.referees.detector_judge import ALL
from mitune.referees.detectors import open_detector
from mitune.referees.geneval import (
    COLOURS,
    TEMPLATES,
    Request,
    Verdict,
    classes_of,
    judged,
    kept,
    named,
    request_of,
)
from mitune.referees.judge_files import find_judge
from mitune.referees.pairs import check_pairs

_GREY = 0x99 / 255  # what stands in the place of what is not the object
_OFFICIAL = "mask2former"
_LABELS = {named(name): name for name in COCO}

Need = tuple[int, str, int]
"""Row of a picture, an object's name, and of how many of them the colours are asked for."""


class GenevalReward:
    """Judges whether all that was asked for is there, 1 or 0, as GenEval does; it cannot be differentiated.

    The benchmark's own figures are by mmdet's Mask2Former (Swin-S, COCO instances) and OpenAI's CLIP ViT-L/14; the
    detectors of transformers have other weights. Raises UserError: settings out of bounds, no such model.
    """

    name = "geneval"
    differentiable = False

    def __init__(self, settings: GenevalConfig, device: torch.device | str) -> None:
        settings.check("scorer.geneval.")
        self.settings = settings
        detector = find_judge(settings.detector, "scorer.geneval.detector", settings.revision)
        self.detector = open_detector(detector, ALL, device, settings.batch_size)
        self.clip = Clip(find_judge(settings.clip, "scorer.geneval.clip"), device, settings.batch_size)

    @property
    def identity(self) -> str:
        """Both models, and what is not as GenEval has it."""
        parts = [f"{self.detector.source.identity} + {self.clip.source.identity}"]
        own = self.settings
        if (own.confidence, own.counting_confidence) != (GENEVAL_CONFIDENCE, COUNTING_CONFIDENCE):
            parts.append(f"above {own.confidence:g}, counting above {own.counting_confidence:g}")
        if self.detector.source.configuration().get("model_type") != _OFFICIAL:
            parts.append(f"by {self.detector.title} in Mask2Former's place")
        return ", ".join(parts)

    def check(self, prompts: Sequence[str], key: str) -> None:
        """Raise UserError, naming ``key``, for a prompt that cannot be judged. No weights are read."""
        for prompt in prompts:
            with naming(key):
                self.check_request(request_of(prompt), prompt)

    def check_request(self, request: Request, prompt: str) -> None:
        """Raise UserError, naming ``prompt``, for an object that cannot be found. No weights are read."""
        self.detector.check_names(self._names(request), f"the prompt {short(prompt)!r}")

    def _names(self, request: Request) -> list[str]:
        """What the detector is to look for: COCO's names where it has labels of its own, else GenEval's."""
        names = classes_of(request)
        return [_LABELS.get(name, name) for name in names] if self.detector.labels else list(names)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 (1 or 0) of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt, which has
        one of GenEval's forms.
        """
        check_pairs(self.name, pictures, prompts)
        verdicts = self.verdicts(pictures, [request_of(prompt) for prompt in prompts])
        return torch.tensor([float(one.correct) for one in verdicts], device=pictures.device)

    def detailed(
        self, pictures: Tensor, prompts: list[str], notes: Sequence[Request]
    ) -> list[dict[str, Any]]:
        """Judge pictures by the benchmark's own lines (``notes``): what its results say of each, and the ``value``."""
        check_pairs(self.name, pictures, prompts)
        found = self.verdicts(pictures, notes)
        return [
            {
                "value": float(one.correct),
                "correct": one.correct,
                "reason": one.reason,
                "details": one.details,
            }
            for one in found
        ]

    @torch.no_grad()
    def verdicts(self, pictures: Tensor, requests: Sequence[Request]) -> list[Verdict]:
        """Judge ``pictures`` [n, 3, H, W] in [0, 1], each by a line of GenEval's metadata.

        UserError for an object that the detector cannot find.
        """
        for request in requests:
            self.check_request(request, str(request.get("prompt", "")))
        names = [self._names(request) for request in requests]
        least = min(self.settings.confidence, self.settings.counting_confidence)
        seen = self.detector.detect(pictures, names, least)
        found = [kept(one, self._least(request)) for one, request in zip(seen, requests, strict=True)]
        colours = self._colours(pictures, _needs(requests, found), found)
        return [
            judged(request, own, functools.partial(_said, colours, row))
            for row, (request, own) in enumerate(zip(requests, found, strict=True))
        ]

    def _least(self, request: Request) -> float:
        counting = request.get("tag") == "counting"
        return self.settings.counting_confidence if counting else self.settings.confidence

    def _colours(
        self, pictures: Tensor, needs: Sequence[Need], found: Sequence[dict[str, list[Detection]]]
    ) -> dict[Need, list[str]]:
        """The colours of objects, by what they are asked for."""
        things = [(need, one) for need in needs for one in found[need[0]][need[1]][: need[2]]]
        said: dict[Need, list[str]] = {need: [] for need in needs}
        size = self.settings.batch_size
        for start in range(0, len(things), size):
            part = things[start : start + size]
            inputs = torch.cat([self.clip.preprocess(_cut_out(pictures[need[0]], one)) for need, one in part])
            features = self.clip.embedded(inputs.to(self.clip.device))
            for (need, _), feature in zip(part, features, strict=True):
                said[need].append(COLOURS[int((self._classes(need[1]) @ feature).argmax())])
        return said

    def _classes(self, name: str) -> Tensor:
        """The features [colours, d] of what is said of an object of each colour."""
        texts = [form.format(colour=colour, name=name) for colour in COLOURS for form in TEMPLATES]
        features = self.clip.text_features(texts).view(len(COLOURS), len(TEMPLATES), -1)
        return functional.normalize(features.mean(1), dim=-1)


def _needs(requests: Sequence[Request], found: Sequence[dict[str, list[Detection]]]) -> list[Need]:
    """Whose colours are asked for: of clauses that say one, where there are enough objects."""
    needs = [
        (row, clause["class"], clause["count"])
        for row, (request, own) in enumerate(zip(requests, found, strict=True))
        for clause in request.get("include", ())
        if "color" in clause and len(own.get(clause["class"], ())) >= clause["count"]
    ]
    return list(dict.fromkeys(needs))


def _said(colours: Mapping[Need, Sequence[str]], row: int, name: str, count: int) -> Sequence[str]:
    return colours[row, name, count]


def _cut_out(picture: Tensor, thing: Detection) -> Tensor:
    """The part [1, 3, h, w] of a picture that an object's box holds, grey around the object where it has a mask."""
    levels = (picture.detach().clamp(0, 1) * 255).round() / 255
    if thing.mask is not None:
        levels = torch.where(thing.mask.to(levels.device), levels, levels.new_tensor(_GREY))
    left, top, right, bottom = map(round, thing.box)
    height, width = picture.shape[-2:]
    left, top = min(left, width - 1), min(top, height - 1)
    return levels[None, :, top : max(bottom, top + 1), left : max(right, left + 1)]


def check_prompts(texts: Sequence[str], settings: GenevalConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that ``geneval`` cannot judge."""
    GenevalReward(settings, "cpu").check(texts, key)
