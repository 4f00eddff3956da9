"""FLUX.1: a transformer over packed latents, CLIP and T5, rectified flow with a shift that follows the size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.families import attention
from mitune.families.latent import ATTENTION, LatentDenoiser
from mitune.noise import NoiseSchedule


class FluxDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, T5 tokens, width], "pooled": [n, CLIP's width]}``.

    A latent keeps its picture shape [16, h, w] everywhere; each 2 x 2 of its cells is one token inside.
    """

    pipelines = ("FluxPipeline",)
    encoder_names = ("text_encoder", "text_encoder_2")
    adapted_encoders = ("text_encoder",)
    adapter_targets = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    latent_patch = 2
    text_tokens = 512
    joint = "text first"

    def _check(self) -> None:
        if self.network.config.guidance_embeds and self._guidance is None:
            raise UserError(
                f"{self.identity} is guidance-distilled: guidance is built into its output, which is no estimate of "
                "p(z|c), so no information can be measured; say model.guidance_embedding=1 (it then stands for "
                "its teacher without guidance, and ∅ is the empty prompt), or use a de-distilled model"
            )

    def _own_sides(self) -> Any:
        return self._pipeline.default_sample_size

    def _latent_channels(self) -> int:
        return int(self.network.config.in_channels) // 4

    def _schedule(self, config: Mapping[str, Any]) -> NoiseSchedule:
        tokens = (self.latent_shape[1] // 2) * (self.latent_shape[2] // 2)
        return NoiseSchedule.from_config(config, tokens, even=True)

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        text, pooled, _ = self._pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self._text_tokens
        )
        return {"text": text, "pooled": pooled}

    def _prompt_limits(self) -> list[tuple[Any, int]]:
        return [(self._pipeline.tokenizer_2, self._text_tokens)]

    def _readers(self) -> list[attention.Reader]:
        return [attention.Reader("text_encoder_2", self._pipeline.tokenizer_2, self._text_tokens)]

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        height, width = z.shape[-2:]
        text = condition["text"]
        guidance = None if self._guidance is None else torch.full_like(t, self._guidance, dtype=torch.float32)
        packed = self.network(
            hidden_states=pack(z),
            timestep=t / 1000,
            guidance=guidance,
            pooled_projections=condition["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=z.device),
            img_ids=_positions(height // 2, width // 2, z.device),
            return_dict=False,
        )[0]
        return unpack(packed, height, width)


def pack(z: Tensor) -> Tensor:
    """Give tokens [n, h/2 · w/2, 4 C] of latents [n, C, h, w]: each 2 x 2 of cells, channel by channel."""
    n, channels, height, width = z.shape
    cells = z.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Give latents [n, C, height, width] of tokens: the inverse of ``pack``."""
    n, _, channels = tokens.shape
    cells = tokens.reshape(n, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(n, channels // 4, height, width)


def _positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(0, row, column) of each token [rows · columns, 3]."""
    grid = torch.arange(rows * columns, device=device)
    return torch.stack([torch.zeros_like(grid), grid // columns, grid % columns], dim=1).float()
