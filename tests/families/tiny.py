"""Parts of tiny random pipelines: text encoders with their tokenizers, autoencoders. Seeded by the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.conftest import WORDS, _tokenizer

LETTERS = [chr(code) for code in range(33, 127)]


def save(pipeline: Any, folder: Path) -> Path:
    """Write ``pipeline`` as users have it: a folder with safetensors."""
    pipeline.save_pretrained(str(folder))
    return folder


def clip(folder: Path, hidden: int = 16, projected: bool = True, length: int = 16) -> tuple[Any, Any]:
    """(tokenizer, CLIP text encoder with or without a projection)."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    _tokenizer(folder, length)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        projection_dim=hidden,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(hidden: int = 32) -> tuple[Any, Any]:
    """(tokenizer, T5 encoder); a few whole words, anything else in letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -1.0) for word in WORDS.split()]
    pieces = [*special, ("▁", -2.0), *words, *((letter, -4.0) for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        is_decoder=False,
    )
    return tokenizer, T5EncoderModel(config)


def autoencoder(channels: int = 4, shift: float | None = None, scale: float = 0.18215) -> Any:
    """An ``AutoencoderKL`` that halves the sides."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=8,
        latent_channels=channels,
        sample_size=16,
        scaling_factor=scale,
        shift_factor=shift,
    )


def ddim() -> Any:
    """The scheduler of diffusion models in these tests."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def enliven(network: Any) -> Any:
    """Make layers that start at zero (adaptive norms, last projections) matter: random everywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return network
