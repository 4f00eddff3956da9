"""The judges of decoded pictures, with their keys: a new one is a file, a row here and a test.

The code of a row (``make``) is called with (its settings, a device) and gives a :class:`mitune.referees.reward.Reward`;
what can be checked without the weights it checks, and raises UserError.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from mitune.families.settings import WEIGHTS
from mitune.information.catalogue import Score
from mitune.parts import Catalogue
from mitune.pixels.catalogue import SOURCES
from mitune.settings import BATCH, Settings, key

CLIP_FORMS = {"clipscore": "2.5 max(cos, 0)", "cosine": "the cosine itself", "logit": "times the temperature"}

VQA_FORMS = {
    "published": "each P(yes) and their product rounded to 4 decimals, as T2I-CompBench has it",
    "product": "the product itself",
    "log": "the sum of log P(yes)",
}
ITM_FORMS = {"log": "log P(match)", "probability": "P(match)"}
SIDE = (
    480,
    "px of the square that BLIP is shown, T2I-CompBench's own (null: as its preprocessor_config.json says)",
)
CAPTION_FORMS = {"mean": "per token", "sum": "of the whole prompt"}


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


# -- that read pictures and texts together -----------------------------------------------------------------------------


@dataclass
class ReaderConfig(RefereeConfig):
    """A judge that is a transformers folder."""

    path: str = key("", "transformers folder or Hub id", path=True)
    revision: str | None = key(None, "Hub branch, tag or commit")


@dataclass
class BlipVqaConfig(ReaderConfig):
    path: str = key(
        "Salesforce/blip-vqa-capfilt-large", "a BlipForQuestionAnswering: folder or Hub id", path=True
    )
    form: str = key("published", "what is made of the phrases' P(yes)", choices=VQA_FORMS)
    phrases: str = key("auto", "how the phrases of a prompt are found", choices=SOURCES)
    side: int | None = key(*SIDE, low=16, high=4096)


@dataclass
class BlipItmConfig(ReaderConfig):
    path: str = key(
        "Salesforce/blip-itm-base-coco", "a BlipForImageTextRetrieval: folder or Hub id", path=True
    )
    form: str = key("log", "what is made of the match", choices=ITM_FORMS)


@dataclass
class BlipItcConfig(ReaderConfig):
    path: str = key(
        "Salesforce/blip-itm-base-coco", "a BlipForImageTextRetrieval: folder or Hub id", path=True
    )


@dataclass
class CaptionConfig(ReaderConfig):
    path: str = key(
        "Salesforce/blip-image-captioning-base",
        "a BlipForConditionalGeneration: folder or Hub id",
        path=True,
    )
    form: str = key("mean", "log P of what: a token on average, or all of them", choices=CAPTION_FORMS)
    prefix: str | None = key(
        "a picture of", "what the captions that it learnt from begin with; it is not counted", empty=True
    )


@dataclass
class Blip2ItmConfig(ReaderConfig):
    path: str = key("Salesforce/blip2-itm-vit-g", "a Blip2ForImageTextRetrieval: folder or Hub id", path=True)
    form: str = key("log", "what is made of the match", choices=ITM_FORMS)
    dtype: str = key("float32", "number format of the weights", choices=WEIGHTS)


@dataclass
class Blip2ItcConfig(ReaderConfig):
    path: str = key("Salesforce/blip2-itm-vit-g", "a Blip2ForImageTextRetrieval: folder or Hub id", path=True)
    dtype: str = key("float32", "number format of the weights", choices=WEIGHTS)


@dataclass
class VqaScoreConfig(ReaderConfig):
    batch_size: int = key(8, "pictures a forward", low=1, high=BATCH)
    path: str = key(
        "llava-hf/llava-1.5-7b-hf", "any image-text-to-text model: transformers folder or Hub id", path=True
    )
    question: str = key(
        'Does this figure show "{}"? Please answer yes or no.', "what is asked; {} is the prompt"
    )
    answer: str = key("Yes", "the answer whose probability is the score; one token")
    around: str | None = key(
        None, "of a model without a chat template: what stands around the question, {} (USER: <image>\\n{} …)"
    )
    dtype: str = key("float32", "number format of the weights", choices=WEIGHTS)


@dataclass
class LibreHpsConfig(RefereeConfig):
    path: str = key("LibreHPS/LibreHPS-4B-v1.1", "as the package librehps names it", path=True)


# -- on detectors ------------------------------------------------------------------------------------------------------

PROMPT_FORMS = {
    "simple": "its first and its last noun are the objects",
    "complex": "the nouns around its preposition are",
}
GENEVAL_CONFIDENCE, COUNTING_CONFIDENCE = 0.3, 0.9
"""GenEval's own."""
OWLV2, GROUNDING_DINO, DETR = (
    ("google/owlv2-base-patch16-ensemble", "an OWLv2: transformers folder or Hub id"),
    ("IDEA-Research/grounding-dino-tiny", "a Grounding DINO: transformers folder or Hub id"),
    ("PekingU/rtdetr_v2_r50vd", "a DETR, RT-DETRv2, D-FINE or Mask2Former: transformers folder or Hub id"),
)


