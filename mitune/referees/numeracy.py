"""Judges of numbers by T2I-CompBench's rule, each named by its detector; the benchmark's own figures are UniDet's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from mitune.errors import UserError, naming, short
from mitune.referees.amounts import Amount, amounts_of, numeracy_score
from mitune.referees.catalogue import DetectorConfig
from mitune.referees.detection import Detection
from mitune.referees.detector_judge import DetectorReward
from mitune.referees.phrases import of_the_world


def asked_amounts(prompt: str, source: str = "auto") -> list[Amount]:
    """Read how many of what a prompt asks for: of the embedded world's grammar its shapes, how often each is named;
    else by T2I-CompBench's rule. ``source``: of phrases. UserError where that is nothing.
    """
    spec = of_the_world(prompt, source)
    found = amounts_of(prompt) if spec is None else list(Counter(one.shape for one in spec.objects).items())
    if not found:
        raise UserError(
            f"the prompt {short(prompt)!r} names no number (a, one, two … eight) of an object that T2I-CompBench's"
            " numeracy knows; leave it out, or use another score"
        )
    return found


class NumeracyReward(DetectorReward):
    """Judges how many of what was asked for are there, 0 to 1, by T2I-CompBench's rule on a detector's boxes."""

    settings: DetectorConfig

    def asked(self, prompt: str) -> list[Amount]:
        """The objects and their numbers."""
        return asked_amounts(prompt, self.settings.phrases)

    def names(self, asked: list[Amount]) -> tuple[str, ...]:
        """The objects, each once."""
        return tuple(dict.fromkeys(name for name, _ in asked))

    def check_names(self, names: Sequence[str], where: str) -> None:
        """Raise UserError for a name that is part of none of the detector's labels."""
        labels = self.detector.labels
        super().check_names([name for name in names if not any(name in label for label in labels)], where)

    def judged(self, asked: list[Amount], found: Sequence[Detection], beside: None) -> float:
        """The score of a picture."""
        return numeracy_score(asked, found)


def numeracy_owlv2(settings: DetectorConfig, device: torch.device | str) -> NumeracyReward:
    """Make the judge ``numeracy_owlv2``."""
    return NumeracyReward("numeracy_owlv2", settings, device)


def numeracy_grounding_dino(settings: DetectorConfig, device: torch.device | str) -> NumeracyReward:
    """Make the judge ``numeracy_grounding_dino``."""
    return NumeracyReward("numeracy_grounding_dino", settings, device)


def numeracy_detr(settings: DetectorConfig, device: torch.device | str) -> NumeracyReward:
    """Make the judge ``numeracy_detr``."""
    return NumeracyReward("numeracy_detr", settings, device)


def check_told(texts: Sequence[str], settings: DetectorConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt without numbers."""
    for text in texts:
        with naming(key):
            asked_amounts(text, settings.phrases)


def check_detr(texts: Sequence[str], settings: DetectorConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that ``numeracy_detr`` cannot judge."""
    numeracy_detr(settings, "cpu").check(texts, key)
