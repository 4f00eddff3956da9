"""Judges of 2D placement by T2I-CompBench's rule, each named by its detector: none of them is UniDet, whose figures the
benchmark published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mitune.english import words
from mitune.errors import UserError, naming, short
from mitune.referees.catalogue import PlacementConfig
from mitune.referees.detection import Detection
from mitune.referees.detector_judge import DetectorReward
from mitune.referees.phrases import of_the_world
from mitune.referees.placement import (
    BOTTOM,
    LEFT,
    RELATIONS,
    RIGHT,
    TOP,
    Asked,
    complex_objects,
    placement_score,
    relation_of,
    simple_objects,
)

WORLD = {"left of": LEFT, "right of": RIGHT, "above": TOP, "below": BOTTOM, "touching": "next to"}
"""The embedded world's relations by the benchmark's; it has others that the benchmark lacks."""


def asked_of(prompt: str, form: str = "simple", source: str = "auto", strict: bool = True) -> Asked:
    """Read what a prompt says of two objects, by T2I-CompBench's rule for prompts of its ``form``.

    Args:
        prompt: the text.
        form: simple or complex; a complex prompt may have no objects by the rule.
        source: of phrases (:data:`mitune.pixels.catalogue.SOURCES`).
        strict: refuse a prompt without a relation.

    Raises UserError: no relation that the rule knows, no noun in a simple prompt, no spaCy.
    """
    spec = of_the_world(prompt, source)
    if spec is not None:
        relation = WORLD.get(spec.relation or "")
        things: tuple[str | None, str | None] = (spec.objects[0].shape, spec.objects[-1].shape)
        if len(spec.objects) > 1:
            things = (spec.objects[0].shape, spec.objects[1].shape)
    else:
        relation = relation_of(prompt)
    if relation is None and strict:
        known = ", ".join(WORLD if spec is not None else RELATIONS)
        raise UserError(
            f"the prompt {short(prompt)!r} says of no two things where they stand to each other (known: {known}); leave"
            " it out, or use another score"
        )
    if spec is None:
        read = words(prompt)
        things = simple_objects(read) if form == "simple" else complex_objects(prompt, read)
        if form == "simple" and things[0] is None:
            raise UserError(f"the prompt {short(prompt)!r} has no noun; leave it out, or use another score")
    return Asked(relation, *things)


class PlacementReward(DetectorReward):
    """Judges where two things stand to each other, 0 to 1, by T2I-CompBench's rule on a detector's boxes."""

    settings: PlacementConfig

    @property
    def identity(self) -> str:
        """The detector, and for which form of prompts."""
        return f"{super().identity}, {self.settings.form} prompts"

    def asked(self, prompt: str) -> Asked:
        """The relation and its two objects."""
        return asked_of(prompt, self.settings.form, self.settings.phrases)

    def names(self, asked: Asked) -> tuple[str, ...]:
        """The two objects."""
        return asked.names

    def judged(self, asked: Asked, found: Sequence[Detection], beside: None) -> float:
        """The score of a picture."""
        return placement_score(asked, found)


def spatial_owlv2(settings: PlacementConfig, device: torch.device | str) -> PlacementReward:
    """Make the judge ``spatial_owlv2``."""
    return PlacementReward("spatial_owlv2", settings, device)


def spatial_grounding_dino(settings: PlacementConfig, device: torch.device | str) -> PlacementReward:
    """Make the judge ``spatial_grounding_dino``."""
    return PlacementReward("spatial_grounding_dino", settings, device)


def spatial_detr(settings: PlacementConfig, device: torch.device | str) -> PlacementReward:
    """Make the judge ``spatial_detr``."""
    return PlacementReward("spatial_detr", settings, device)


def check_told(texts: Sequence[str], settings: PlacementConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that a detector which is told names cannot judge."""
    for text in texts:
        with naming(key):
            asked_of(text, settings.form, settings.phrases)


def check_detr(texts: Sequence[str], settings: PlacementConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that ``spatial_detr`` cannot judge."""
    spatial_detr(settings, "cpu").check(texts, key)
