"""T2I-CompBench's judge of complex prompts: BLIP-VQA for attributes, a detector for places, CLIP for actions.

Facts: Huang et al. 2023 and its public code (``3_in_1_eval/3_in_1.py``, ``CLIPScore_eval/CLIP_similarity.py``).
The benchmark's own figures have UniDet in the detector's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.english import words
from mitune.errors import naming, short
from mitune.referees.blip_vqa import BlipVqaReward
from mitune.referees.catalogue import BlipVqaConfig, PlacementConfig, ThreeInOneConfig
from mitune.referees.clip import Clip, ClipReward
from mitune.referees.detector_judge import ALL
from mitune.referees.judge_files import find_judge
from mitune.referees.pairs import check_pairs
from mitune.referees.phrases import of_the_world
from mitune.referees.placement import Asked, relation_of
from mitune.referees.placement_judge import WORLD, PlacementReward, asked_of
from mitune.worlds.shapes.grammar import ObjectSpec, PromptSpec

# By the list of the benchmark's complex prompts that one stands in: what is judged.
PARTS = {
    "spatial": ("attribute", "spatial"),
    "action": ("attribute", "action"),
    "both": ("attribute", "spatial", "action"),
}


def combined(about: str, attribute: float, spatial: float, action: float) -> float:
    """Join the scores of a picture, by what its prompt is ``about``: the mean of those that are asked for."""
    if about == "spatial":
        return (spatial + attribute) * 0.5
    if about == "action":
        return (action + attribute) * 0.5
    return (attribute + spatial + action) / 3


def about(prompt: str, source: str = "auto") -> str:
    """Say what is judged of a prompt of which no list says it: all three where it has a relation of places, else no
    place.
    """
    spec = of_the_world(prompt, source)
    relation = relation_of(prompt) if spec is None else WORLD.get(spec.relation or "")
    return "both" if relation else "action"


def without_adjectives(prompt: str, source: str = "auto") -> str:
    """Give a prompt without its adjectives (ADJ), its words and signs joined by blanks, as the benchmark's CLIP reads
    it; of the embedded world's grammar without what it says of the shapes.
    """
    spec = of_the_world(prompt, source)
    if spec is None:
        return " ".join(word.text for word in words(prompt) if word.kind != "ADJ")
    return str(PromptSpec(tuple(ObjectSpec(one.shape) for one in spec.objects), spec.relation))


class _Places(PlacementReward):
    """Judges places in complex prompts; one without a relation is worth nothing, as the benchmark has it."""

    def asked(self, prompt: str) -> Asked:
        """The relation and its objects."""
        return asked_of(prompt, "complex", self.settings.phrases, strict=False)


class _Attributes(BlipVqaReward):
    """Judges attributes."""

    key = "scorer.three_in_one.blip"


class ThreeInOneReward:
    """Judges complex prompts, 0 to 1, as T2I-CompBench's 3-in-1 does; it cannot be differentiated.

    Raises UserError: settings out of bounds, one of the three models not there.
    """

    name = "three_in_one"
    differentiable = False

    def __init__(self, settings: ThreeInOneConfig, device: torch.device | str) -> None:
        settings.check("scorer.three_in_one.")
        self.settings = settings
        size, phrases = settings.batch_size, settings.phrases
        place = "scorer.three_in_one"
        self.attribute = _Attributes(
            BlipVqaConfig(path=settings.blip, batch_size=size, phrases=phrases, side=settings.side), device
        )
        looks = PlacementConfig(
            path=settings.detector,
            batch_size=size,
            phrases=phrases,
            form="complex",
            confidence=settings.confidence,
        )
        self.spatial = _Places(self.name, looks, device, f"{place}.detector", ALL)
        clip = Clip(find_judge(settings.clip, f"{place}.clip"), device, size)
        self.action = ClipReward(self.name, clip, "cosine")

    def check(self, prompts: Sequence[str], key: str) -> None:
        """Raise UserError, naming ``key``, for a prompt that cannot be judged. No weights are read."""
        for prompt in prompts:
            with naming(key):
                self.check_request({}, prompt)

    def check_request(self, note: Mapping[str, Any], prompt: str) -> None:
        """Raise UserError, naming the ``prompt``, for one whose words cannot be found, or whose places are judged
        (``note``: as of :meth:`detailed`) and whose things cannot. No weights are read.
        """
        without_adjectives(prompt, self.settings.phrases)
        if "spatial" in PARTS[self._told(note, prompt)]:
            names = self.spatial.names(self.spatial.asked(prompt))
            self.spatial.check_names(names, f"the prompt {short(prompt)!r}")

    def _told(self, note: Mapping[str, Any], prompt: str) -> str:
        """What a prompt is about: by its list where the ``note`` says it."""
        return note.get("about") or about(prompt, self.settings.phrases)

    @property
    def identity(self) -> str:
        """All three models."""
        return " + ".join(part.identity for part in (self.attribute, self.spatial, self.action))

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        told = [self._told({}, prompt) for prompt in prompts]
        values = _joined(self._parts(pictures, prompts, told), told)
        return torch.tensor(values, dtype=torch.float32, device=pictures.device)

    def detailed(
        self, pictures: Tensor, prompts: list[str], notes: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Give the ``value`` of each picture and its parts (0 where one is not asked for), by the list that its prompt
        stands in (``about`` of its note: spatial, action, both; without one as :func:`about` says).
        """
        told = [self._told(note, prompt) for note, prompt in zip(notes, prompts, strict=True)]
        parts = self._parts(pictures, prompts, told)
        values = _joined(parts, told)
        return [
            {"value": value, **{part: own[row] for part, own in parts.items()}}
            for row, value in enumerate(values)
        ]

    @torch.no_grad()
    def _parts(self, pictures: Tensor, prompts: list[str], told: Sequence[str]) -> dict[str, list[float]]:
        check_pairs(self.name, pictures, prompts)
        judges = {"attribute": self._attributes, "spatial": self.spatial.values, "action": self._actions}
        found = {part: [0.0] * len(prompts) for part in judges}
        for part, judge in judges.items():
            rows = [row for row, one in enumerate(told) if part in PARTS[one]]
            scores = judge(pictures[rows], [prompts[row] for row in rows]) if rows else []
            for row, score in zip(rows, scores, strict=True):
                found[part][row] = score
        return found

    def _attributes(self, pictures: Tensor, prompts: list[str]) -> list[float]:
        """The numbers that BLIP-VQA's file has, of four decimals."""
        return [round(score, 4) for score in self.attribute.score(pictures, prompts).tolist()]

    def _actions(self, pictures: Tensor, prompts: list[str]) -> list[float]:
        plain = [without_adjectives(prompt, self.settings.phrases) for prompt in prompts]
        return [float(score) for score in self.action.score(pictures, plain).tolist()]


def _joined(parts: Mapping[str, Sequence[float]], told: Sequence[str]) -> list[float]:
    """The score of each picture."""
    return [combined(one, *(parts[part][row] for part in PARTS["both"])) for row, one in enumerate(told)]


def check_prompts(texts: Sequence[str], settings: ThreeInOneConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that ``three_in_one`` cannot judge."""
    ThreeInOneReward(settings, "cpu").check(texts, key)
