"""InstructPix2Pix: a UNet that edits a picture as a text says (Brooks et al., 2211.09800)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mitune.data.decoding import OF_TASK, decode_picture
from mitune.denoiser import Condition
from mitune.errors import UserError, short
from mitune.families.latent import LatentDenoiser
from mitune.families.stable_diffusion import check_unet
from mitune.tasks import Task


class InstructPix2PixDenoiser(LatentDenoiser):
    """The condition is ``{"text": [n, tokens, width], "picture": [n, C, h, w]}``, the picture's latents.

    They are the posterior mean as it is, without the scaling of the latents that are denoised; ∅ are zeros. The
    branches are ∅, the picture alone, the picture with the text: information about the text is that beyond the picture.
    """

    pipelines = ("StableDiffusionInstructPix2PixPipeline",)
    network_name = "unet"
    adapted_encoders = ("text_encoder",)
    branches = 3
    edits_pictures = True

    def _check(self) -> None:
        check_unet(self, pictures=1)

    def _latent_channels(self) -> int:
        return int(self._pipeline.vae.config.latent_channels)

    def encode(self, tasks: Sequence[Task]) -> Condition:
        """Say each text and picture, one row each; a picture of another size is scaled and cut to the model's.

        Raises UserError for a task without a picture, and for a file that is none.
        """
        pictures = []
        for task in tasks:
            if task.picture is None:
                raise UserError(
                    f"{self.identity} edits pictures, and the prompt {short(task.text)!r} names none; give a table of"
                    " prompts and pictures, and say prompts.picture_column="
                )
            data, path = task.picture.read(), task.picture.path
            pictures.append(decode_picture(data, self.picture_size, path, OF_TASK)[0])
        told = self.encode_prompts([task.text for task in tasks])
        with torch.no_grad():
            latents = self._autoencoder.mean(torch.stack(pictures), self.device)
        return Condition({**told.tensors, "picture": latents.to(self.dtype)})

    def retold(self, given: Condition, told: Condition) -> Condition:
        """Keep the picture of ``given``, and take the text of ``told``."""
        return Condition({**told.tensors, "picture": given.tensors["picture"]})

    def widened(self, given: Condition) -> Condition:
        """Join the conditions of the three branches [3n]: ∅, the pictures, the pictures with the texts."""
        return Condition.cat([self.null(len(given)), self.reference(given), given])

    def needs_branches(self, guidance: float) -> bool:
        """Tell whether the guided output differs from the one with c alone."""
        return guidance != 1 or self.picture_guidance != 1

    def combine(self, outputs: Sequence[Tensor], guidance: float) -> tuple[Tensor, Tensor, Tensor]:
        """(with c, of the picture alone, guided), where (eq. 3 of the paper)

        guided = ∅ + picture_guidance · (picture − ∅) + guidance · (with c − picture).
        """
        nothing, picture, cond = outputs
        guided = nothing + guidance * (cond - picture) + self.picture_guidance * (picture - nothing)
        return cond, picture, guided

    def _encode(self, prompts: list[str]) -> Mapping[str, Tensor]:
        text = self._pipeline._encode_prompt(prompts, self.device, 1, False)
        return {"text": text, "picture": text.new_zeros(len(prompts), *self.latent_shape)}

    def _forward(self, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        seen = torch.cat([z, condition["picture"]], dim=1)
        return self.network(seen, t, encoder_hidden_states=condition["text"], return_dict=False)[0]
