"""The one interface every method sees: a network that tells the noise in a latent, given a condition or none.

``Denoiser`` hides the model family; the exact one of :mod:`mitune.analytic` is its test double.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mitune.errors import UserError, short
from mitune.maps import AttentionMaps, Columns, Parts, Place, Shape, Sums
from mitune.noise import NoiseSchedule, Time
from mitune.tasks import Task, check_texts_only


@dataclass(frozen=True, eq=False)
class Condition:
    """Holds what the network is told beside (z, t): named tensors, each [n, …], row i belonging to candidate i.

    >>> Condition({"text": torch.zeros(2, 77, 768)}).repeat_interleave(3)[[0, 5]].tensors["text"].shape
    torch.Size([2, 77, 768])
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Condition:
        """Choose rows; one index keeps its row axis, so the result is always a batch."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        if isinstance(rows, slice):
            return Condition({name: value[rows] for name, value in self.tensors.items()})
        index = torch.as_tensor(rows)
        return Condition({name: value[index.to(value.device)] for name, value in self.tensors.items()})

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Join batches along the rows. ValueError if they do not hold the same tensors."""
        names = list(conditions[0].tensors)
        if any(set(other.tensors) != set(names) for other in conditions):
            raise ValueError("conditions of different kinds cannot be joined")
        return Condition({name: torch.cat([c.tensors[name] for c in conditions]) for name in names})

    def repeat_interleave(self, times: int) -> Condition:
        """Each row ``times`` times in a row: a, a, b, b, …"""
        return Condition(
            {name: value.repeat_interleave(times, dim=0) for name, value in self.tensors.items()}
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Condition:
        """Move to a device; cast the floating-point tensors (token ids and masks keep their type)."""
        return Condition(
            {
                name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
                for name, value in self.tensors.items()
            }
        )


class Tap(Protocol):
    """Looks at the attention of a forward, and may change it.

    >>> class Mean:
    ...     def layer(self, place, kind, maps):
    ...         self.total = getattr(self, "total", 0.0) + maps.mean(1)  # over the heads
    """

    def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
        """Take the maps [n, heads, queries, keys], float32, rows that sum to 1, of the layer named ``place``.

        ``kind``: "self" (picture to picture), "cross" (picture to text) or "joint" (both to both). Other maps that are
        returned are used in their place; None leaves them. Gradients flow through them.
        """


@dataclass(frozen=True)
class Span:
    """A word of a text, its characters ``start`` … ``stop``, and its ``columns`` of the condition's text by encoder.

    A word that an encoder cuts off has no columns there.
    """

    word: str
    start: int
    stop: int
    columns: Mapping[str, tuple[int, ...]]


class Denoiser(ABC):
    """A model that estimates the noise ε̂(z_t, t, c) in a latent. Subclasses set the attributes below.

    ``forwards`` counts the rows sent through the network; ``predict`` adds to it, the caller resets it.
    """

    schedule: NoiseSchedule
    prediction_type: str
    latent_shape: tuple[int, ...]
    """Shape of one latent, (C, H, W)."""
    picture_size: tuple[int, int]
    """(height, width) of a decoded picture."""
    network: nn.Module | None
    """The module adapters attach to."""
    device: torch.device
    dtype: torch.dtype
    """Type of the network's weights; latents are cast at its door and come back in their own type."""
    identity: str
    """Model id with its revision or hash."""
    branches: int = 2
    """Network rows of a guided step of one candidate: without the text and with it, and maybe with less than either."""
    edits_pictures: bool = False
    """Whether every task has to have a picture; of other models none may have one."""
    moves: bool = False
    """Whether it moves z before a step of the sampler (``placed``)."""
    forwards: int = 0

    @property
    def sampler_defaults(self) -> Mapping[str, Any]:
        """The fields of a ``SamplerConfig`` that lay out its steps, as this model was made to be sampled."""
        return {"spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": False}

    def encode(self, tasks: Sequence[Task]) -> Condition:
        """Say each task to the network: one row each. UserError for a picture where the model takes a text alone."""
        check_texts_only(tasks, self.identity)
        return self.encode_prompts([task.text for task in tasks])

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Say texts alone: one row per prompt."""

    @abstractmethod
    def null(self, n: int) -> Condition:
        """Give ``n`` rows of ∅: nothing is said at all."""

    @abstractmethod
    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | Sums | None = None) -> Tensor:
        """Give the raw network output [n, …] at ``z`` [n, …], time ``t`` (a number or [n]); differentiable.

        The implementation adds n to ``forwards`` and casts ``z`` to the network's own dtype. ``tap`` looks at the
        attention (``Sums`` add up its maps); UserError where there is none to be seen.
        """

    @abstractmethod
    def encode_image(self, pictures: Tensor) -> Tensor:
        """Scaled latents [n, C, H, W] (posterior mean) of ``pictures`` [n, 3, h, w] in [0, 1]."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] float in [0, 1] of the latents ``z``; batched inside."""

    @property
    def pictures_at_once(self) -> int:
        """Count how many pictures ``decode`` and ``encode_image`` take in one go: a call with more of them saves
        nothing, and gives the same as so many calls."""
        return 64

    def epsilon(self, z: Tensor, t: Time, condition: Condition) -> Tensor:
        """ε̂(z_t, t, c) [n, …] in the dtype of ``z``."""
        return self.schedule.to_epsilon(self.predict(z, t, condition), z, t, self.prediction_type)

    # -- attention ---------------------------------------------------------------------------------------------------

    def to_text(self, kind: str, maps: Tensor) -> Tensor | None:
        """Cut from maps how the picture looks at the text [n, heads, picture, text]; None where it does not.

        UserError where the model reads no tokens of a text.
        """
        raise self._no_tokens()

    def spans(self, text: str) -> list[Span]:
        """Find the words of a text, and which columns of the condition's ``text`` each has in every encoder.

        UserError where the model reads no tokens of a text.
        """
        raise self._no_tokens()

    def parts(self, kind: str, queries: int, keys: int) -> Parts:
        """Tell where picture and text are in the maps of a layer. UserError where the model reads no tokens."""
        raise self._no_tokens()

    @property
    def map_grid(self) -> Shape:
        """(H, W) of the tokens that the network makes of a latent."""
        return self.latent_shape[-2], self.latent_shape[-1]

    @property
    def one_grid(self) -> bool:
        """Tell whether all layers look at that grid, and none at a coarser one."""
        return True

    def look(
        self, z: Tensor, t: Time, condition: Condition, words: Tensor | None = None, own: bool = True
    ) -> tuple[Tensor, AttentionMaps]:
        """Give what ``predict`` gives, and the attention maps of the same forward.

        Args:
            z, t, condition, words, own: as of ``attention``.
        """
        if len(self.latent_shape) < 2:
            raise self._no_tokens()
        sums = Sums(self.parts, self.map_grid, words, self.one_grid, own)
        with torch.no_grad():
            output = self.predict(z, t, condition, sums)
        return output, sums.result()

    def attention(
        self, z: Tensor, t: Time, condition: Condition, words: Tensor | None = None, own: bool = True
    ) -> AttentionMaps:
        """Give the attention maps of one forward, which counts in ``forwards``.

        Args:
            z, t, condition: as of ``predict``.
            words: weights [n, P, tokens] that average the columns of each word (``mitune.maps.words_of``); None: every
                token by itself.
            own: whether the maps of the picture to itself are wanted.

        UserError where there are no maps: a compiled network, another backend of attention, none.
        """
        return self.look(z, t, condition, words, own)[1]

    def token_spans(
        self, prompts: Sequence[str], phrases: Sequence[Sequence[Place]], columns: str = "noun"
    ) -> list[list[Columns]]:
        """Find the columns of the condition's text that each phrase of each prompt has, by encoder.

        ``columns``: those of its "noun" alone, or of the whole "phrase". An encoder that does not read it is left out;
        UserError where none does.
        """
        return [
            [self._columns(prompt, phrase, columns) for phrase in of]
            for prompt, of in zip(prompts, phrases, strict=True)
        ]

    def _columns(self, prompt: str, phrase: Place, columns: str) -> Columns:
        start, stop = phrase.noun if columns == "noun" else (phrase.start, phrase.stop)
        found: dict[str, tuple[int, ...]] = {}
        for span in self.spans(prompt):
            if span.start < stop and span.stop > start:
                for encoder, places in span.columns.items():
                    found[encoder] = tuple(dict.fromkeys((*found.get(encoder, ()), *places)))
        found = {encoder: places for encoder, places in found.items() if places}
        if not found:
            raise UserError(
                f"the phrase {short(phrase.text)!r} is not read: the text encoder cuts the prompt {short(prompt)!r}"
                " off before it; write a shorter prompt, or leave the phrase out"
            )
        return found

    def _no_tokens(self) -> UserError:
        return UserError(
            f"{self.identity}: the model reads no tokens of a text to look at; take one with a text encoder"
        )

    # -- guidance ----------------------------------------------------------------------------------------------------

    def placed(self, z: Tensor, t: Time, given: Condition) -> Tensor:
        """Give where the step at ``t`` begins: ``z`` [n, …], told ``given``, unless the denoiser ``moves``."""
        return z

    def retold(self, given: Condition, told: Condition) -> Condition:
        """Take the text of ``told`` and all else of ``given``: ``told`` itself where a model is told a text alone."""
        return told

    def without(self, given: Condition, *parts: str) -> Condition:
        """Leave ``parts`` out of ``given``: "text", "picture" (what is told beside the text), or both, which is ∅."""
        nothing = self.null(len(given))
        text, rest = (nothing if part in parts else given for part in ("text", "picture"))
        return self.retold(rest, text)

    def reference(self, given: Condition) -> Condition:
        """Leave the text out of ``given``: what guidance pushes away from, and what information about the text is
        measured against. Of a model that is told a text alone it is ∅.
        """
        return self.without(given, "text")

    def widened(self, given: Condition) -> Condition:
        """Join the conditions of all branches of one forward [branches · n]: the least told first, ``given`` last."""
        return Condition.cat([self.reference(given), given])

    def needs_branches(self, guidance: float) -> bool:
        """Tell whether the guided output differs from the one with c alone."""
        return guidance != 1

    def combine(self, outputs: Sequence[Tensor], guidance: float) -> tuple[Tensor, Tensor, Tensor]:
        """(output with c, output of the ``reference``, guided output), each [n, …], of the branches' ``outputs``.

        Classifier-free guidance (Ho and Salimans, 2207.12598): reference + guidance · (with c − reference).
        """
        reference, cond = outputs
        return cond, reference, torch.lerp(reference, cond, guidance)

    def outputs(
        self, z: Tensor, t: Time, given: Condition, guidance: float, tap: Tap | Sums | None = None
    ) -> tuple[Tensor, ...]:
        """The network's raw outputs [n, …] at ``z`` [n, …], the one to go by last, from one forward.

        Args:
            z, t, tap: as of ``predict``.
            given: ``widened``, for the outputs of ``combine``; of n rows for the one with c alone.
            guidance: of ``combine``.
        """
        if len(given) <= len(z):
            return (self.predict(z, t, given, tap).to(z.dtype),)
        count = self.branches
        times = torch.cat([t] * count) if isinstance(t, Tensor) and t.ndim else t
        outputs = self.predict(torch.cat([z] * count), times, given, tap).to(z.dtype)
        return self.combine(outputs.chunk(count), guidance)
