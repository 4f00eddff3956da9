"""Training data on the device, and who is drawn when: every draw is a pure function of (seed, step).

So a resumed run, another number of processes or another micro-batch see the same pictures, times and noise:
there is no sampler position and no generator state to save.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mitune.data import dataset as datasets
from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.finetune.catalogue import Objective
from mitune.finetune.encoded import (
    ON_DEVICE,
    FileConditions,
    FileLatents,
    FileRows,
    Scratch,
    Segment,
    as_bytes,
    blocks,
    chunks,
    most_held,
    packed,
)
from mitune.scores import Term, weigh
from mitune.tasks import PictureRef, Task, tasks_of


def seed_of(*parts: object) -> int:
    """Give a 63-bit seed that depends on ``parts`` alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The training data are latents, texts, and items: which picture of a text is preferred, and to which others."""

    latents: Tensor | FileLatents  # [rows, …] float32
    texts: list[Task]  # without repetition
    winners: Tensor  # [items] rows of latents; of an unpaired objective losers' rows too
    text_of: Tensor  # [items] index into ``texts``
    losers: Tensor  # rows of latents, those of one item side by side:
    first: Tensor  # [items] where its own begin
    count: Tensor  # [items] how many it has; 0 without preferences
    label: Tensor  # [items] 1 for a winner, −1 for a loser, or between
    importance: Tensor | None  # [items] how much each counts, with mean 1; None where all count alike
    real: Tensor | None  # [items] which of them no model drew; None where there are none
    digest: str  # of all that

    def __len__(self) -> int:
        return len(self.winners)

    @functools.cached_property
    def pictured(self) -> bool:
        """Tell whether pictures are told beside the texts."""
        return _pictured(self.texts)

    def told(self, items: Tensor, chance: Tensor, dropout: float) -> Tensor:
        """Find what ``items`` [n] are told, as an index into ``Texts``: ∅ where ``chance`` [n], uniform in [0, 1), is
        below ``dropout``.

        Of a text with a picture each is dropped as often (up to 2/3), half of the time both at once (Brooks et al.,
        2211.09800, 3.2.1).
        """
        text, count = chance < dropout, len(self.texts)
        own = self.text_of[items]
        if not self.pictured:
            return torch.where(text, count, own)
        picture = (chance >= dropout / 2) & (chance < 1.5 * dropout)
        return own + count * (text.long() + 2 * picture.long())


@torch.no_grad()
def load_training_set(
    dataset: Any,
    denoiser: Denoiser,
    objective: Objective,
    temperature: float = 1.0,
    soft_labels: float | None = None,
    scratch: Scratch | None = None,
) -> TrainingSet:
    """Read a ``datasets`` set: its latents (or its pictures, encoded once), texts, and who is preferred.

    Without the column ``preferred`` every row is a winner. A winner may meet any loser of its prompt. The column
    ``weight``, where there is one, says how much each row counts, and ``real`` which are no model's.

    Args:
        dataset: with the columns ``text``, ``latent`` or pictures, and those above.
        denoiser: encodes pictures, and holds the latents where they fit.
        objective: says how winners and losers are made items.
        temperature: of a scored objective's weights.
        soft_labels: the label of a row is its score, standardised among those of its text, over this, at most 1 and at
            least −1 (None: 1 for the preferred and −1 for the others).
        scratch: takes what is too much to be held in memory (None: all is held).

    Raises UserError: no winners, no losers where the objective needs them, latents of another model, latents
    that are not finite, weights below 0 or all 0.
    """
    texts = list(dataset["text"])
    marked = dataset["preferred"] if "preferred" in dataset.column_names else [True] * len(texts)
    preferred = torch.tensor(list(marked), dtype=torch.bool)
    latents = _latents(dataset, denoiser, scratch)
    tasks = _tasks(dataset, texts)
    unique = list({task.key: task for task in tasks}.values())
    index = {task.key: number for number, task in enumerate(unique)}
    text_of = torch.tensor([index[task.key] for task in tasks], dtype=torch.long)
    winners = torch.nonzero(preferred).flatten()
    if not len(winners):
        raise UserError("the training set has no preferred picture; run the select stage again")
    losers, first, count = _losers(preferred, text_of, len(unique))
    if objective.unpaired and not len(losers):
        raise UserError(
            f"train.objective={objective.name} learns from losers too, and the training set has none; select again with"
            " select.losers=1"
        )
    if objective.unpaired:
        winners = torch.arange(len(texts))
    if objective.pairs:
        winners = winners[count[text_of[winners]] > 0]
        if not len(winners):
            raise UserError(
                f"train.objective={objective.name} compares winners with losers, and no prompt of the training"
                " set has both; select again with select.losers=1"
            )
    digest = hashlib.sha256("\x1f".join(task.key for task in tasks).encode())
    digest.update(preferred.numpy().tobytes())
    importance = _weights(dataset, winners)
    if objective.scored:
        scored = _importance(dataset, text_of, winners, temperature)
        importance = scored if importance is None else importance * scored
    if importance is not None:
        importance = (importance / importance.mean()).float()
        digest.update(importance.numpy().tobytes())
    at = 0
    for block in blocks(latents):
        _check_finite(block, texts, at)
        digest.update(block.numpy().tobytes())
        at += len(block)
    real = None
    if "real" in dataset.column_names and any(dataset["real"]):
        real = torch.tensor(list(dataset["real"]), dtype=torch.bool)[winners]
        digest.update(real.numpy().tobytes())
    text_of = text_of[winners]
    if soft_labels is None:
        label = torch.where(preferred[winners], 1.0, -1.0)
    else:
        label = (_standard(dataset, text_of, winners) / soft_labels).clamp(-1, 1).float()
        digest.update(label.numpy().tobytes())
    return TrainingSet(
        latents, unique, winners, text_of, losers, first[text_of], count[text_of], label, importance, real,
        digest.hexdigest()[:12],
    )  # fmt: skip


def _pictured(tasks: Sequence[Task]) -> bool:
    """Whether a picture is told beside the text."""
    return any(task.picture is not None for task in tasks)


def _tasks(dataset: Any, texts: Sequence[str]) -> list[Task]:
    """Tell what each row is a picture of: its text, and the picture that it was made from, where there is one."""
    if "picture" not in dataset.column_names:
        return tasks_of(texts)
    lines = dataset["picture"]
    return [
        Task.of(text, picture=PictureRef.parse(line) if line else None)
        for text, line in zip(texts, lines, strict=True)
    ]


def _weights(dataset: Any, rows: Tensor) -> Tensor | None:
    """Read the column ``weight`` of ``rows``, float64; None where there is none, or it says nothing."""
    if "weight" not in dataset.column_names:
        return None
    weights = torch.tensor(list(dataset["weight"]), dtype=torch.float64)[rows]
    if not (weights.isfinite() & (weights >= 0)).all() or not weights.any():
        raise UserError("the training set's column weight must hold numbers of 0 or more, not all of them 0")
    return None if (weights == weights[0]).all() else weights


def _importance(dataset: Any, text_of: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Compute exp(s/τ), float64 [len(rows)] up to a factor, s each row's score standardised among those of its text."""
    exponent = _standard(dataset, text_of, rows) / temperature
    return (exponent - exponent.max()).exp()


