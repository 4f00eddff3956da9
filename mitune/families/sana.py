"""Sana: linear attention over strongly compressed latents, told by Gemma (Xie et al., 2410.10629)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mitune.families import attention
from mitune.families.latent import LatentDenoiser


class SanaDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, Gemma tokens, width], "mask": [n, Gemma tokens]}``.

    Prompts are read behind the instruction the pipeline gives Gemma ("enhance the user prompt …"), ∅ without it.
    """

    pipelines = ("SanaPipeline",)
    text_tokens = 300

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        return self._read(prompts, _instruction(self._pipeline))

    def _encode_null(self) -> Mapping[str, Tensor]:
        return self._read([""], None)

    def _read(self, prompts: list[str], instruction: list[str] | None) -> Mapping[str, Tensor]:
        text, mask, _, _ = self._pipeline.encode_prompt(
            prompts,
            False,
            device=self.device,
            max_sequence_length=self._text_tokens,
            complex_human_instruction=instruction,
        )
        return {"text": text, "mask": mask}

    def _readers(self) -> list[attention.Reader]:
        """Kept are the first token, and the last ones; so a prompt's columns begin where the instruction ends."""
        before, tokenizer = "\n".join(_instruction(self._pipeline)), self._pipeline.tokenizer
        count = len(tokenizer.encode(before))
        limit = count + self._text_tokens - 2
        return [attention.Reader("text_encoder", tokenizer, limit, 2 - count, before, lower=True)]

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        output = self.network(
            z,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=t * self.network.config.timestep_scale,
            return_dict=False,
        )[0]
        return output[:, : z.shape[1]]


def _instruction(pipeline: Any) -> list[str]:
    """What the pipeline itself puts before every prompt: the default of its call."""
    return inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
