"""HPSv2 (Wu et al. 2023) through its own package: a CLIP-H fine-tuned on people's choices; the score is its cosine.

Weights saved as a transformers ``CLIPModel`` folder need no package (``scorer.hpsv2.path``) and have a gradient.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mitune.referees.catalogue import HpsConfig
from mitune.referees.clip import ClipReward, clip_of
from mitune.referees.package import check_package, import_package, version_of
from mitune.referees.pairs import check_pairs, in_batches
from mitune.referees.preprocess import to_images
from mitune.referees.reward import Reward


class HpsReward:
    """Human preference score of pictures for their prompts, about 0.2 to 0.35; pictures go through the package's own
    PIL preprocessing, so it cannot be differentiated.
    """

    name = "hpsv2"
    differentiable = False

    def __init__(self, settings: HpsConfig, device: torch.device | str) -> None:
        check_package("hpsv2", self.name)
        self.version, self.batch_size = settings.version, settings.batch_size
        self.device = torch.device(device)

    @property
    def identity(self) -> str:
        """The weights that judge."""
        return f"HPS {self.version} (hpsv2 {version_of('hpsv2')})"

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """(network, preprocessing of a PIL image, tokenizer), as the package loads them."""
        from PIL import Image

        judge = import_package("hpsv2.img_score", self.name)
        encoder = import_package("hpsv2.src.open_clip", self.name)
        # The package fetches and reads its weights in its first answer, and again in every further one.
        judge.score([Image.new("RGB", (224, 224))], "", hps_version=self.version)
        model = judge.model_dict["model"].to(self.device).eval()
        return model, judge.model_dict["preprocess_val"], encoder.get_tokenizer("ViT-H-14")

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        model, preprocess, tokenizer = self._parts

        def cosines(part: Tensor, texts: list[str]) -> Tensor:
            shown = torch.stack([preprocess(image) for image in to_images(part)]).to(self.device)
            with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                found = model(shown, tokenizer(texts).to(self.device))
                return (found["image_features"] * found["text_features"]).sum(-1).float()

        return in_batches(cosines, self.batch_size, pictures, prompts)


def hps_reward(settings: HpsConfig, device: torch.device | str) -> Reward:
    """Make the judge ``hpsv2``: of the package, or of weights that need none."""
    if settings.path is not None:
        return ClipReward("hpsv2", clip_of("hpsv2", settings, device), "cosine")
    return HpsReward(settings, device)