def _standard(dataset: Any, text_of: Tensor, rows: Tensor) -> Tensor:
    """Standardise the score of each of ``rows`` among those of its text; float64."""
    if "score" not in dataset.column_names:
        raise UserError(
            "the training set has no column score, which train.objective=weighted and train.soft_labels go by; select"
            " again with this version, or use mse"
        )
    scores = torch.tensor(list(dataset["score"]), dtype=torch.float64)[rows]
    return torch.from_numpy(
        weigh({"score": scores}, [Term(1.0, "score", normalised=True)], text_of[rows].tolist())
    )


def _losers(preferred: Tensor, text_of: Tensor, texts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give (losers' rows grouped by text, where each text's begin, how many it has)."""
    rows = torch.nonzero(~preferred).flatten()
    rows = rows[torch.argsort(text_of[rows], stable=True)]
    count = torch.bincount(text_of[rows], minlength=texts)
    return rows, count.cumsum(0) - count, count


def _latents(dataset: Any, denoiser: Denoiser, scratch: Scratch | None) -> Tensor | FileLatents:
    """Read the column ``latent``, or else encode the pictures; [rows, …] float32: on the device or, where that is too
    much, from files."""
    count, shape = len(dataset), tuple(denoiser.latent_shape)
    stored = "latent" in dataset.column_names

    def encode(part: slice) -> Tensor:
        rows = dataset.select(range(part.start, part.stop))
        if stored:
            latents = datasets.latents(rows)
        else:
            latents = denoiser.encode_image(datasets.pictures(rows, part.start)).float()
        if tuple(latents.shape[1:]) != shape:
            raise UserError(
                f"the training set holds latents of {tuple(latents.shape[1:])}, this model's are {shape}; it "
                "was made by another model"
            )
        return latents

    if scratch is not None and count * 4 * math.prod(shape) > most_held(denoiser.device):
        encode(slice(0, 1))  # of this model, or refused
        places = datasets.latent_places(dataset) if stored else None
        if places is None:
            return FileLatents(scratch.write(count, lambda part: as_bytes(encode(part))), shape)
        return FileLatents(FileRows([Segment(*place) for place in places], 4 * math.prod(shape)), shape)
    held = torch.empty(count, *shape, device=denoiser.device)
    for part in chunks(count):
        held[part] = encode(part).to(denoiser.device)
    return held


def _check_finite(latents: Tensor, texts: Sequence[str], first: int) -> None:
    """Raise UserError for a latent that is not finite; ``first``: the row of the first one."""
    bad = torch.nonzero(~latents.flatten(1).isfinite().all(1)).flatten().tolist()
    if bad:
        row = first + bad[0]
        raise UserError(
            f"the latent of row {row} ({texts[row]!r}) is not finite; remove it or generate again"
        )


@dataclass(frozen=True, eq=False)
class Draw:
    """A draw says who is trained on in one step: ``item``, its ``winner`` and ``loser`` (rows of latents), ``text``
    (index; the null prompt where the caption is dropped) and ``t``, each [n]; ``noise`` [n, …]."""

    item: Tensor
    winner: Tensor
    loser: Tensor
    text: Tensor
    t: Tensor
    noise: Tensor

    def __getitem__(self, rows: slice) -> Draw:
        """Give a part of the batch; no copies."""
        return Draw(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True)
class Density:
    """Times are logit-normal (Esser et al., 2403.03206, eq. 19): logit(t / total) ~ N(mean, std²), cut to a range.

    A shift s of the noise levels (their eq. 23) only moves the logit: mean + ln s.

    >>> Density(1000)(torch.tensor([0.5], dtype=torch.float64), 0, 1000)
    tensor([500.])
    """

    total: int
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, chance: Tensor, low: float, high: float) -> Tensor:
        """Give times in low … high at the quantiles ``chance`` [n] (float64, uniform in [0, 1)) of the cut density."""
        ends = torch.tensor([low, high], dtype=torch.float64) / self.total
        first, last = torch.special.ndtr((ends.logit() - self.mean) / self.std)
        normal = torch.special.ndtri(first + (last - first) * chance)
        t = self.total * torch.sigmoid(self.mean + self.std * normal)
        return t.clamp(low, high).float()


@dataclass(eq=False)
class Draws:
    """Draws the global batch of any step. Items come in epochs, each a fresh permutation, so all are seen equally
    often."""

    data: TrainingSet
    seed: int  # of the items, times and noise
    batch_size: int  # items of a step, over all processes
    shape: Sequence[int]  # of a latent
    times: tuple[int, int]  # the lowest and the highest, which is excluded
    discrete: bool  # times are whole
    caption_dropout: float  # chance of the null prompt in the place of an item's
    pin: bool = False  # put the noise where a GPU can fetch it
    density: Density | None = None  # of the times; None: uniform

    def __post_init__(self) -> None:
        self._pairs = bool((self.data.count > 0).all())
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Draw:
        """Draw the batch of ``step``."""
        data, n = self.data, self.batch_size
        generator = torch.Generator().manual_seed(seed_of(self.seed, "step", step))
        items = self._items(step)
        low, high = self.times
        if self.density is not None:
            t = self.density(torch.rand(n, generator=generator, dtype=torch.float64), low, high)
            t = t.long().clamp(max=high - 1) if self.discrete else t
        elif self.discrete:
            t = torch.randint(low, high, (n,), generator=generator)
        else:
            t = low + (high - low) * torch.rand(n, generator=generator)
        told = data.told(items, torch.rand(n, generator=generator), self.caption_dropout)
        winner = data.winners[items]
        loser = winner
        if self._pairs:
            chance = torch.rand(n, generator=generator, dtype=torch.float64)
            loser = data.losers[data.first[items] + (chance * data.count[items]).long()]
        noise = torch.randn(n, *self.shape, generator=generator, pin_memory=self.pin)
        return Draw(items, winner, loser, told, t, noise)

    def _items(self, step: int) -> Tensor:
        """Find the items at positions step·batch … of the endless sequence of permutations."""
        size, found, at = len(self.data), [], step * self.batch_size
        end = at + self.batch_size
        while at < end:
            epoch, start = divmod(at, size)
            if epoch not in self._orders:
                generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
                self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1}
                self._orders[epoch] = torch.randperm(size, generator=generator)
            part = self._orders[epoch][start : start + end - at]
            found.append(part)
            at += len(part)
        return torch.cat(found)


# What is left out of a condition, in the order of the rows of ``Texts``.
_DROPPED = ((), ("text",), ("picture",), ("text", "picture"))


class Texts:
    """These are the conditions of the unique tasks and, last, ∅ (``null``); with pictures, those of each task without
    its text, without its picture and without both instead.

    They are encoded once, or each time while the text encoder trains.
    """

    def __init__(
        self,
        denoiser: Adapted,
        texts: Sequence[Task | str],
        trains: bool,
        anchor: Callable[[], Any] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        """Encode the texts, unless they change while they are trained on.

        Args:
            denoiser: encodes.
            texts: without repetition.
            trains: the text encoder changes with every step.
            anchor: as ``Batch.anchor``.
            scratch: takes what is too much to be held in memory (None: all is held).
        """
        self._denoiser, self._texts, self._trains = denoiser, tasks_of(texts), trains
        self._anchor, self._scratch = anchor, scratch
        self.null = len(self._texts)
        self._pictured = _pictured(self._texts)
        self._table: Condition | FileConditions | None = None if trains else self._encode_all()
        self._base: Condition | FileConditions | None = None

    @torch.no_grad()
    def _encode_all(self) -> Condition | FileConditions:
        first, *others = chunks(len(self._texts))
        begun = self._denoiser.encode(self._texts[first])
        row = sum(value.nbytes for value in begun[0].tensors.values())
        rows = len(self._texts) * (len(_DROPPED) if self._pictured else 1)
        if self._scratch is not None and row * rows > most_held(self._denoiser.device):
            return self._encode_to_files(begun)
        told = Condition.cat([begun, *(self._denoiser.encode(self._texts[part]) for part in others)])
        rest = [self._denoiser.null(1)]
        if self._pictured:
            rest = [self._denoiser.without(told, *drop) for drop in _DROPPED[1:]]
        table = Condition.cat([told, *rest])
        size = sum(value.nbytes for value in table.tensors.values())
        return table if size <= ON_DEVICE else table.to("cpu")

    def _encode_to_files(self, begun: Condition) -> FileConditions:
        """The same in files; ``begun``: the first chunk."""

        def encode(part: slice) -> Tensor:
            return packed(begun if part.start == 0 else self._denoiser.encode(self._texts[part]))

        assert self._scratch is not None
        rows = self._scratch.write(len(self._texts), encode)
        return FileConditions(rows, begun, self._denoiser.null(1), self._denoiser.retold, _DROPPED)

    @property
    def device(self) -> torch.device:
        """Say where an index into the texts should be."""
        return torch.device("cpu") if self._table is None else next(iter(self._table.tensors.values())).device

    def condition(self, index: Tensor) -> Condition:
        """Give the conditions of texts ``index`` [n] on the denoiser's device, with gradient while the text encoder
        trains."""
        if self._table is not None:
            return self._table[index].to(self._denoiser.device)
        unique, inverse = torch.unique(index, return_inverse=True)
        wanted, parts = unique.tolist(), []
        for number, drop in enumerate(_DROPPED):  # sorted, as ``unique`` is
            own = [self._texts[row % self.null] for row in wanted if row // self.null == number]
            if own and (self._pictured or not drop):
                told = self._denoiser.encode(own)
                parts.append(self._denoiser.without(told, *drop) if drop else told)
            elif own:
                parts.append(self._denoiser.null(1))
        return Condition.cat(parts)[inverse.to(self._denoiser.device)]

    def reference(self, index: Tensor) -> Condition | None:
        """Give the same from the reference's text encoder; None where that is no different."""
        if not self._trains:
            return None
        if self._base is None:
            with (self._anchor or self._denoiser.base)():
                self._base = self._encode_all()
        return self._base[index].to(self._denoiser.device)
