"""ImageReward (Xu et al. 2023) through its own package: a BLIP with a head trained on people's rankings."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mitune.referees.catalogue import ImageRewardConfig
from mitune.referees.package import check_package, import_package, version_of
from mitune.referees.pairs import check_pairs, in_batches
from mitune.referees.preprocess import Preprocess

_TOKENS = 35  # of a prompt, as the package cuts it
_SIDE = 224


class ImageRewardReward:
    """Judges how people would rate pictures for their prompts, standardised (mean 0, variance 1 on the package's data).

    The package's network between our preprocessing and its own head and constants, as in its ReFL: differentiable.
    """

    name = "imagereward"
    differentiable = True

    def __init__(self, settings: ImageRewardConfig, device: torch.device | str) -> None:
        check_package("ImageReward", self.name)
        self.model, self.device, self.batch_size = settings.model, torch.device(device), settings.batch_size
        self._preprocess = Preprocess(resize=_SIDE, crop=(_SIDE, _SIDE))

    @property
    def identity(self) -> str:
        """The weights that judge."""
        return f"{self.model} (image-reward {version_of('image-reward')})"

    @cached_property
    def _network(self) -> Any:
        package = import_package("ImageReward", self.name)
        return package.load(self.model, device=str(self.device)).eval().requires_grad_(False)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        return in_batches(self._score, self.batch_size, pictures, prompts)

    def _score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        network = self._network
        tokens = network.blip.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(self.device)
        seen = network.blip.visual_encoder(self._preprocess(pictures.to(self.device)))
        read = network.blip.text_encoder(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=self.device),
            return_dict=True,
        )
        rewards = network.mlp(read.last_hidden_state[:, 0].float())
        return ((rewards - network.mean) / network.std).squeeze(-1)
