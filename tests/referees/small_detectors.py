"""Small detectors of random weights in the standard transformers layout, one of each class that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mitune.referees.coco import NAMES
from mitune.referees.detectors import KINDS
from tests.referees.conftest import TOKENIZER

SIDE = 64
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: at for at, name in enumerate(NAMES)}}
SQUARE = {"height": SIDE, "width": SIDE}


def _saved(folder: Path, kind: str, config: Any, processor: Any, spread: float = 0.3) -> Path:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config)
        for parameter in model.parameters():  # fresh ones give the same for every picture
            parameter.data += spread * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_detr(folder: Path) -> Path:
    from transformers import DetrConfig, DetrImageProcessorPil, ResNetConfig

    backbone = ResNetConfig(**RESNET, out_features=["stage4"])
    small = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6}
    config = DetrConfig(backbone_config=backbone, use_timm_backbone=False, **small, **heads, **LABELS)
    return _saved(folder, "DetrForObjectDetection", config, DetrImageProcessorPil(size=SQUARE))


def _kin(config: Any, backbone: dict[str, Any]) -> Any:
    """A small RT-DETRv2 or D-FINE."""
    return config(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[8, 8, 16], encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=32, num_queries=6, decoder_in_channels=[32, 32, 32], decoder_ffn_dim=16,
        decoder_layers=2, decoder_attention_heads=2, hidden_expansion=1.0, num_denoising=0, **LABELS,
    )  # fmt: skip


def build_rt_detr(folder: Path) -> Path:
    from transformers import RTDetrImageProcessorPil, RTDetrResNetConfig, RTDetrV2Config

    own = {name: value for name, value in RESNET.items() if name != "model_type"}
    backbone = RTDetrResNetConfig(**own, out_features=["stage2", "stage3", "stage4"])
    return _saved(
        folder,
        "RTDetrV2ForObjectDetection",
        _kin(RTDetrV2Config, backbone),
        RTDetrImageProcessorPil(size=SQUARE),
    )


def build_d_fine(folder: Path) -> Path:
    from transformers import DFineConfig, HGNetV2Config, RTDetrImageProcessorPil

    backbone = HGNetV2Config(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 8], stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[8, 8, 8, 16],
        stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return _saved(
        folder, "DFineForObjectDetection", _kin(DFineConfig, backbone), RTDetrImageProcessorPil(size=SQUARE)
    )


def build_mask2former(folder: Path) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerImageProcessorPil, SwinConfig

    own = {name: value for name, value in SWIN.items() if name != "model_type"}
    backbone = SwinConfig(**own, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=8, **LABELS,
    )  # fmt: skip
    processor = Mask2FormerImageProcessorPil(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return _saved(folder, "Mask2FormerForUniversalSegmentation", config, processor)


def build_owlv2(folder: Path) -> Path:
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ImageProcessorPil

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    config = Owlv2Config(
        text_config=text, vision_config={**small, "image_size": SIDE, "patch_size": 16}, projection_dim=16
    )
    tokenizer.save_pretrained(folder)
    return _saved(folder, "Owlv2ForObjectDetection", config, Owlv2ImageProcessorPil(size=SQUARE), 0.1)


def build_grounding_dino(folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoImageProcessorPil,
        SwinConfig,
    )

    # Its network knows "[CLS]", "[SEP]", "." and "?" by their numbers in BERT's own vocabulary.
    vocabulary = {f"[unused{at}]": at for at in range(1030)}
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz")]
    fixed |= {letter: 200 + at for at, letter in enumerate(letters)}
    names = {at: name for name, at in vocabulary.items()} | {at: name for name, at in fixed.items()}
    BertTokenizer(vocab={name: at for at, name in sorted(names.items())}).save_pretrained(folder)
    own = {name: value for name, value in SWIN.items() if name != "model_type"}
    text = BertConfig(
        vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**own, out_indices=[2, 3, 4]), text_config=text, num_queries=6, d_model=32,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_attention_heads=2, max_text_len=40,
    )  # fmt: skip
    # Its coarsest features must be more than one pixel.
    processor = GroundingDinoImageProcessorPil(size={"height": 2 * SIDE, "width": 2 * SIDE})
    return _saved(folder, "GroundingDinoForObjectDetection", config, processor)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "owlv2": build_owlv2,
    "grounding-dino": build_grounding_dino,
    "detr": build_detr,
    "rt_detr_v2": build_rt_detr,
    "d_fine": build_d_fine,
    "mask2former": build_mask2former,
}


def build_dpt(folder: Path) -> Path:
    """Write a small network of depth."""
    from transformers import DPTConfig, DPTImageProcessorPil

    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    processor = DPTImageProcessorPil(size={"height": 32, "width": 32})
    return _saved(folder, "DPTForDepthEstimation", config, processor)


def build_published(folder: Path, kind: str) -> Path:
    """Write a random detector of the size that its configuration has by itself, with the small one's words."""
    import transformers
    from transformers import AutoConfig

    small = BUILDERS[kind](folder)
    own = AutoConfig.from_pretrained(small)
    more: dict[str, Any] = {} if kind in ("owlv2", "grounding-dino") else dict(LABELS)
    if kind in ("owlv2", "grounding-dino"):
        text = {
            name: value
            for name, value in own.text_config.to_dict().items()
            if "vocab_size" in name or "token_id" in name
        }
        more["text_config"] = text
    config = type(own)(**more)
    detector = KINDS[kind]
    torch.manual_seed(0)
    getattr(transformers, detector.network)(config).save_pretrained(folder)
    getattr(transformers, detector.processor)().save_pretrained(folder)
    return folder
