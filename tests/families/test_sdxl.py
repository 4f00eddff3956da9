"""Stable Diffusion XL: two text encoders, pooled features, micro-conditions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mitune.families.sdxl import SDXLDenoiser
from tests.families import checks, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> checks.Model:
    return checks.Model(build(tmp_path_factory.mktemp("sdxl")), checks.DDIM)


def build(folder: Path, zeros: bool = True) -> Path:
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer, encoder = tiny.clip(folder / "one", 16, projected=False)
    tokenizer_2, encoder_2 = tiny.clip(folder / "two", 24)
    unet = tiny.unet(
        cross_attention_dim=40,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny.autoencoder(),
        text_encoder=encoder,
        text_encoder_2=encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=tiny.ddim(),
        force_zeros_for_empty_prompt=zeros,
    )
    return tiny.save(pipeline, folder / "model")


class TestSDXL(checks.Common):
    text_adapters = True


def test_it_knows_its_shapes(model: checks.Model) -> None:
    assert isinstance(model.ours, SDXLDenoiser)
    assert model.ours.latent_shape == (4, 8, 8)
    assert model.ours.picture_size == (16, 16)
    assert list(model.ours.components) == ["unet", "text_encoder", "text_encoder_2"]


def test_the_null_prompt_is_zero_where_the_pipeline_says_so(model: checks.Model, tmp_path: Path) -> None:
    assert not any(value.any() for value in model.ours.null(2).tensors.values())
    other = checks.Model(build(tmp_path, zeros=False), checks.DDIM)
    assert torch.equal(other.ours.null(1).tensors["text"], other.ours.encode_prompts([""]).tensors["text"])
    checks.same_latents(other)
