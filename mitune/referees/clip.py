"""Judges that are a CLIP: CLIPScore, PickScore, and whatever else is a cosine of two features."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mitune.referees.catalogue import AestheticConfig, ClipConfig, HpsConfig, PickScoreConfig
from mitune.referees.judge_files import JudgeSource, find_judge
from mitune.referees.networks import check_model_type, open_network, open_tokenizer, preprocess_of
from mitune.referees.pairs import check_pairs, in_batches

_CACHED = 50_000  # texts whose features are kept


class Clip:
    """A transformers ``CLIPModel`` with its processor: features of pictures and of texts. Loaded when first used.

    Args:
        source: where the model is.
        device: where it computes, in float32.
        batch_size: pictures or texts a forward.
        processor: where ``preprocessor_config.json`` and the tokenizer are, if not with the model.
    """

    def __init__(
        self,
        source: JudgeSource,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        processor: JudgeSource | None = None,
    ) -> None:
        self.source, self.device, self.batch_size = source, torch.device(device), batch_size
        self.processor = processor or source
        check_model_type(source, ("clip",), "CLIP")
        self.preprocess = preprocess_of(self.processor)
        self._features: dict[str, Tensor] = {}

    @cached_property
    def model(self) -> Any:
        """The network, frozen; gradients still flow through it."""
        from transformers import CLIPModel

        return open_network(CLIPModel, self.source, "CLIP", self.device)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return open_tokenizer(CLIPTokenizer, self.processor, self.model.config.text_config.vocab_size)

    def image_features(self, pictures: Tensor) -> Tensor:
        """Features of length one [n, d] of ``pictures`` [n, 3, H, W] in [0, 1]; differentiable."""

        def features(part: Tensor) -> Tensor:
            return self.embedded(self.preprocess(part.to(self.device)))

        return in_batches(features, self.batch_size, pictures)

    def embedded(self, inputs: Tensor) -> Tensor:
        """Features of length one [n, d] of pictures that are prepared; differentiable."""
        found = self.model.get_image_features(pixel_values=inputs)
        return functional.normalize(_pooled(found), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:
        """Features of length one [n, d] of ``texts``, each encoded once; longer ones are cut by the tokenizer."""
        if len(self._features) > _CACHED:
            self._features.clear()
        fresh = [text for text in dict.fromkeys(texts) if text not in self._features]
        length = self.model.config.text_config.max_position_embeddings
        for start in range(0, len(fresh), self.batch_size):
            part = fresh[start : start + self.batch_size]
            tokens = self._tokenizer(
                part, padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            inputs = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
            features = functional.normalize(_pooled(self.model.get_text_features(**inputs)), dim=-1)
            self._features |= dict(zip(part, features, strict=True))
        return torch.stack([self._features[text] for text in texts])


def _pooled(found: Any) -> Tensor:
    """The features in what a model gives: before transformers 5 they come bare."""
    return found if isinstance(found, Tensor) else found.pooler_output


class ClipReward:
    """Judges by a CLIP's cosine of picture and prompt, higher = better; differentiable in the pictures.

    ``form``: "clipscore", 2.5 · max(cos, 0) (Hessel et al. 2021, eq. 1; they prefix captions with "A photo depicts",
    here ``prefix`` says with what); "cosine", the cosine itself, which has a gradient below zero too; "logit",
    the model's own temperature times the cosine (PickScore: Kirstain et al. 2023, eq. 2).
    """

    differentiable = True

    def __init__(self, name: str, clip: Clip, form: str = "clipscore", prefix: str = "") -> None:
        self.name, self.clip, self.form, self.prefix = name, clip, form, prefix

    @property
    def identity(self) -> str:
        """The model that judges."""
        return self.clip.source.identity

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        texts = self.clip.text_features([f"{self.prefix}{prompt}" for prompt in prompts])
        cosine = (self.clip.image_features(pictures) * texts).sum(-1)
        if self.form == "logit":
            return self.clip.model.logit_scale.exp() * cosine
        return 2.5 * cosine.clamp(min=0) if self.form == "clipscore" else cosine


def clip_of(
    name: str,
    settings: ClipConfig | PickScoreConfig | AestheticConfig | HpsConfig,
    device: torch.device | str,
) -> Clip:
    """Find the CLIP that the section ``scorer.<name>`` names. Raises UserError: nothing there, or no CLIP."""
    source = find_judge(settings.path or "", f"scorer.{name}.path", settings.revision)
    other = settings.processor if isinstance(settings, PickScoreConfig) else None
    processor = None if other is None else find_judge(other, f"scorer.{name}.processor")
    return Clip(source, device, settings.batch_size, processor)


def clip_reward(settings: ClipConfig, device: torch.device | str) -> ClipReward:
    """Make the judge ``clip``. Raises UserError for a setting out of bounds."""
    settings.check("scorer.clip.")
    return ClipReward("clip", clip_of("clip", settings, device), settings.form, settings.prefix or "")


def pickscore_reward(settings: PickScoreConfig, device: torch.device | str) -> ClipReward:
    """Make the judge ``pickscore``."""
    return ClipReward("pickscore", clip_of("pickscore", settings, device), "logit")
