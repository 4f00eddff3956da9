"""The judges of decoded pictures, with their keys: a new one is a file, a row here and a test.

The code of a row (``make``) is called with (its settings, a device) and gives a :class:`mitune.referees.reward.Reward`;
what can be checked without the weights it checks, and raises UserError.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from mitune.information.catalogue import Score
from mitune.parts import Catalogue
from mitune.settings import BATCH, Settings, key

CLIP_FORMS = {"clipscore": "2.5 max(cos, 0)", "cosine": "the cosine itself", "logit": "times the temperature"}


@dataclass
class RefereeConfig(Settings):
    """A judge from outside: which one, and how much of it at once."""

    batch_size: int = key(32, "pictures a forward", low=1, high=BATCH)


@dataclass
class ClipConfig(RefereeConfig):
    path: str = key(
        "openai/clip-vit-large-patch14",
        "a CLIP: transformers folder, Hub id, or 'shapes' (in the package)",
        path=True,
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    form: str = key("clipscore", "what is made of the cosine", choices=CLIP_FORMS)
    prefix: str | None = key(
        None, "put before each prompt (CLIPScore's authors: 'A photo depicts ')", empty=True
    )


@dataclass
class PickScoreConfig(RefereeConfig):
    path: str = key("yuvalkirstain/PickScore_v1", "transformers folder or Hub id", path=True)
    revision: str | None = key(None, "Hub branch, tag or commit")
    processor: str | None = key(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "its tokenizer and preprocessing (null: with the model)",
        path=True,
    )


@dataclass
class AestheticConfig(RefereeConfig):
    path: str = key(
        "openai/clip-vit-large-patch14", "the CLIP that the head reads: folder or Hub id", path=True
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    head: str | None = key(
        None, "the head: a .safetensors file of LAION's linear or MLP predictor", path=True
    )


@dataclass
class HpsConfig(RefereeConfig):
    version: str = key("v2.1", "of the package hpsv2's weights", choices=("v2.0", "v2.1"))
    path: str | None = key(
        None, "the weights as a transformers CLIP instead: folder or Hub id, no package", path=True
    )
    revision: str | None = key(None, "Hub branch, tag or commit")


@dataclass
class ImageRewardConfig(RefereeConfig):
    model: str = key("ImageReward-v1.0", "as the package ImageReward names it", path=True)


@dataclass
class JpegConfig(Settings):
    quality: int = key(
        95, "of the JPEG whose kilobytes count", low=1, high=95, why="above that JPEG only grows"
    )


_judge = functools.partial(Score, where="picture", external=True)
JUDGES = Catalogue(
    "reward",
    Score("oracle", "alignment as the embedded world's oracle sees it, 0 to 1", "mitune.referees.oracle:OracleReward",
          where="picture", columns={"exact": "share of pictures the oracle finds exactly right"}),
    _judge("clip", "likeness of picture and prompt as CLIP sees it", "mitune.referees.clip:clip_reward", ClipConfig),
    _judge("pickscore", "what people would pick for the prompt, by PickScore", "mitune.referees.clip:pickscore_reward",
           PickScoreConfig),
    _judge("aesthetic", "how pleasing the picture is, by LAION's predictor, 1 to 10",
           "mitune.referees.aesthetic:AestheticReward", AestheticConfig),
    _judge("hpsv2", "what people would prefer for the prompt, by HPSv2", "mitune.referees.hps:hps_reward", HpsConfig),
    _judge("imagereward", "how people would rate the picture for the prompt, by ImageReward",
           "mitune.referees.imagereward:ImageRewardReward", ImageRewardConfig),
    _judge("jpeg", "minus the picture's kilobytes as JPEG", "mitune.referees.jpeg:JpegReward", JpegConfig),
)  # fmt: skip