@dataclass
class LookConfig(RefereeConfig):
    """A judge that looks for objects."""

    path: str = key("", "a detector: transformers folder or Hub id", path=True)
    revision: str | None = key(None, "Hub branch, tag or commit")
    confidence: float | None = key(
        None,
        "least confidence of an object (default: 0.1 OWLv2, 0.25 Grounding DINO, else 0.5)",
        low=0,
        below=1,
    )


@dataclass
class DetectorConfig(LookConfig):
    """A judge that looks for objects of the embedded world, too."""

    phrases: str = key("auto", "how the words of a prompt are found", choices=SOURCES)


@dataclass
class DepthConfig(LookConfig):
    depth: str = key(
        "Intel/dpt-hybrid-midas",
        "tells depth: a DPT or Depth Anything, transformers folder or Hub id",
        path=True,
    )


@dataclass
class Spatial3DOwlv2Config(DepthConfig):
    path: str = key(*OWLV2, path=True)


@dataclass
class Spatial3DGroundingDinoConfig(DepthConfig):
    path: str = key(*GROUNDING_DINO, path=True)


@dataclass
class PlacementConfig(DetectorConfig):
    form: str = key("simple", "of T2I-CompBench's prompts", choices=PROMPT_FORMS)


@dataclass
class SpatialOwlv2Config(PlacementConfig):
    path: str = key(*OWLV2, path=True)


@dataclass
class SpatialGroundingDinoConfig(PlacementConfig):
    path: str = key(*GROUNDING_DINO, path=True)


@dataclass
class SpatialDetrConfig(PlacementConfig):
    path: str = key(*DETR, path=True)


@dataclass
class NumeracyOwlv2Config(DetectorConfig):
    path: str = key(*OWLV2, path=True)


@dataclass
class NumeracyGroundingDinoConfig(DetectorConfig):
    path: str = key(*GROUNDING_DINO, path=True)


@dataclass
class NumeracyDetrConfig(DetectorConfig):
    path: str = key(*DETR, path=True)


@dataclass
class ThreeInOneConfig(RefereeConfig):
    blip: str = key(
        "Salesforce/blip-vqa-capfilt-large",
        "tells attributes: a BlipForQuestionAnswering, transformers folder or Hub id",
        path=True,
    )
    side: int | None = key(*SIDE, low=16, high=4096)
    detector: str = key(OWLV2[0], "tells places: any detector, transformers folder or Hub id", path=True)
    clip: str = key(
        "openai/clip-vit-base-patch32", "tells actions: a CLIP, transformers folder or Hub id", path=True
    )
    confidence: float | None = key(
        None, "least confidence of an object (default: the detector's)", low=0, below=1
    )
    phrases: str = key("auto", "how the words of a prompt are found", choices=SOURCES)


@dataclass
class GenevalConfig(RefereeConfig):
    detector: str = key(
        "facebook/mask2former-swin-small-coco-instance",
        "finds the objects: a Mask2Former, or another detector; transformers folder or Hub id",
        path=True,
    )
    revision: str | None = key(None, "Hub branch, tag or commit of the detector")
    clip: str = key(
        "openai/clip-vit-large-patch14",
        "tells their colours: a CLIP, transformers folder or Hub id",
        path=True,
    )
    confidence: float = key(GENEVAL_CONFIDENCE, "least confidence of an object", low=0, below=1)
    counting_confidence: float = key(
        COUNTING_CONFIDENCE, "least confidence where objects are counted", low=0, below=1
    )


