"""Editing: source and target walk together, and the target's attention is the source's (Prompt-to-Prompt, 2208.01626).

Rows are pairs: 2k walks under the source prompt of edit k, 2k + 1 under its target, both from the same noise and with
the same noise in every step. For the first share of the steps the target's maps of the words are the source's; a
latent of the target outside of the part that changes is the source's after every step (local blend). The branch
without a text is left alone, as the authors have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.denoiser import Condition, Denoiser, Tap
from mitune.errors import UserError
from mitune.noise import Time
from mitune.pixels.plans import Plan
from mitune.pixels.settings import EditConfig
from mitune.pixels.wrapped import Wrapped
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.inversion import invert
from mitune.sampling.loop import Guide, Noise, noise_of, walk
from mitune.sampling.solver import Solver, StepCoefficients, solver_of

PAIRED = "pair"
LARGEST = 32**2
"""Queries of the largest layers whose maps of the picture to itself are taken over: finer ones hold its details."""


@dataclass(frozen=True, eq=False)
class Edited:
    """Holds latents ``before`` and ``after`` [n, …] and where they may differ: ``masks`` [n, H, W] in {0, 1}."""

    before: Tensor
    after: Tensor
    masks: Tensor


def check(denoiser: Denoiser) -> None:
    """Raise UserError for a model that is told a picture: it has its own way to edit."""
    if denoiser.edits_pictures:
        raise UserError(
            f"{denoiser.identity} edits pictures by an instruction; draw with it (prompts.picture_column=), or give"
            " a model of text alone to mitune edit"
        )


def edit(
    denoiser: Denoiser,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    settings: EditConfig,
    batch_size: int | None = None,
    pictures: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Edited:
    """Edit pictures that are drawn from ``seeds``, or those whose latents are given.

    Args:
        denoiser: a model whose attention can be seen.
        plans: what is to be done, n.
        seeds: of their noise, n.
        sampler: any; for pictures one without noise, as ``invert`` says.
        settings: shares, blend, threshold.
        batch_size: pictures a forward at most, two an edit.
        pictures: latents [n, …]. The source's walk then is the path by which ``invert`` follows them back, told the
            source alone; what the sampler's own step, guidance included, would miss it by is added to both walks, so
            that the source comes out to the bit.
        fixed: masks [n, H, W] to blend by, instead of those of the walk.

    UserError as ``check``, ``walk`` and ``invert``, and for a network whose maps cannot be seen.
    """
    check(denoiser)
    pairs = max(1, (batch_size or 2 * len(plans)) // 2)
    parts = []
    for start in range(0, len(plans), pairs):
        own = slice(start, start + pairs)
        editor = Editor(denoiser, plans[own], solver_of(denoiser, sampler), settings)
        path = None
        if pictures is not None:
            sources = denoiser.encode_prompts([one.source for one in plans[own]])
            path = invert(denoiser, pictures[own], sources, sampler)
        noise: Any = noise_of(denoiser, [seed for seed in seeds[own] for _ in range(2)]) if path is None else None
        blend = Blend(editor, settings, path, None if fixed is None else fixed[own])
        found = walk(
            editor,
            editor.told(),
            editor.solver,
            noise or _Given(path),
            sampler.guidance,
            guide=blend,
            interval=sampler.guidance_interval,
        )
        parts.append((found.latents[0::2], found.latents[1::2], blend.masks()))
    return Edited(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _Given:
    """The noise that pictures come from, in place of a drawn one; no step adds more."""

    def __init__(self, path: Sequence[Tensor] | None) -> None:
        assert path is not None
        self._first = path[0].repeat_interleave(2, dim=0)
        self.seeds: list[int] = []

    def next(self) -> Tensor:
        return self._first

    def select(self, rows: Sequence[int]) -> None:
        raise NotImplementedError("nobody drops an edit")


class Editor(Wrapped):
    """Sends pairs of rows through the network and gives the second of each the first's attention."""

    def __init__(self, inner: Denoiser, plans: Sequence[Plan], solver: Solver, settings: EditConfig) -> None:
        super().__init__(inner)
        self.plans, self.solver, self.settings = plans, solver, settings
        device = inner.device
        self.take = torch.tensor([one.columns.take for one in plans], device=device)
        self.use = torch.tensor([one.columns.use for one in plans], device=device)
        self.weights = torch.tensor([one.weights for one in plans], device=device)
        self.weighed = bool((self.weights != 1).any())
        width = self.take.shape[1]
        words = [_averages(groups, width) for one in plans for groups in (one.source_words, one.target_words)]
        self.words = torch.stack(words).to(device)
        times = [at.time for at in solver.steps]
        self.cross_after = _after(times, settings.cross_share)
        self.self_after = _after(times, settings.self_share)
        self.grid = _grid(inner)
        self.sums = torch.zeros(len(words), *self.grid, device=device)
        self.shown = torch.zeros(len(words), device=device)

    def told(self) -> Condition:
        """Give the conditions of all pairs, which know whose they are."""
        texts = [text for one in self.plans for text in (one.source, one.target)]
        return self._marked(self.inner.encode_prompts(texts), range(len(texts)))

    def null(self, n: int) -> Condition:
        """Give ∅, which belongs to no pair."""
        return self._marked(self.inner.null(n), [-1] * n)

    @staticmethod
    def _marked(condition: Condition, numbers: Sequence[int]) -> Condition:
        return Condition({**condition.tensors, PAIRED: torch.tensor(list(numbers))})

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | None = None) -> Tensor:
        """Give the raw output, with the attention of the targets edited. ValueError for half a pair."""
        tensors = dict(condition.tensors)
        numbers = tensors.pop(PAIRED).tolist()
        return self.inner.predict(z, t, Condition(tensors), _Exchange(self, numbers, float(t)))


