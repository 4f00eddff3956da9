"""Tiny random pipelines: a whole Stable Diffusion, and parts for other families, which their callers seed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch

# Words the tiny tokenizer holds whole; anything else falls apart into letters.
WORDS = "a an and the of in on left right above below red green blue yellow circle square star cat dog photo small big"
LETTERS = [chr(code) for code in range(33, 127)]


def save(pipeline: Any, folder: Path) -> Path:
    """Write ``pipeline`` as users have it: a folder with safetensors."""
    pipeline.save_pretrained(str(folder))
    return folder


def _tokenizer(folder: Path, length: int) -> None:
    """Write a CLIP byte-pair tokenizer: letters, digits, punctuation, and the merges that make ``WORDS`` whole."""
    vocabulary = [*LETTERS, *(letter + "</w>" for letter in LETTERS)]
    merges: list[str] = []
    for word in WORDS.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # Byte-pair encoding applies the earliest merge that fits; a new one is needed where none does.
            pairs = [f"{left} {right}" for left, right in itertools.pairwise(parts)]
            known = [merge for merge in merges if merge in pairs]
            merge = known[0] if known else pairs[0]
            if not known:
                merges.append(merge)
                vocabulary.append(merge.replace(" ", ""))
            at = pairs.index(merge)
            parts = [*parts[:at], merge.replace(" ", ""), *parts[at + 2 :]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    indices = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(indices))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": "<|endoftext|>"}
        )
    )


def clip(
    folder: Path, hidden: int = 16, projected: bool = True, layers: int = 2, heads: int = 2, inner: int = 24
) -> tuple[Any, Any]:
    """(tokenizer, CLIP text encoder with or without a projection), of 16 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    length = 16
    _tokenizer(folder, length)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        projection_dim=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
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


def unet(in_channels: int = 4, **more: Any) -> Any:
    """A ``UNet2DConditionModel`` of two levels for latents of 4 × 8 × 8; ``more``: what it reads texts with."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )


def ddim(prediction_type: str = "epsilon") -> Any:
    """The scheduler of diffusion models in these tests."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def instruct_pix2pix(folder: Path, seed: int = 0) -> Path:
    """Write a ``StableDiffusionInstructPix2PixPipeline`` below ``folder``, built like ``stable_diffusion``."""
    return stable_diffusion(folder, seed=seed, in_channels=8, kind="StableDiffusionInstructPix2PixPipeline")


def stable_diffusion(
    folder: Path,
    prediction_type: str = "epsilon",
    seed: int = 0,
    in_channels: int = 4,
    kind: str = "StableDiffusionPipeline",
) -> Path:
    """Write a ``StableDiffusionPipeline`` below ``folder``: 16 × 16 pictures, latents 4 × 8 × 8, 32-wide text."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = unet(in_channels, cross_attention_dim=32, attention_head_dim=2)
        vae = autoencoder()
        tokenizer, encoder = clip(folder / "words", 32, projected=False, layers=1, heads=4, inner=37)
    pipeline = getattr(diffusers, kind)(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=network,
        scheduler=ddim(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return save(pipeline, folder / "model")


def make_guidance_distilled(model: Path) -> None:
    """Turn a saved pipeline into one that is told the guidance, and has no null prompt."""
    from safetensors.torch import load_file, save_file

    config, weights = model / "unet" / "config.json", model / "unet" / "diffusion_pytorch_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"time_cond_proj_dim": 8}))
    tensors = load_file(weights)
    width = tensors["time_embedding.linear_1.weight"].shape[1]
    save_file(tensors | {"time_embedding.cond_proj.weight": torch.zeros(width, 8)}, weights)


def make_overflow(model: Path) -> None:
    """Turn a saved pipeline's network into one of finite weights that gives NaN."""
    from safetensors.torch import load_file, save_file

    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(
        tensors | {"conv_norm_out.weight": torch.full_like(tensors["conv_norm_out.weight"], 3e38)}, weights
    )


def enliven(network: Any) -> Any:
    """Make layers that start at zero (adaptive norms, last projections) matter: random everywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return network
