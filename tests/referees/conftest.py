"""A small CLIP of random weights in the standard transformers layout, and what the package itself makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mitune.worlds.shapes as shapes
from tests.cli import compose

TOKENIZER = Path(shapes.__file__).parent / "model" / "tokenizer"
SIDE = 32
TEXTS = ["a red circle and a blue square", "a green cross", "a big cyan triangle above a small red cross"]


def build_clip(folder: Path, seed: int = 0, width: int = 24) -> Path:
    """Write a random ``CLIPModel`` of 32×32 pictures with its processor; the cosines it gives are far from 0."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {
        **small,
        **ends,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "projection_dim": width,
    }
    vision = {**small, "image_size": SIDE, "patch_size": 8, "projection_dim": width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
        for (
            parameter
        ) in model.parameters():  # its own initial weights are so small that all pictures look alike
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


class Detectors:
    """The folders of small detectors, by the ``model_type`` of each; built when first asked for."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __getitem__(self, kind: str) -> Path:
        from tests.referees.small_detectors import BUILDERS

        folder = self._place / kind
        return folder if folder.exists() else BUILDERS[kind](folder)


@pytest.fixture(scope="session")
def detector_folders(tmp_path_factory: pytest.TempPathFactory) -> Detectors:
    return Detectors(tmp_path_factory.mktemp("detectors"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("clip") / "model")


def settings(**clip: Any) -> dict[str, Any]:
    """Section ``scorer`` of the configuration, with keys of ``scorer.clip`` set."""
    from omegaconf import OmegaConf

    section: Any = OmegaConf.to_container(compose().scorer)
    section["clip"] |= clip
    return section


def pictures(n: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Random pictures [n, 3, height, width] of whole levels, fresh in every run, with more than noise in them."""
    coarse = torch.rand(n, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return ((0.8 * smooth + 0.2 * torch.rand(n, 3, height, width)) * 255).round() / 255
