"""What a CLIP image processor does to a picture, in torch: differentiable, and the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mitune.errors import UserError

# PIL's filters by number, as preprocessor_config.json has them.
_FILTERS = {2: "bilinear", 3: "bicubic"}
_BLIP = 384  # the side of BLIP's pictures
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Resize (antialiased), cut the centre out, normalise.

    >>> Preprocess(resize=224, crop=(224, 224))(torch.rand(1, 3, 64, 96)).shape
    torch.Size([1, 3, 224, 224])

    ``resize``: the shorter side in px, or (height, width), or None to leave the size; ``crop``: (height, width) or
    None. On pictures of whole levels (n/255) the result is the processor's own within 2/255 of a level before the
    division by ``std``: PIL rounds to whole levels after each of the two passes of a resize, torch does not.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    mode: str = "bicubic"

    def __call__(self, pictures: Tensor) -> Tensor:
        """Inputs [n, 3, h, w] of the network, of ``pictures`` [n, 3, H, W] in [0, 1]."""
        pixels = pictures.float()
        height, width = pixels.shape[-2:]
        if isinstance(self.resize, int):
            short = min(height, width)
            target = (self.resize * height // short, self.resize * width // short)
        else:
            target = self.resize or (height, width)
        if target != (height, width):
            pixels = functional.interpolate(
                pixels, target, mode=self.mode, align_corners=False, antialias=True
            )
            # A bicubic filter overshoots at edges; PIL cuts that off.
            pixels = pixels.clamp(0, 1)
        if self.crop is not None:
            pixels = _centre(pixels, *self.crop)
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of pictures, with a black border where they are smaller."""
    down, right = max(height - pixels.shape[-2], 0), max(width - pixels.shape[-1], 0)
    if down or right:
        top, left = -(-down // 2), -(-right // 2)
        pixels = functional.pad(pixels, (left, right - left, top, down - top))
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def read_preprocess(settings: Mapping[str, Any], where: str) -> Preprocess:
    """The steps that a ``preprocessor_config.json`` asks for. Raises UserError, naming ``where``, for others."""
    resample = settings.get("resample", 3)
    if resample not in _FILTERS:
        raise UserError(
            f"{where}: preprocessor_config.json resamples by filter {resample}; bilinear (2) or bicubic (3)"
            " can be followed"
        )
    if abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise UserError(f"{where}: preprocessor_config.json has a rescale_factor other than 1/255")
    resize, crop = None, None
    # What a file leaves out is its class's own: BLIP's images are stretched to a square, and nothing is cut off.
    stretched = str(settings.get("image_processor_type", "")).startswith("Blip")
    if settings.get("do_resize", True):
        size = settings.get("size", _BLIP if stretched else 224)
        if isinstance(size, Mapping):
            resize = size.get("shortest_edge") or (int(size["height"]), int(size["width"]))
        else:
            resize = (int(size), int(size)) if stretched else int(size)
    if settings.get("do_center_crop", not stretched):
        size = settings.get("crop_size", 224)
        crop = (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (size, size)
    normalise = settings.get("do_normalize", True)
    return Preprocess(
        resize,
        crop,
        tuple(settings.get("image_mean", OPENAI_MEAN)) if normalise else (0.0,) * 3,
        tuple(settings.get("image_std", OPENAI_STD)) if normalise else (1.0,) * 3,
        _FILTERS[resample],
    )


def to_images(pictures: Tensor) -> list[Any]:
    """PIL images of ``pictures`` [n, 3, H, W] in [0, 1], rounded to whole levels."""
    from PIL import Image

    levels = (pictures.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in levels]
