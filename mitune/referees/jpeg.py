"""JPEG compressibility, the black-box reward of DDPO (Black et al. 2024, section 5.1)."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from mitune.referees.catalogue import JpegConfig
from mitune.referees.pairs import check_pairs
from mitune.referees.preprocess import to_images


class JpegReward:
    """Judges how small a picture is as JPEG: minus its kilobytes (1000 bytes). It cannot be differentiated.

    >>> JpegReward(JpegConfig(quality=80), "cpu").score(torch.zeros(1, 3, 64, 64), ["black"]) > -1.0
    tensor([True])

    It computes on the CPU, whatever the ``device``.
    """

    name = "jpeg"
    differentiable = False

    def __init__(self, settings: JpegConfig, device: torch.device | str) -> None:
        self.quality = settings.quality
        self.identity = f"jpeg at quality {self.quality}"

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1]; the prompts say nothing here."""
        check_pairs(self.name, pictures, prompts)
        sizes = []
        for image in to_images(pictures):
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=self.quality)
            sizes.append(buffer.tell())
        return -torch.tensor(sizes, dtype=torch.float32, device=pictures.device) / 1000
