"""Stable Diffusion 3 and 3.5: a transformer over picture and text tokens, rectified flow (Esser et al., 2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mitune.errors import UserError
from mitune.families import attention
from mitune.families.latent import ATTENTION, LatentDenoiser


class SD3Denoiser(LatentDenoiser):
    """The condition is ``{"text": [n, CLIP and T5 tokens, width], "pooled": [n, width of both CLIPs]}``.

    Of the three text encoders any may be absent; zeros stand in its place, as they did when it was dropped in training.
    A model made for a single CLIP (its tokens as wide as its pooled feature) never had T5, and has CLIP's tokens only.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    encoder_names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    adapted_encoders = ("text_encoder", "text_encoder_2")
    optional_encoders = encoder_names
    text_tokens = 256
    joint = "picture first"
    adapter_targets = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    def _check(self) -> None:
        if not self._encoders:
            raise UserError(
                f"{self.identity} has none of its text encoders ({', '.join(self.encoder_names)}): prompts "
                "cannot be encoded; use a folder that has one"
            )

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        clips = [self._clip(prompts, name) for name in self.encoder_names[:2]]
        known = [features for features in clips if features is not None]
        config: Any = self.network.config
        width = config.joint_attention_dim
        absent = config.pooled_projection_dim - sum(pooled.shape[-1] for _, pooled in known)
        tokens = known[0][0].shape[1] if known else self._pipeline.tokenizer_max_length
        gap = self._zeros(len(prompts), tokens, absent), self._zeros(len(prompts), absent)
        placed = [features or gap for features in clips] if known else [gap]
        text = torch.cat([text for text, _ in placed], dim=-1)
        pooled = torch.cat([pooled for _, pooled in placed], dim=-1)
        parts = [F.pad(text, (0, width - text.shape[-1]))]
        if "text_encoder_3" in self._encoders:
            parts.append(self._t5(prompts))
        elif len(known) == 2 or width > config.pooled_projection_dim:
            parts.append(self._zeros(len(prompts), self._text_tokens, width))
        return {"text": torch.cat([part.to(self.dtype) for part in parts], dim=1), "pooled": pooled}

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _clip(self, prompts: list[str], name: str) -> tuple[Tensor, Tensor] | None:
        """(hidden states before the last layer [n, tokens, width], projected pooled feature [n, width])."""
        if name not in self._encoders:
            return None
        tokenizer = getattr(self._pipeline, name.replace("text_encoder", "tokenizer"))
        ids = self._tokens(tokenizer, prompts, tokenizer.model_max_length)
        output = self._encoders[name](ids, output_hidden_states=True)
        return output.hidden_states[-2], output[0]

    def _t5(self, prompts: list[str]) -> Tensor:
        return self._encoders["text_encoder_3"](
            self._tokens(self._pipeline.tokenizer_3, prompts, self._text_tokens)
        )[0]

    def _tokens(self, tokenizer: Any, prompts: list[str], length: int) -> Tensor:
        rows = tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return rows.input_ids.to(self.device)

    def _readers(self) -> list[attention.Reader]:
        clips = self._pipeline.tokenizer_max_length
        return [
            reader._replace(first=clips) if reader.name == "text_encoder_3" else reader
            for reader in super()._readers()
        ]

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return self.network(
            hidden_states=z,
            timestep=t,
            encoder_hidden_states=condition["text"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