_judge = functools.partial(Score, where="picture", external=True)
_placed = functools.partial(_judge, checks="mitune.referees.placement_judge:check_told")
_deep = functools.partial(_judge, checks="mitune.referees.depth_judge:check_told")
_counted = functools.partial(_judge, checks="mitune.referees.numeracy:check_told")
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
    _judge("blip_vqa", "whether the picture shows each of the prompt's phrases, P(yes) as T2I-CompBench asks BLIP",
           "mitune.referees.blip_vqa:BlipVqaReward", BlipVqaConfig, checks="mitune.referees.blip_vqa:check_phrases"),
    _judge("blip_itm", "whether prompt and picture match, as BLIP reads them together",
           "mitune.referees.blip:BlipItmReward", BlipItmConfig),
    _judge("blip_itc", "likeness of picture and prompt as BLIP sees it, a cosine",
           "mitune.referees.blip:BlipItcReward", BlipItcConfig),
    _judge("caption", "log P(prompt | picture) by BLIP's captioner, in nats", "mitune.referees.caption:CaptionReward",
           CaptionConfig),
    _judge("blip2_itm", "whether prompt and picture match, as BLIP-2 reads them together",
           "mitune.referees.blip2:Blip2ItmReward", Blip2ItmConfig),
    _judge("blip2_itc", "likeness of picture and prompt as BLIP-2 sees it, a cosine",
           "mitune.referees.blip2:Blip2ItcReward", Blip2ItcConfig),
    _judge("vqascore", "P(yes) when a language model that sees is asked whether the picture shows the prompt",
           "mitune.referees.vqascore:VqaScoreReward", VqaScoreConfig),
    _judge("librehps", "how people would rate the picture for the prompt, by LibreHPS",
           "mitune.referees.librehps:LibreHpsReward", LibreHpsConfig),
    _judge("jpeg", "minus the picture's kilobytes as JPEG", "mitune.referees.jpeg:JpegReward", JpegConfig),
    _placed("spatial_owlv2", "where two things stand to each other, by T2I-CompBench's rule on OWLv2's boxes",
            "mitune.referees.placement_judge:spatial_owlv2", SpatialOwlv2Config),
    _placed("spatial_grounding_dino", "where two things stand to each other, by Grounding DINO's boxes",
            "mitune.referees.placement_judge:spatial_grounding_dino", SpatialGroundingDinoConfig),
    _placed("spatial_detr", "where two of COCO's 80 objects stand to each other, by a DETR's boxes",
            "mitune.referees.placement_judge:spatial_detr", SpatialDetrConfig,
            checks="mitune.referees.placement_judge:check_detr"),
    _counted("numeracy_owlv2", "how many of each thing are there, by T2I-CompBench's rule on OWLv2's boxes",
             "mitune.referees.numeracy:numeracy_owlv2", NumeracyOwlv2Config),
    _counted("numeracy_grounding_dino", "how many of each thing are there, by Grounding DINO's boxes",
             "mitune.referees.numeracy:numeracy_grounding_dino", NumeracyGroundingDinoConfig),
    _counted("numeracy_detr", "how many of each of COCO's 80 objects are there, by a DETR's boxes",
             "mitune.referees.numeracy:numeracy_detr", NumeracyDetrConfig,
             checks="mitune.referees.numeracy:check_detr"),
    _deep("spatial_3d_owlv2", "which of two things is nearer, by T2I-CompBench's rule on OWLv2's boxes and depth",
          "mitune.referees.depth_judge:spatial_3d_owlv2", Spatial3DOwlv2Config),
    _deep("spatial_3d_grounding_dino", "which of two things is nearer, by Grounding DINO's boxes and depth",
          "mitune.referees.depth_judge:spatial_3d_grounding_dino", Spatial3DGroundingDinoConfig),
    _judge("three_in_one", "attributes, places and actions of complex prompts, by T2I-CompBench's 3-in-1",
           "mitune.referees.three_in_one:ThreeInOneReward", ThreeInOneConfig,
           checks="mitune.referees.three_in_one:check_prompts"),
    _judge("geneval", "whether all is there that was asked for, 1 or 0, by GenEval's rules",
           "mitune.referees.geneval_judge:GenevalReward", GenevalConfig,
           checks="mitune.referees.geneval_judge:check_prompts"),
)  # fmt: skip
