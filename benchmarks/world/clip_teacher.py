"""A CLIP that is told what is in a picture and in a caption, instead of looking and reading: the small networks that
the shapes world's CLIP learns its features from.

Contrastive learning from pictures needs millions of them to find out what a shape is. These two networks are given it
(the scene's list of objects; the caption's parse), so they learn in a minute the hard part alone: features of a scene
and of a caption whose cosine says whether one is true of the other.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.world.clip_examples import FACTS_OF_OBJECT
from benchmarks.world.facts import FACTS, class_numbers

_SAID = tuple(name for name in FACTS if name != "place")  # the order in a list says nothing
_WIDTH = 256


def _layers(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*parts[:-1])


class SceneReader(nn.Module):
    """Features of length one [n, d] of scenes: a sum over objects and one over pairs of them, mixed."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.single = _layers(FACTS_OF_OBJECT, _WIDTH, _WIDTH)
        self.pair = _layers(2 * FACTS_OF_OBJECT + 1, _WIDTH, _WIDTH)
        self.mix = _layers(_WIDTH, _WIDTH, d)

    def forward(self, objects: Tensor, gaps: Tensor) -> Tensor:
        there = objects[..., :1]
        total = (self.single(objects) * there).sum(1)
        n, count = objects.shape[:2]
        first = objects[:, :, None].expand(n, count, count, -1)
        second = objects[:, None].expand(n, count, count, -1)
        both = (
            there[:, :, None]
            * there[:, None]
            * (1 - torch.eye(count, device=objects.device))[None, :, :, None]
        )
        total = total + (self.pair(torch.cat([first, second, gaps[..., None]], -1)) * both).sum((1, 2))
        return nn.functional.normalize(self.mix(total), dim=-1)


class CaptionReader(nn.Module):
    """Features of length one [n, d] of captions as :func:`said` gives them: a sum over the objects named, mixed."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.single = _layers(sum(len(FACTS[name]) + 1 for name in _SAID), _WIDTH, _WIDTH)
        self.mix = _layers(_WIDTH, _WIDTH, d)

    def forward(self, facts: Tensor) -> Tensor:
        named = (facts[..., 0] < len(FACTS[_SAID[0]])).float()[..., None]
        codes = [nn.functional.one_hot(facts[..., i], len(FACTS[name]) + 1) for i, name in enumerate(_SAID)]
        total = (self.single(torch.cat(codes, -1).float()) * named).sum(-2)
        return nn.functional.normalize(self.mix(total), dim=-1)


def said(texts: list[str]) -> Tensor:
    """Read what captions say of each object they name: class numbers [n, MAX_OBJECTS, facts]."""
    columns = [list(FACTS).index(name) for name in _SAID]
    return torch.tensor([class_numbers(text) for text in texts])[..., columns]
