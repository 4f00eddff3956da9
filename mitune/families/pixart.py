"""PixArt-α and PixArt-Σ: a transformer with cross-attention to T5 (Chen et al., 2310.00426 and 2403.04692)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mitune.families import attention
from mitune.families.latent import LatentDenoiser


class PixArtSigmaDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, T5 tokens, width], "mask": [n, T5 tokens]}``.

    A network that also predicts a variance has twice the channels; the second half is dropped.
    """

    pipelines = ("PixArtSigmaPipeline",)
    text_tokens = 300

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        text, mask, _, _ = self._pipeline.encode_prompt(
            prompts, False, device=self.device, max_sequence_length=self._text_tokens
        )
        return {"text": text, "mask": mask}

    def _readers(self) -> list[attention.Reader]:
        return [reader._replace(lower=True) for reader in super()._readers()]

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            height, width = self.picture_size
            size["resolution"] = torch.tensor([height, width], device=z.device, dtype=z.dtype).expand(
                len(z), -1
            )
            size["aspect_ratio"] = torch.full((len(z), 1), height / width, device=z.device, dtype=z.dtype)
        output = self.network(
            z,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=t,
            added_cond_kwargs=size,
            return_dict=False,
        )[0]
        return output[:, : z.shape[1]]


class PixArtAlphaDenoiser(PixArtSigmaDenoiser):
    """This family has shorter prompts; its largest model is told the size of the picture."""

    pipelines = ("PixArtAlphaPipeline",)
    text_tokens = 120
