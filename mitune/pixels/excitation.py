"""Attend-and-Excite: early on, the noisy picture is moved so that the least attended phrase is attended more.

Chefer et al., arXiv 2301.13826. The attention of a cell is shared out anew among the words of the prompt (softmax of a
hundred times the maps), so that the special tokens, which take most of it, do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.denoiser import Condition
from mitune.maps import shape_of, words_of
from mitune.noise import Time
from mitune.pixels.balance import COLUMNS, Balanced, plain_of
from mitune.pixels.phrases import Phrase
from mitune.sampling.catalogue import SamplerConfig

NOUNS, WORDS = "balance.nouns", "balance.words"
REFINED = (0.0, 0.2, 0.4)  # shares of the steps before which a threshold has to be reached
_SHARPNESS = 100.0
_COARSE = 16  # times fewer cells than the network's own grid: 16 x 16 of Stable Diffusion's 64 x 64


class Excited(Balanced):
    """Moves z; the weights of all phrases are 1.

    Its condition also has ``NOUNS`` [n, P, tokens], which average the columns of each head noun, and ``WORDS``
    [n, encoders, tokens]: 1 where a token is of a word.
    """

    moves = True

    def __init__(self, inner: Any, sampler: SamplerConfig) -> None:
        super().__init__(inner, sampler)
        times = list(self._places)
        goals = self.settings.thresholds or ()
        self._goals = {
            times[min(len(times) - 1, round(share * len(times)))]: goal
            for share, goal in reversed(
                [*zip(REFINED, goals, strict=False)]
            )  # of few steps the first goal counts
        }

    def _described(
        self, prompts: Sequence[str], phrases: Sequence[Sequence[Phrase]], tokens: int
    ) -> dict[str, Tensor]:
        nouns = words_of(self.inner.token_spans(prompts, phrases, "noun"), tokens)
        spans = [self.inner.spans(prompt) for prompt in prompts]
        encoders = list(dict.fromkeys(name for of in spans for word in of for name in word.columns))
        words = torch.zeros(len(prompts), len(encoders), tokens)
        for row, of in enumerate(spans):
            for word in of:
                for name, found in word.columns.items():
                    words[row, encoders.index(name), list(found)] = 1.0
        return {**super()._described(prompts, phrases, tokens), NOUNS: nouns, WORDS: words}

    def placed(self, z: Tensor, t: Time, given: Condition) -> Tensor:
        """Move z [n, …] along −∇ of max_i (1 − the most that a cell attends to phrase i), √ of 1…½ times ``step``.

        Where a goal is set, first as often as it takes to reach it, ``refinements`` times at most.
        """
        own = given[len(given) - len(z) :]
        rows = own.tensors[COLUMNS].flatten(1).any(1).nonzero().flatten()
        if not self.early(t) or not len(rows):
            return z
        length = float(self.settings.step or 0) * math.sqrt(1 - self._places[float(t)] / 2)
        moved = z.clone()
        goal, left = self._goals.get(float(t)), rows
        for _ in range(int(self.settings.refinements or 0) if goal else 0):
            losses, slope = self.slope(moved[left], t, own[left])
            far = losses > 1 - float(goal or 0)
            left = left[far]
            if not len(left):
                break
            moved[left] -= length * slope[far]
        _, slope = self.slope(moved[rows], t, own[rows])
        moved[rows] -= length * slope
        return moved

    def slope(self, z: Tensor, t: Time, own: Condition) -> tuple[Tensor, Tensor]:
        """Give the losses [n] at ``z``, and their gradient [n, …]."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            losses = self.losses(leaf, t, own)
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), slope

    def losses(self, z: Tensor, t: Time, own: Condition) -> Tensor:
        """Give max_i (1 − max over the cells of phrase i's smoothed attention) [n], from one forward."""
        maps = _Maps(self.inner)
        self.inner.predict(z, t, plain_of(own), maps)
        nouns = own.tensors[NOUNS]
        attended = _shared_out(maps.mean(), own.tensors[WORDS]) @ nouns.transpose(1, 2)
        shape = shape_of(attended.shape[1], self.inner.map_grid)
        most = _smoothed(attended.transpose(1, 2).unflatten(-1, shape)).flatten(2).amax(-1)
        return (1 - most).masked_fill(~nouns.any(-1), 0.0).amax(1)


class _Maps:
    """A tap that adds up how the picture looks at the text, layers of one grid together."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser
        self._sums: dict[int, tuple[Tensor, int]] = {}

    def layer(self, place: str, kind: str, maps: Tensor) -> None:
        """Take the maps of a layer, the mean of its heads."""
        found = self._denoiser.to_text(kind, maps)
        if found is not None:
            own = found.mean(1)
            total, count = self._sums.get(own.shape[1], (torch.zeros_like(own), 0))
            self._sums[own.shape[1]] = (total + own, count + 1)

    def mean(self) -> Tensor:
        """The mean [n, cells, tokens] over the layers whose grid is nearest to a quarter of the network's a side."""
        wanted = math.prod(self._denoiser.map_grid) / _COARSE
        total, count = self._sums[min(self._sums, key=lambda cells: abs(math.log(cells / wanted)))]
        return total / count


def _shared_out(maps: Tensor, words: Tensor) -> Tensor:
    """Share the attention of each cell out among the words, for each encoder, and add these up: [n, cells, tokens]."""
    logits = _SHARPNESS * maps.unsqueeze(1)
    none = words.new_zeros(()).to(maps)
    shares = logits.masked_fill(words.unsqueeze(2) == 0, -torch.inf).softmax(-1)
    return torch.where(words.unsqueeze(2) > 0, shares, none).sum(1)


def _smoothed(maps: Tensor) -> Tensor:
    """Maps [n, P, h, w] under a 3 x 3 Gaussian of deviation ½."""
    line = torch.exp(-2.0 * torch.tensor([1.0, 0.0, 1.0], device=maps.device))
    kernel = torch.outer(line, line) / line.sum() ** 2
    wide = F.pad(maps, (1, 1, 1, 1), "replicate")
    n, phrases = maps.shape[:2]
    return (
        F.conv2d(wide.flatten(0, 1).unsqueeze(1), kernel[None, None].to(maps))
        .squeeze(1)
        .unflatten(0, (n, phrases))
    )
