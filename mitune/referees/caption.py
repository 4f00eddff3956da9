"""BLIP's captioner as a judge: log P(prompt | picture), the likelihood that it would describe the picture so."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mitune.referees.blip import BlipReward
from mitune.referees.blip_texts import clean_caption
from mitune.referees.catalogue import CaptionConfig

LENGTH = 40
"""Tokens of a caption that BLIP learnt from."""


class CaptionReward(BlipReward):
    """Judges by log P(prompt | picture) in nats, the end of the caption included; differentiable.

    ``form``: "mean", per token, as the captioner's own loss is (and L_LM of Referee Can Play), so that long prompts
    are not worse by their length; "sum", of the whole prompt. It is the likelihood itself: what config.json says of
    ``label_smoothing``, which training uses, is left out, as are tokens that only pad a batch.
    """

    name = "caption"
    architecture = "BlipForConditionalGeneration"
    length = LENGTH

    def __init__(self, settings: CaptionConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self.form, self.prefix = settings.form, clean_caption(settings.prefix or "")

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        captions = [clean_caption(f"{self.prefix} {prompt}") for prompt in prompts]
        tokens = self.texts.tokens(captions, self.texts.decoder)
        logits = self.model.text_decoder(
            tokens.ids,
            attention_mask=tokens.mask,
            encoder_hidden_states=self.seen(pictures),
            use_cache=False,
        ).logits[:, :-1]
        said = -functional.cross_entropy(logits.float().transpose(1, 2), tokens.ids[:, 1:], reduction="none")
        counted = tokens.mask[:, 1:].clone()
        counted[:, : self._given] = 0
        total = (said * counted).sum(1)
        return total / counted.sum(1).clamp(min=1) if self.form == "mean" else total

    @property
    def _given(self) -> int:
        """Tokens of the prefix: [CLS] and [SEP] stand around it."""
        return self.texts.tokens([self.prefix]).ids.shape[1] - 2 if self.prefix else 0
