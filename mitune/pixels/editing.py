"""Editing: source and target walk together, and the target's attention is the source's (Prompt-to-Prompt, 2208.01626).

Rows are pairs: 2k walks under the source prompt of edit k, 2k + 1 under its target, both from the same noise and with
the same noise in every step. For the first share of the steps the target's maps of the words are the source's; a
latent of the target outside of the part that changes is the source's after every step (local blend). The branch
without a text is left alone, as the authors have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.denoiser import Condition, Denoiser, Tap
from mitune.errors import UserError
from mitune.maps import Parts, Sums, resized, shape_of
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

SEEN = 0.2
"""Share of the steps, the first, whose maps of the words do not tell where things are."""


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
        path: list[Tensor] | None = None
        noise: Noise = noise_of(denoiser, [seed for seed in seeds[own] for _ in range(2)])
        if pictures is not None:
            sources = denoiser.encode_prompts([one.source for one in plans[own]])
            path = invert(denoiser, pictures[own], sources, sampler)
            noise = Given(path)
        blend = Blend(editor, settings, path, None if fixed is None else fixed[own])
        found = walk(
            editor,
            editor.told(),
            editor.solver,
            noise,
            sampler.guidance,
            guide=blend,
            interval=sampler.guidance_interval,
        )
        parts.append((found.latents[0::2], found.latents[1::2], blend.masks()))
    return Edited(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Given:
    """The noise that pictures come from, for ``rows`` rows each, in place of a drawn one; no step adds more."""

    def __init__(self, path: Sequence[Tensor], rows: int = 2) -> None:
        self._first = path[0].repeat_interleave(rows, dim=0)
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
        self.mine = _averages([one.source_words for one in plans], width).to(device)
        self.theirs = _averages([one.target_words for one in plans], width).to(device)
        most = max(len(one.others) for one in plans)
        rest = [[*one.others, *[()] * (most - len(one.others))] for one in plans]
        self.rest = torch.stack([_averages(groups, width) for groups in rest]).to(device)
        times = [at.time for at in solver.steps]
        self.cross_after = _after(times, settings.cross_share)
        self.self_after = _after(times, settings.self_share)
        self.seen_from = _after(times, SEEN)
        self.grid = inner.map_grid
        self.sums = torch.zeros(len(plans), 2 + most, *self.grid, device=device)

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

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | Sums | None = None) -> Tensor:
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
        self._seen = t <= editor.seen_from

    def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
        """Take over the maps of the sources."""
        editor = self._editor
        parts = editor.parts(kind, *maps.shape[-2:])
        if parts.text is not None and self._seen:
            self._look(maps[..., parts.rows, parts.text])
        fine = kind == "self" and maps.shape[-2] > LARGEST
        moved = self._self and parts.picture is not None and not fine
        # What joint maps take over of the picture has to leave room for the words, whosever they are.
        words = parts.text is not None and (self._cross or editor.weighed or moved)
        if not moved and not words:
            return None
        maps = maps.clone()
        if moved and parts.picture is not None:
            own = maps[..., parts.rows, parts.picture]
            own[self._target] = own[self._source]
        if words and parts.text is not None:
            self._exchange(maps, parts)
        return maps

    def _exchange(self, maps: Tensor, parts: Parts) -> None:
        """Write the source's maps of the words over the target's; the rows of joint maps still sum to 1."""
        editor = self._editor
        text = maps[..., parts.rows, parts.text or slice(0)]
        mine = text[self._target]
        words = self._words(text[self._source], mine) if self._cross else mine
        if parts.picture is not None:
            picture = maps[..., parts.rows, parts.picture]
            own = picture[self._target]
            rest = own.sum(-1, keepdim=True).clamp(min=1e-12)
            picture[self._target] = own * ((1 - words.sum(-1, keepdim=True)) / rest)
        text[self._target] = words * editor.weights[self._pairs][:, None, None] if editor.weighed else words

    def _words(self, source: Tensor, mine: Tensor) -> Tensor:
        """The source's maps, column by column as the plan has them, and one's own where the word is new."""
        take, use = (own[self._pairs][:, None, None] for own in (self._editor.take, self._editor.use))
        return torch.where(use, source.gather(-1, take.expand_as(mine)), mine)

    def _look(self, text: Tensor) -> None:
        """Add to the sums how much each place looks at what changes, in source and target, and at each other thing."""
        editor, pairs = self._editor, self._pairs
        source, target = text[self._source].mean(1), text[self._target].mean(1)
        seen = torch.cat(
            [
                torch.einsum("nqw,ngw->ngq", source, editor.mine[pairs][:, None]),
                torch.einsum("nqw,ngw->ngq", target, editor.theirs[pairs][:, None]),
                torch.einsum("nqw,ngw->ngq", source, editor.rest[pairs]),
            ],
            1,
        )
        editor.sums[pairs] += resized(seen.unflatten(-1, shape_of(seen.shape[-1], editor.grid)), editor.grid)


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
        everywhere = (editor.mine + editor.theirs).sum(1) == 0
        if not self._on:
            everywhere = torch.ones_like(everywhere)
        masks = self._fixed if self._fixed is not None else region(editor.sums, self._threshold)
        size = (editor.latent_shape[-2], editor.latent_shape[-1])
        masks = F.interpolate(masks.to(editor.sums)[:, None], size, mode="nearest")[:, 0]
        return torch.where(everywhere[:, None, None], torch.ones_like(masks), masks)

    def move(self, at: StepCoefficients, mean: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take the step, keep the source on its path, and the target to the source outside of the mask."""
        z, drawn = super().move(at, mean, noise)
        if self._path is not None:
            missed = self._path[self._next] - z[0::2]
            z[0::2] = self._path[self._next]
            z[1::2] += missed
        self._next += 1
        # Before the maps tell where things are nothing is held back: what comes later sets the outside right.
        if self._on and (self._fixed is not None or at.time <= self._editor.seen_from):
            masks = self.masks().to(z.dtype)[:, None]
            z[1::2] = torch.where(masks > 0, z[1::2], z[0::2])
        return z, drawn


def region(sums: Tensor, threshold: float) -> Tensor:
    """Give where a picture changes [n, H, W], 1 or 0, of maps [n, 2 + K, H, W]: of what changes in the source and in
    the target, and of the K things that stay. Each is stretched to [0, 1].

    A place belongs to what changes where its map reaches ``threshold``, or beside such a place, and where no map of
    another thing is higher.
    """
    flat = sums.flatten(2)
    low, high = flat.amin(2)[..., None, None], flat.amax(2)[..., None, None]
    maps = (sums - low) / (high - low).clamp(min=1e-12)
    mine = maps[:, :2].amax(1)
    others = maps[:, 2:].amax(1) if maps.shape[1] > 2 else torch.zeros_like(mine)
    core = ((mine >= threshold) & (mine >= others)).to(sums.dtype)
    around = F.max_pool2d(core[:, None], 3, 1, 1)[:, 0]
    return around * ((others < threshold) | (mine >= others)).to(sums.dtype)


def _averages(groups: Sequence[Sequence[int]], width: int) -> Tensor:
    """Weights [groups, width] that average the columns of each group; zeros where it has none."""
    weights = torch.zeros(len(groups), width)
    for row, own in zip(weights, groups, strict=True):
        row[list(own)] = 1 / max(1, len(own))
    return weights


def _after(times: Sequence[float], share: float) -> float:
    """The time above which the first ``share`` of the steps lie."""
    falling = sorted((float(t) for t in times), reverse=True)
    count = round(share * len(falling))
    if count == len(falling):
        return -float("inf")
    return falling[count] if count else float("inf")
