"""Pictures to latents and back, in the scaling the network was trained on, a bounded number of pixels at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PIXELS_A_BATCH = 16 * 512 * 512  # bounds the memory, whatever the size of a picture


class Autoencoder:
    """It wraps a pipeline's autoencoder, of whatever kind (KL, DC, tiny); z = (posterior mean − shift) · scale.

    ``downscale``: pixels along a side of one latent cell. ``fast``: an ``AutoencoderTiny`` to decode with, or None.
    """

    def __init__(self, vae: Any, downscale: int) -> None:
        self.vae, self.downscale = vae, downscale
        self.fast: Any = None
        self.scale, self.shift = _scaling(vae)

    def encode(self, pictures: Tensor, device: torch.device) -> Tensor:
        """Give latents [n, C, h, w], float32, of ``pictures`` [n, 3, H, W] in [0, 1]; the sides divide by
        ``downscale``.
        """
        return (self.mean(pictures, device) - self.shift) * self.scale

    def mean(self, pictures: Tensor, device: torch.device) -> Tensor:
        """Give their posterior mean [n, C, h, w], float32, without shift and scale."""
        parts = []
        for part in pictures.split(pictures_a_batch(pictures.shape[-1] * pictures.shape[-2])):
            encoded = self.vae.encode(2 * part.to(device, self.vae.dtype) - 1, return_dict=False)[0]
            mean = encoded if isinstance(encoded, Tensor) else encoded.mode()  # else a Gaussian
            parts.append(mean.float())
        return torch.cat(parts)

    def decode(self, z: Tensor, device: torch.device) -> Tensor:
        """Pictures [n, 3, H, W] float32 in [0, 1] of latents [n, C, h, w]; differentiable in ``z``."""
        vae = self.vae if self.fast is None else self.fast
        scale, shift = (self.scale, self.shift) if self.fast is None else _scaling(vae)
        parts = []
        for part in z.split(pictures_a_batch(z.shape[-1] * z.shape[-2] * self.downscale**2)):
            latents = part.to(device).float() / scale + shift
            picture = vae.decode(latents.to(vae.dtype), return_dict=False)[0].float()
            parts.append((picture / 2 + 0.5).clamp(0, 1))
        return torch.cat(parts)


def _scaling(vae: Any) -> tuple[float, float]:
    """(scale, shift) of an autoencoder's configuration."""
    config = vae.config
    return (
        float(getattr(config, "scaling_factor", None) or 1.0),
        float(getattr(config, "shift_factor", None) or 0.0),
    )


def pictures_a_batch(pixels: int) -> int:
    """Count the pictures of so many pixels that go through an autoencoder at once."""
    return max(1, min(64, _PIXELS_A_BATCH // pixels))
