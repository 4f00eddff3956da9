"""Sana: linear attention, flow, Gemma behind an instruction, an autoencoder that compresses strongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.families.sana import SanaDenoiser
from tests.families import checks, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> checks.Model:
    call = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 40}
    return checks.Model(build(tmp_path_factory.mktemp("sana")), checks.EULER, {"max_tokens": 40}, call=call)


def gemma() -> tuple[Any, Any]:
    """(tokenizer of letters and bytes, Gemma 2)."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *tiny.LETTERS, "▁"]
    tokenizer = GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return tokenizer, Gemma2Model(config)


def build(folder: Path) -> Path:
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(0)
    tokenizer, encoder = gemma()
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,  # the pipeline wants sides that divide by 32
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    pipeline = SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=tiny.enliven(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return tiny.save(pipeline, folder / "model")


class TestSana(checks.Common):
    text_adapters = False
    own_maps = False  # linear attention has no softmax


def test_it_knows_its_shapes(model: checks.Model) -> None:
    assert isinstance(model.ours, SanaDenoiser)
    assert model.ours.latent_shape == (4, 16, 16)
    assert model.ours.prediction_type == "flow"
    assert model.ours.encode_prompts(["a red circle"]).tensors["text"].shape == (1, 40, 16)
    assert model.ours.null(2).tensors["text"].shape == (2, 40, 16)


def test_the_schedule_of_its_own_scheduler(model: checks.Model) -> None:
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, beta_schedule="linear"
    )
    ours = model.ours._schedule(theirs.config)
    assert (ours.kind, ours.shift) == ("flow", 3.0)
