"""Generation in which no phrase is forgotten: the phrases of a prompt are told louder, all alike or the weakest most.

The weight w of a phrase goes to the embeddings of its tokens, e ← e_∅ + w (e − e_∅), where e_∅ is the null prompt's at
the same place (as Compel does), in all encoders that read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.noise import Time
from mitune.pixels.phrases import Phrase, phrases_of
from mitune.pixels.settings import BALANCES
from mitune.pixels.wrapped import Wrapped
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import solver_of
from mitune.tasks import Task

_OWN = "balance."  # the condition's tensors that the network does not see
COLUMNS = f"{_OWN}columns"
SAME = f"{_OWN}same"
_TOLD = f"{_OWN}told."


def balanced(denoiser: Any, sampler: SamplerConfig) -> Any:
    """Give the denoiser that ``sampler.balance`` walks with: ``denoiser`` itself where it is null.

    UserError for a model that it cannot balance, and for settings that it does not read.
    """
    sampler.balancing.check_read(sampler.balance)  # settings made in Python meet no other rule
    return denoiser if sampler.balance is None else BALANCES[sampler.balance].load()(denoiser, sampler)


def worth_balancing(phrases: Sequence[Phrase]) -> bool:
    """Tell whether there is anything to balance: two phrases at least."""
    return len(phrases) > 1


def distinct(phrases: Sequence[Phrase]) -> list[str]:
    """List the texts of phrases, each once, capitals aside."""
    return list(dict.fromkeys(map(_plain_text, phrases)))


def _plain_text(phrase: Phrase) -> str:
    return " ".join(phrase.text.lower().split())


class Balanced(Wrapped):
    """Knows the phrases of each prompt, held in the condition, and which steps are early enough.

    Its condition has, beside the model's tensors, ``COLUMNS`` [n, P, tokens]: 1 where a token is of a phrase; P is the
    most phrases that a prompt of the batch has, and the rows of prompts with fewer than two are zero.
    """

    def __init__(self, inner: Any, sampler: SamplerConfig) -> None:
        super().__init__(inner)
        name = str(sampler.balance)
        if inner.edits_pictures:
            raise UserError(
                f"sampler.balance={name}: {inner.identity} edits pictures, and its prompts ask for changes, not for"
                " things; say sampler.balance=null"
            )
        self.settings = sampler.balancing.filled(name)
        inner.spans("a")  # UserError: it reads no tokens
        times = [float(at.time) for at in solver_of(inner, sampler).steps]
        early = times[: max(1, math.ceil(float(self.settings.share or 1) * len(times) - 1e-9))]
        self._places = {time: place / max(1, len(times) - 1) for place, time in enumerate(times)}
        self._last = early[-1]

    # -- the condition -----------------------------------------------------------------------------------------------

    def encode(self, tasks: Sequence[Task]) -> Condition:
        """Say each task, with its phrases."""
        return self._with_phrases(self.inner.encode(tasks), [task.text for task in tasks])

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Say texts, with their phrases."""
        return self._with_phrases(self.inner.encode_prompts(prompts), prompts)

    def _with_phrases(self, told: Condition, prompts: Sequence[str]) -> Condition:
        found = [phrases_of(prompt, str(self.settings.phrases)) for prompt in prompts]
        found = [own if worth_balancing(own) else () for own in found]
        self._nothing = self.inner.null(1).tensors["text"]
        more = self._described(prompts, found, told.tensors["text"].shape[1])
        device = told.tensors["text"].device
        return Condition({**told.tensors, **{name: value.to(device) for name, value in more.items()}})

    def _described(
        self, prompts: Sequence[str], phrases: Sequence[Sequence[Phrase]], tokens: int
    ) -> dict[str, Tensor]:
        """The tensors of the condition that tell of the phrases."""
        columns = torch.zeros(len(prompts), max(map(len, phrases), default=0), tokens)
        for row, of in enumerate(self.inner.token_spans(prompts, phrases, "phrase")):
            for place, encoders in enumerate(of):
                for found in encoders.values():
                    columns[row, place, list(found)] = 1.0
        return {COLUMNS: columns}

    def widened(self, given: Condition) -> Condition:
        """Join the conditions of all branches; those with less than the text have no phrases."""
        plain = self.inner.widened(plain_of(given))
        gap = len(plain) - len(given)
        more = {
            name: torch.cat([value.new_zeros(gap, *value.shape[1:]), value])
            for name, value in given.tensors.items()
            if name.startswith(_OWN)
        }
        return Condition({**plain.tensors, **more})

    # -- the network -------------------------------------------------------------------------------------------------

    def early(self, t: Time) -> bool:
        """Tell whether the step at a time that the network is told is one of the first that are balanced."""
        return float(t) >= self._last

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Any = None) -> Tensor:
        """Do as the model inside, which is not told of phrases."""
        return self.inner.predict(z, t, plain_of(condition), tap)

    def outputs(
        self, z: Tensor, t: Time, given: Condition, guidance: float, tap: Any = None
    ) -> tuple[Tensor, ...]:
        """Give the network's raw outputs, told the phrases by their weights.

        Args:
            z, t, given, guidance, tap: as of the model inside.
        """
        plain, own = plain_of(given), given[len(given) - len(z) :]
        weights = self.weights(z, t, own) if self.early(t) else None
        if weights is not None:
            text = plain.tensors["text"]
            louder = weighed(own.tensors["text"], self._nothing, own.tensors[COLUMNS], weights)
            plain = Condition({**plain.tensors, "text": torch.cat([text[: len(text) - len(z)], louder])})
        return self.inner.outputs(z, t, plain, guidance, tap)

    def weights(self, z: Tensor, t: Time, own: Condition) -> Tensor | None:
        """Give the weight [n, P] of each phrase at ``z`` [n, …], which is told ``own`` [n]; None: all are 1."""
        return None


