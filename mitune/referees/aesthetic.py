"""LAION's aesthetic score: a linear head, or a small stack of them, on CLIP's feature of a picture.

The published heads: ``aesthetic-predictor`` (one linear layer) and ``improved-aesthetic-predictor`` (five linear layers
with dropout and nothing between them), both trained on ratings from 1 to 10 of CLIP ViT-L/14 features of length one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mitune.errors import UserError
from mitune.families.source import fingerprint
from mitune.reading import reading
from mitune.referees.catalogue import AestheticConfig
from mitune.referees.clip import clip_of
from mitune.referees.judge_files import HEAD, check_head
from mitune.referees.pairs import check_pairs


def read_head(path: Path) -> nn.Sequential:
    """The head's linear layers in their order. Raises UserError for a file that holds something else."""
    from safetensors.torch import load_file

    with reading(f"{HEAD}={path} is no safetensors file: it", "fetch it again"):
        weights = load_file(path)
    if not all(value.is_floating_point() and value.isfinite().all() for value in weights.values()):
        raise UserError(f"{HEAD}={path} holds weights that are no finite numbers; fetch it again")
    return _stack(weights, path)


def _stack(weights: Mapping[str, Tensor], path: Path) -> nn.Sequential:
    names = sorted(
        (name.removesuffix("weight") for name in weights if name.endswith("weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    strange = sorted(set(weights) - {f"{name}{part}" for name in names for part in ("weight", "bias")})
    if strange:
        raise UserError(
            f"{HEAD}={path} is no aesthetic head: beside linear layers it holds {', '.join(strange[:3])}"
        )
    layers = nn.Sequential()
    for name in names:
        weight, bias = weights[f"{name}weight"].float(), weights.get(f"{name}bias")
        fits = weight.ndim == 2 and (not len(layers) or weight.shape[1] == layers[-1].out_features)
        if not fits or bias is None or bias.shape != weight.shape[:1]:
            raise UserError(f"{HEAD}={path}: {name}weight is no linear layer that follows the one before it")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias.float()})
        layers.append(layer)
    if not len(layers) or layers[-1].out_features != 1:
        raise UserError(f"{HEAD}={path} is no aesthetic head: linear layers, the last of one output")
    return layers.eval().requires_grad_(False)


class AestheticReward:
    """Judges how pleasing pictures are, about 1 to 10, whatever their prompts; differentiable in the pictures.

    Raises UserError as ``check_head``, and without its CLIP.
    """

    name = "aesthetic"
    differentiable = True

    def __init__(self, settings: AestheticConfig, device: torch.device | str) -> None:
        self._path = check_head(settings.head)
        self.clip = clip_of("aesthetic", settings, device)

    @cached_property
    def _head(self) -> nn.Sequential:
        head = read_head(self._path)
        wide = self.clip.model.config.projection_dim
        if head[0].in_features != wide:
            raise UserError(
                f"{HEAD}={self._path} reads features of {head[0].in_features}, this CLIP's are of {wide}; give the"
                " CLIP that it was trained on (scorer.aesthetic.path)"
            )
        return head.to(self.clip.device)

    @property
    def identity(self) -> str:
        """The model and the head that judge."""
        return f"{self.clip.source.identity}+{self._path.stem}@{fingerprint([self._path])}"

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1]; the prompts say nothing here."""
        check_pairs(self.name, pictures, prompts)
        head = self._head
        scores: Tensor = head(self.clip.image_features(pictures)).squeeze(-1)
        return scores.to(torch.float32)
