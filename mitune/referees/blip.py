"""BLIP as a judge (Li et al. 2022): does the text match the picture, read together (ITM) or each by itself (ITC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mitune.errors import UserError
from mitune.referees.blip_texts import BlipTexts, Tokens, clean_caption, distinct
from mitune.referees.catalogue import BlipItcConfig, BlipItmConfig, ReaderConfig
from mitune.referees.judge_files import find_judge
from mitune.referees.networks import check_model_type, open_network, preprocess_of
from mitune.referees.pairs import check_pairs, in_batches

LENGTH = 35
"""Tokens of a text that BLIP reads, as in its training."""
_KEPT = 50_000  # texts whose features are kept


class BlipReward:
    """A judge of the family opens one transformers class, shows it pictures and gives it cleaned texts.

    Subclasses say the class, and the scores of a batch.
    """

    name: str
    key = ""
    """The key that names the folder, where it is not the judge's own ``path``."""
    differentiable = True
    architecture: str
    family = "blip"
    length = LENGTH

    def __init__(self, settings: ReaderConfig, device: torch.device | str, side: int | None = None) -> None:
        settings.check(f"scorer.{self.name}.")
        self.source = find_judge(settings.path, self.key or f"scorer.{self.name}.path", settings.revision)
        check_model_type(self.source, (self.family,), self.architecture)
        self.device, self.batch_size = torch.device(device), settings.batch_size
        self._check_class()
        steps = preprocess_of(self.source)
        self.preprocess = dataclasses.replace(steps, resize=(side, side), crop=None) if side else steps

    def _check_class(self) -> None:
        """Another class of the family has other heads: refused before its weights are read."""
        told = self.source.configuration().get("architectures")
        if isinstance(told, list) and told and self.architecture not in told:
            raise UserError(
                f"{self.source.key}={self.source.name} is no {self.architecture}: its config.json says {told[0]!s};"
                f" the score {self.name} needs that class's weights"
            )

    @property
    def identity(self) -> str:
        """The weights that judge."""
        return self.source.identity

    @cached_property
    def model(self) -> Any:
        """The network, frozen; gradients still flow through it."""
        import transformers

        kind = getattr(transformers, self.architecture)
        return open_network(kind, self.source, self.architecture, self.device, self._dtype())

    def _dtype(self) -> torch.dtype:
        return torch.float32

    @cached_property
    def texts(self) -> BlipTexts:
        """The tokenizer."""
        config = self.model.config.text_config
        return BlipTexts(self.source, config.vocab_size, self.length, config.bos_token_id, self.device)

    def seen(self, pictures: Tensor) -> Tensor:
        """Give what the network sees in ``pictures`` [n, 3, H, W] in [0, 1]: states [n, patches + 1, d]."""
        pixels = self.preprocess(pictures.to(self.device))
        own = self.model.config.vision_config.image_size
        interpolate = tuple(pixels.shape[-2:]) != (own, own)
        return self.model.vision_model(
            pixel_values=pixels, interpolate_pos_encoding=interpolate
        ).last_hidden_state

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        return in_batches(self.batch_scores, self.batch_size, pictures, prompts)

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        raise NotImplementedError


class Remembered:
    """Features of texts, each encoded once.

    Remembered(encode, 32)(texts): ``encode`` gives features [n, d] of texts; 32 texts a forward.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], batch_size: int) -> None:
        self._encode, self._batch_size = encode, batch_size
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Features [n, d]."""
        if len(self._known) > _KEPT:
            self._known.clear()
        fresh = [text for text in distinct(texts)[0] if text not in self._known]
        if fresh:
            self._known |= dict(zip(fresh, in_batches(self._encode, self._batch_size, fresh), strict=True))
        return torch.stack([self._known[text] for text in texts])


def match_score(logits: Tensor, form: str) -> Tensor:
    """Give log P(match), or P(match), of ``logits`` [n, 2] of "no match" and "match"."""
    log = functional.log_softmax(logits.float(), dim=-1)[:, 1]
    return log.exp() if form == "probability" else log


class BlipItmReward(BlipReward):
    """Judges by BLIP's image-text matching head. The text begins with [ENC], as in the training of that head;
    transformers' own processor leaves [CLS] there.
    """

    name = "blip_itm"
    architecture = "BlipForImageTextRetrieval"

    def __init__(self, settings: BlipItmConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self.form = settings.form

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        tokens = self.texts.tokens([clean_caption(prompt) for prompt in prompts], self.texts.encoder)
        states = self.model.text_encoder(
            tokens.ids, attention_mask=tokens.mask, encoder_hidden_states=self.seen(pictures)
        ).last_hidden_state
        return match_score(self.model.itm_head(states[:, 0]), self.form)


class BlipItcReward(BlipReward):
    """Judges by the cosine of BLIP's features of picture and text; a text is encoded once."""

    name = "blip_itc"
    architecture = "BlipForImageTextRetrieval"

    def __init__(self, settings: BlipItcConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self._text_features = Remembered(self._encode, settings.batch_size)

    def _encode(self, texts: list[str]) -> Tensor:
        tokens: Tokens = self.texts.tokens([clean_caption(text) for text in texts])
        states = self.model.text_encoder(tokens.ids, attention_mask=tokens.mask).last_hidden_state
        return functional.normalize(self.model.text_proj(states[:, 0]), dim=-1)

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        picture = functional.normalize(self.model.vision_proj(self.seen(pictures)[:, 0]), dim=-1)
        return (picture * self._text_features(prompts)).sum(-1)
