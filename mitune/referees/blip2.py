"""BLIP-2 as a judge (Li et al. 2023): its Q-Former reads picture and text together (ITM), or each by itself (ITC).

The parts of transformers' class are called one by one: where ``config.image_token_index`` is set, its forward cuts the
first tokens of a text that was not made by its own processor, and says nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mitune.families.options import find_dtype
from mitune.referees.blip import BlipReward, Remembered, match_score
from mitune.referees.blip_texts import BlipTexts, clean_caption
from mitune.referees.catalogue import Blip2ItcConfig, Blip2ItmConfig

LENGTH = 32
"""Tokens of a text that BLIP-2 reads, as in its training."""


class Blip2Reward(BlipReward):
    """Both heads read what the Q-Former makes of the picture's queries, and of texts as it embeds them."""

    architecture = "Blip2ForImageTextRetrieval"
    family = "blip-2"
    length = LENGTH

    def __init__(self, settings: Blip2ItmConfig | Blip2ItcConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self._format = find_dtype(settings.dtype, self.device)

    def _dtype(self) -> torch.dtype:
        return self._format

    @cached_property
    def texts(self) -> BlipTexts:
        """The tokenizer: BERT's, to which nothing needs to be added."""
        rows = self.model.embeddings.word_embeddings.num_embeddings
        return BlipTexts(self.source, rows, self.length, rows - 2, self.device)

    def _queries(self, n: int) -> Tensor:
        return self.model.query_tokens.expand(n, -1, -1)

    def _read(self, embedded: Tensor, queries: int, mask: Tensor | None, seen: Tensor | None = None) -> Any:
        """The Q-Former's states of ``embedded``, of which the first ``queries`` look at what was ``seen``."""
        return self.model.qformer(
            query_embeds=embedded, query_length=queries, attention_mask=mask, encoder_hidden_states=seen
        ).last_hidden_state


class Blip2ItmReward(Blip2Reward):
    """Judges by BLIP-2's image-text matching head, its logits averaged over the queries."""

    name = "blip2_itm"

    def __init__(self, settings: Blip2ItmConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self.form = settings.form

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        tokens = self.texts.tokens([clean_caption(prompt) for prompt in prompts])
        queries = self._queries(len(prompts))
        mask = torch.cat([tokens.mask.new_ones(queries.shape[:2]), tokens.mask], dim=1)
        embedded = self.model.embeddings(input_ids=tokens.ids, query_embeds=queries)
        states = self._read(embedded, queries.shape[1], mask, self.seen(pictures))[:, : queries.shape[1]]
        head = self.model.itm_head
        return match_score(head(states.to(head.weight.dtype)).mean(1), self.form)


class Blip2ItcReward(Blip2Reward):
    """Judges by the cosine of text and picture, the largest over the queries; a text is encoded once."""

    name = "blip2_itc"

    def __init__(self, settings: Blip2ItcConfig, device: torch.device | str) -> None:
        super().__init__(settings, device)
        self._text_features = Remembered(self._encode, settings.batch_size)

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self.texts.tokens([clean_caption(text) for text in texts])
        states = self._read(self.model.embeddings(input_ids=tokens.ids), 0, tokens.mask)[:, 0]
        return self._feature(self.model.text_projection, states)

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward."""
        queries = self._queries(len(prompts))
        states = self._read(queries, queries.shape[1], None, self.seen(pictures))
        picture = self._feature(self.model.vision_projection, states)
        return (picture * self._text_features(prompts)[:, None]).sum(-1).amax(1)

    @staticmethod
    def _feature(projection: Any, states: Tensor) -> Tensor:
        """Features of length one, in float32."""
        return functional.normalize(projection(states.to(projection.weight.dtype)).float(), dim=-1)