class _Exchange:
    """The look at one forward."""

    def __init__(self, editor: Editor, numbers: Sequence[int], t: float) -> None:
        self._editor = editor
        there = {number: row for row, number in enumerate(numbers) if number >= 0}
        targets = [number for number in there if number % 2]
        if len(targets) * 2 != len(there) or not all(number - 1 in there for number in targets):
            raise ValueError(f"rows of half a pair: {list(numbers)}")
        device = editor.take.device
        self._source = torch.tensor([there[number - 1] for number in targets], device=device)
        self._target = torch.tensor([there[number] for number in targets], device=device)
        self._pairs = torch.tensor([number // 2 for number in targets], device=device)
        self._cross, self._self = t > editor.cross_after, t > editor.self_after

    def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
        """Take over the maps of the sources."""
        editor = self._editor
        text, own = editor.to_text(kind, maps), editor.to_picture(kind, maps)
        if text is not None:
            self._look(text)
        fine = kind == "self" and maps.shape[-2] > LARGEST
        moved = self._self and own is not None and not fine
        if not moved and (text is None or not (self._cross or editor.weighed)):
            return None
        maps = maps.clone()
        text, own = editor.to_text(kind, maps), editor.to_picture(kind, maps)
        if moved and own is not None:
            own[self._target] = own[self._source]
        if text is not None:
            mine = text[self._target]
            words = self._words(text[self._source], mine) if self._cross else mine
            if own is not None:  # of one sequence: what the picture looks at itself makes the rest of a row
                whole = own[self._target]
                rest = whole.sum(-1, keepdim=True).clamp(min=1e-12)
                own[self._target] = whole * ((1 - words.sum(-1, keepdim=True)) / rest)
            text[self._target] = words * editor.weights[self._pairs][:, None, None] if editor.weighed else words
        return maps

    def _words(self, source: Tensor, mine: Tensor) -> Tensor:
        """The source's maps, column by column as the plan has them, and one's own where the word is new."""
        take, use = (own[self._pairs][:, None, None] for own in (self._editor.take, self._editor.use))
        return torch.where(use, source.gather(-1, take.expand_as(mine)), mine)

    def _look(self, text: Tensor) -> None:
        """Add to the sums how much each place looks at the words that tell where the picture changes."""
        editor = self._editor
        height, width = editor.grid
        scale = (height * width / text.shape[-2]) ** 0.5
        side = (round(height / scale), round(width / scale))
        if side[0] * side[1] != text.shape[-2]:
            return
        for offset, rows in ((0, self._source), (1, self._target)):
            numbers = 2 * self._pairs + offset
            seen = torch.einsum("nqw,nw->nq", text[rows].mean(1), editor.words[numbers])
            seen = F.interpolate(seen.reshape(len(seen), 1, *side), editor.grid, mode="bilinear")[:, 0]
            editor.sums[numbers] += seen


class Blend(Guide):
    """Holds the source outside of the part that changes."""

    def __init__(
        self,
        editor: Editor,
        settings: EditConfig,
        path: Sequence[Tensor] | None = None,
        fixed: Tensor | None = None,
    ) -> None:
        self._editor, self._on, self._threshold = editor, settings.blend, settings.threshold
        self._path, self._fixed, self._next = path, fixed, 1

    def masks(self) -> Tensor:
        """Give where each picture may change [n, H, W]: 1 or 0, on the grid of the latent."""
        editor = self._editor
        everywhere = (editor.words != 0).flatten(1).any(1).unflatten(0, (-1, 2)).any(1).logical_not()
        if not self._on:
            everywhere = torch.ones_like(everywhere)
        if self._fixed is not None:
            masks = self._fixed.to(editor.sums)
        else:
            sums = editor.sums.flatten(1)
            low, high = sums.amin(1, keepdim=True), sums.amax(1, keepdim=True)
            seen = ((sums - low) / (high - low).clamp(min=1e-12)).view_as(editor.sums)
            masks = (seen.unflatten(0, (-1, 2)).amax(1) >= self._threshold).to(seen.dtype)
            masks = _to(masks, editor.latent_shape[-2:])
        return torch.where(everywhere[:, None, None], torch.ones_like(masks), masks)

    def move(self, at: StepCoefficients, mean: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take the step, keep the source on its path, and the target to the source outside of the mask."""
        z, drawn = super().move(at, mean, noise)
        if self._path is not None:
            missed = self._path[self._next] - z[0::2]
            z[0::2] = self._path[self._next]
            z[1::2] += missed
        self._next += 1
        if self._on:
            masks = self.masks().to(z.dtype)[:, None]
            z[1::2] = torch.where(masks > 0, z[1::2], z[0::2])
        return z, drawn


def _averages(groups: Sequence[Sequence[int]], width: int) -> Tensor:
    """Weights [width] that average the columns of each word, and then the words; zeros where there is none."""
    weights = torch.zeros(width)
    for own in groups:
        weights[list(own)] += 1 / (len(own) * len(groups))
    return weights


def _after(times: Sequence[float], share: float) -> float:
    """The time above which the first ``share`` of the steps lie."""
    falling = sorted((float(t) for t in times), reverse=True)
    count = round(share * len(falling))
    if count == len(falling):
        return -float("inf")
    return falling[count] if count else float("inf")


def _grid(denoiser: Denoiser) -> tuple[int, int]:
    """Rows and columns of the picture's places that maps are brought to: the latent's."""
    return int(denoiser.latent_shape[-2]), int(denoiser.latent_shape[-1])


def _to(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks [n, h, w] on another grid: the nearest place says."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks[:, None], tuple(size), mode="nearest")[:, 0]
