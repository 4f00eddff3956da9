"""Stable Diffusion XL: a larger UNet, two CLIP text encoders, and the picture's size as a condition (2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mitune.families.latent import LatentDenoiser
from mitune.families.stable_diffusion import check_unet


class SDXLDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, tokens, width], "pooled": [n, width of the second encoder]}``.

    The micro-conditions (original size, crop, target size) are those of a whole picture of this size.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    network_name = "unet"
    encoder_names = ("text_encoder", "text_encoder_2")
    adapted_encoders = ("text_encoder", "text_encoder_2")
    optional_encoders = ("text_encoder",)

    def _check(self) -> None:
        check_unet(self)

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        text, _, pooled, _ = self._pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def _encode_null(self) -> Mapping[str, Tensor]:
        row = self._encode([""])
        zeros = self._pipeline.config.force_zeros_for_empty_prompt
        return {name: torch.zeros_like(value) for name, value in row.items()} if zeros else row

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        size = (*self.picture_size, 0, 0, *self.picture_size)
        sizes = torch.tensor(size, device=z.device, dtype=z.dtype).expand(len(z), -1)
        return self.network(
            z,
            t,
            encoder_hidden_states=condition["text"],
            added_cond_kwargs={"text_embeds": condition["pooled"], "time_ids": sizes},
            return_dict=False,
        )[0]
