"""PixArt-α and PixArt-Σ: T5 with a mask, variance channels that are dropped, size as a condition (α)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mitune.errors import UserError
from mitune.families.pixart import PixArtSigmaDenoiser
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig
from tests.families import checks, tiny

CALL = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 20}
SHORT = {"max_tokens": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> checks.Model:
    return checks.Model(build(tmp_path_factory.mktemp("pixart")), checks.DDIM, SHORT, call=CALL)


def build(folder: Path, alpha: bool = False, variance: bool = True) -> Path:
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    tokenizer, encoder = tiny.t5(32)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if variance else 4,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=128 if alpha else 8,  # at 128 the network and α's pipeline take the size
        patch_size=2,
    )
    pipeline = (PixArtAlphaPipeline if alpha else PixArtSigmaPipeline)(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=tiny.autoencoder(),
        transformer=tiny.enliven(transformer),
        scheduler=tiny.ddim(),
    )
    return tiny.save(pipeline, folder / "model")


class TestPixArt(checks.Common):
    text_adapters = False


def test_it_knows_its_shapes(model: checks.Model) -> None:
    assert isinstance(model.ours, PixArtSigmaDenoiser)
    assert model.ours.latent_shape == (4, 8, 8)
    assert model.ours.encode_prompts(["a red circle"]).tensors["text"].shape == (1, 20, 32)


def test_alpha_is_told_the_size_of_the_picture(tmp_path: Path) -> None:
    model = checks.Model(
        build(tmp_path, alpha=True, variance=False),
        checks.DDIM,
        options=SHORT | {"resolution": 16},
        call=CALL,
    )
    assert model.load(max_tokens=None).encode_prompts(["a red circle"]).tensors["mask"].shape == (1, 120)
    checks.same_latents(model)


def test_an_adapter_holds_no_text_encoder(model: checks.Model) -> None:
    with pytest.raises(UserError, match=r"adapter.text_encoder=true: .* holds no text encoder"):
        attach(model.load(), AdapterConfig(text_encoder=True))
