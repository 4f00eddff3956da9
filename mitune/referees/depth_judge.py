"""Judges of 3D placement by T2I-CompBench's rule, each named by its detector; the benchmark's own figures are by UniDet
and DPT-hybrid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.english import words
from mitune.errors import UserError, naming, short
from mitune.referees.catalogue import DepthConfig
from mitune.referees.depth import Depth
from mitune.referees.depth_placement import RELATIONS, depth_relation_of, depth_score
from mitune.referees.detection import Detection
from mitune.referees.detector_judge import DetectorReward
from mitune.referees.judge_files import find_judge
from mitune.referees.placement import Asked, simple_objects


def asked_depth(prompt: str) -> Asked:
    """Read what a prompt says of two objects: its first and its last noun. UserError as ``asked_of``."""
    relation = depth_relation_of(prompt)
    if relation is None:
        raise UserError(
            f"the prompt {short(prompt)!r} says of no two things which is nearer (known: {', '.join(RELATIONS)}); leave"
            " it out, or use another score"
        )
    first, second = simple_objects(words(prompt))
    if first is None:
        raise UserError(f"the prompt {short(prompt)!r} has no noun; leave it out, or use another score")
    return Asked(relation, first, second)


class DepthReward(DetectorReward):
    """Judges which of two things is nearer, 0 to 1, by T2I-CompBench's rule on boxes and a map of depth."""

    settings: DepthConfig

    def __init__(self, name: str, settings: DepthConfig, device: torch.device | str) -> None:
        super().__init__(name, settings, device)
        source = find_judge(settings.depth, f"scorer.{name}.depth")
        self.depth = Depth(source, device, settings.batch_size)

    @property
    def identity(self) -> str:
        """The detector and the network of depth."""
        return f"{super().identity} + {self.depth.source.identity}"

    def asked(self, prompt: str) -> Asked:
        """The relation and its two objects."""
        return asked_depth(prompt)

    def names(self, asked: Asked) -> tuple[str, ...]:
        """The two objects."""
        return asked.names

    def beside(self, pictures: Tensor) -> Sequence[Tensor]:
        """The maps of depth."""
        return self.depth.maps(pictures)

    def judged(self, asked: Asked, found: Sequence[Detection], beside: Tensor) -> float:
        """The score of a picture."""
        return depth_score(asked, found, beside)


def spatial_3d_owlv2(settings: DepthConfig, device: torch.device | str) -> DepthReward:
    """Make the judge ``spatial_3d_owlv2``."""
    return DepthReward("spatial_3d_owlv2", settings, device)


def spatial_3d_grounding_dino(settings: DepthConfig, device: torch.device | str) -> DepthReward:
    """Make the judge ``spatial_3d_grounding_dino``."""
    return DepthReward("spatial_3d_grounding_dino", settings, device)


def check_told(texts: Sequence[str], settings: DepthConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that cannot be judged."""
    for text in texts:
        with naming(key):
            asked_depth(text)
