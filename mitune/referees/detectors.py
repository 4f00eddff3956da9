"""The detectors that judges can be given, by the ``model_type`` of their ``config.json``."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection

import torch

from mitune.errors import UserError
from mitune.referees.detection import Detector
from mitune.referees.judge_files import JudgeSource
from mitune.referees.labelled_detectors import Detr, DFine, Mask2Former, RTDetr
from mitune.referees.networks import check_model_type
from mitune.referees.told_detectors import GroundingDino, Owlv2

KINDS: dict[str, type[Detector]] = {
    "owlv2": Owlv2,
    "grounding-dino": GroundingDino,
    "detr": Detr,
    "rt_detr_v2": RTDetr,
    "d_fine": DFine,
    "mask2former": Mask2Former,
}


def open_detector(
    source: JudgeSource, kinds: Collection[str], device: torch.device | str, batch_size: int
) -> Detector:
    """Open a detector of one of the ``kinds``; arguments as of :class:`Detector`.

    Raises UserError: a model of another kind, no labels, a backbone that takes a package that is not installed.
    """
    titles = " or ".join(dict.fromkeys(KINDS[kind].title for kind in kinds))
    kind = KINDS[check_model_type(source, kinds, titles)]
    _check_backbone(source, kind.title)
    return kind(source, device, batch_size)


def _check_backbone(source: JudgeSource, title: str) -> None:
    """Early folders of DETR have a backbone of the package timm."""
    told = source.configuration()
    own = told.get("backbone_config") or {}
    takes = told.get("use_timm_backbone") or (
        isinstance(own, dict) and own.get("model_type") == "timm_backbone"
    )
    if takes and importlib.util.find_spec("timm") is None:
        raise UserError(
            f"{source.key}={source.name}: the backbone of this {title} is one of timm, which is not installed; pip"
            " install timm, or take a folder with transformers' own (facebook/detr-resnet-50 has one by its revision"
            " no_timm)"
        )