class Uniform(Balanced):
    """Every phrase has the same weight at every step: what ``ByGap`` has to be held against."""

    def weights(self, z: Tensor, t: Time, own: Condition) -> Tensor | None:
        """Give ``strength`` for all."""
        columns = own.tensors[COLUMNS]
        return columns.new_full(columns.shape[:2], float(self.settings.strength or 1))


class ByGap(Balanced):
    """The phrases whose own prediction is far from the prompt's are told louder (Zhou et al., arXiv 2506.09740).

    Its condition also has that of every phrase alone, [n, P, …], and ``SAME`` [n, P]: the first place of the same text
    among the phrases of the prompt. A text that is there twice is asked once: two answers would differ by rounding, and
    the spread would make that 0 and 1.
    """

    def _described(
        self, prompts: Sequence[str], phrases: Sequence[Sequence[Phrase]], tokens: int
    ) -> dict[str, Tensor]:
        found = super()._described(prompts, phrases, tokens)
        texts = {_plain_text(phrase): phrase.text for of in phrases for phrase in of}
        if not texts:
            return found
        most = found[COLUMNS].shape[1]
        index, same = (
            torch.zeros(len(phrases), most, dtype=torch.long),
            torch.arange(most).repeat(len(phrases), 1),
        )
        for row, of in enumerate(phrases):
            for place, phrase in enumerate(of):
                index[row, place] = [*texts].index(_plain_text(phrase))
                same[row, place] = [_plain_text(one) for one in of].index(_plain_text(phrase))
        found[SAME] = same
        told = self.inner.encode_prompts([*texts.values()])
        return found | {
            f"{_TOLD}{name}": value[index.to(value.device)] for name, value in told.tensors.items()
        }

    def weights(self, z: Tensor, t: Time, own: Condition) -> Tensor | None:
        """Give strengthⁿ, n the phrase's gap brought to 0…1 among those of its prompt."""
        there = own.tensors[COLUMNS].any(-1)
        if not there.shape[1]:
            return None
        same = own.tensors[SAME]
        first = there & (same == torch.arange(there.shape[1], device=same.device))
        asked = (first.sum(1) > 1).nonzero().flatten()  # else all are alike
        if not len(asked):
            return None
        rows, places = (first & (first.sum(1, keepdim=True) > 1)).nonzero(as_tuple=True)
        told = {
            name.removeprefix(_TOLD): value for name, value in own.tensors.items() if name.startswith(_TOLD)
        }
        alone = Condition({name: value[rows, places] for name, value in told.items()})
        outputs = self._predict(
            z[torch.cat([asked, rows])],
            t,
            Condition.cat([plain_of(own)[asked], alone]),
            self.inner.branches * len(z),
        )
        whole = torch.zeros_like(z)
        whole[asked] = outputs[: len(asked)]
        # ε̂ is the output times a number of t, beside what all have in common, so that gaps in the output do as well.
        gaps = (outputs[len(asked) :] - whole[rows]).flatten(1).square().mean(1)
        losses = gaps.new_zeros(there.shape)
        losses[rows, places] = gaps
        losses = losses.gather(1, same)
        return float(self.settings.strength or 1) ** spread(losses, there)

    def _predict(self, z: Tensor, t: Time, told: Condition, at_once: int) -> Tensor:
        """Raw outputs, as many rows at once as a guided step has."""
        parts = (slice(start, start + at_once) for start in range(0, len(z), at_once))
        return torch.cat([self.inner.predict(z[part], t, told[part]) for part in parts])


def spread(losses: Tensor, there: Tensor) -> Tensor:
    """Bring losses [n, P] to 0 (the least of a row) … 1 (the most), among those that are ``there``; 0 where all are
    equal.

    >>> spread(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[True, True, True]]))
    tensor([[0.0000, 1.0000, 0.5000]])
    """
    low = losses.masked_fill(~there, math.inf).amin(1, keepdim=True)
    high = losses.masked_fill(~there, -math.inf).amax(1, keepdim=True)
    gap = high - low
    share = (losses - low) / gap
    return torch.where(there & (gap > 0), share, torch.zeros_like(losses))


def weighed(text: Tensor, nothing: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """Give e_∅ + w (e − e_∅) of embeddings e [n, tokens, width], bit for bit e where w is 1.

    Args:
        text, nothing: e, and e_∅ [1, tokens, width].
        columns: [n, P, tokens], 1 where a token is of a phrase.
        weights: of the phrases [n, P]; a token of two has their product.
    """
    each = torch.where(columns > 0, weights.unsqueeze(-1).to(columns), torch.ones_like(columns)).prod(1)
    return torch.lerp(nothing.to(text).expand_as(text), text, each.unsqueeze(-1).to(text))


def plain_of(given: Condition) -> Condition:
    """Leave out what only balancing goes by."""
    return Condition({name: value for name, value in given.tensors.items() if not name.startswith(_OWN)})
