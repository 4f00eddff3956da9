"""Stable Diffusion 1.x and 2.x: a UNet told by one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mitune.errors import UserError
from mitune.families.latent import LatentDenoiser


class StableDiffusionDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, tokens, width]}``."""

    pipelines = ("StableDiffusionPipeline",)
    network_name = "unet"
    adapted_encoders = ("text_encoder",)

    def _check(self) -> None:
        check_unet(self)

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        text, _ = self._pipeline.encode_prompt(prompts, self.device, 1, False)
        return {"text": text}

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return self.network(z, t, encoder_hidden_states=condition["text"], return_dict=False)[0]


def check_unet(denoiser: LatentDenoiser, pictures: int = 0) -> None:
    """Raise UserError for a UNet without a null prompt, and for one that takes more than a prompt and the latents of as
    many ``pictures``.
    """
    unet, vae, name = denoiser.pipeline.unet.config, denoiser.pipeline.vae.config, denoiser.identity
    if unet.time_cond_proj_dim is not None:
        raise UserError(
            f"{name} is guidance-distilled: it has no null prompt to compare with, so no "
            "information can be measured; use the model it was made from"
        )
    if unet.in_channels != (1 + pictures) * vae.latent_channels:
        raise UserError(
            f"{name} takes {unet.in_channels} latent channels where its autoencoder has "
            f"{vae.latent_channels} (inpainting, depth and editing models need more than a "
            f"prompt); use {'an editing model' if pictures else 'the text-to-image model'}"
        )
