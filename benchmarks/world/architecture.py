"""The two small pipelines of the shapes world, built from configuration: Stable Diffusion (3.9 M parameters) and
Stable Diffusion 3 (rectified flow, a transformer in the place of the UNet; 4.6 M).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PICTURE_SIZE = 64
LATENT_SHAPE = (8, 8, 8)
PROMPT_TOKENS = 24
WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"
ABSENT = dict.fromkeys(("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))
"""What the flow model lacks of a Stable Diffusion 3: a plain ``from_pretrained`` has to be told so, and be given text
as embeddings, since that pipeline reads it with two CLIPs or not at all."""

Network: TypeAlias = UNet2DConditionModel | SD3Transformer2DModel
TextEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


def build_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """Train a CLIP tokenizer (byte-level BPE, ``</w>`` ends a word) in which every word of ``texts`` is one token.

    Any other text still tokenizes, in smaller pieces: the alphabet holds all bytes, inside and at the end of a word.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Merging goes on until nothing is left to merge, so each word ends as one token.
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=alphabet,
    )
    words = sorted({word for text in texts for word in text.split()})
    tokenizer.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = sorted(alphabet) + [letter + "</w>" for letter in sorted(alphabet)]
    tokens += ["".join(merge) for merge in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=PROMPT_TOKENS)


def build_vae() -> AutoencoderKL:
    """Autoencoder: 3x64x64 in [-1, 1] to 8x8x8; without attention, so that it can be trained on crops."""
    levels = (16, 32, 64, 64)
    return AutoencoderKL(
        sample_size=PICTURE_SIZE,
        latent_channels=LATENT_SHAPE[0],
        block_out_channels=levels,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two transformer layers of width 128 over ``PROMPT_TOKENS`` tokens, trained together with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@torch.no_grad()
def with_projection(text_encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The same encoder in the form that Stable Diffusion 3 reads: the states before the last layer, and one feature.

    Its layers with one more on top that changes nothing (its outputs start at zero), so the states before that layer
    are the given encoder's but for the last norm; and the feature is the given encoder's normed state at the end token.
    """
    config = CLIPTextConfig(**text_encoder.config.to_dict())
    config.num_hidden_layers += 1
    wider = CLIPTextModelWithProjection(config)
    wider.text_model.load_state_dict(text_encoder.state_dict(), strict=False)
    last = wider.text_model.encoder.layers[-1]
    for linear in (last.self_attn.out_proj, last.mlp.fc2):
        linear.weight.zero_()
        linear.bias.zero_()
    wider.text_projection.weight.copy_(torch.eye(*wider.text_projection.weight.shape))
    return wider


def build_unet() -> UNet2DConditionModel:
    """Noise predictor on 8x8x8 latents: two levels (48, 96 channels), cross-attention at both."""
    return UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1],
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=3,  # diffusers means the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1 and 2: 1000 steps, scaled-linear β from 0.00085 to 0.012."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_transformer() -> SD3Transformer2DModel:
    """Velocity predictor on 8x8x8 latents: five joint-attention blocks of width 128, 64 picture and 24 text tokens."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SHAPE[1],
        patch_size=1,
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        num_layers=5,
        num_attention_heads=4,
        attention_head_dim=WIDTH // 4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=LATENT_SHAPE[1],
        qk_norm="rms_norm",
    )


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow on 1000 steps; a quarter of a sampler's steps is spent where the layout is settled."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def save_pipeline(
    folder: str | Path,
    vae: AutoencoderKL,
    text_encoder: TextEncoder,
    tokenizer: CLIPTokenizer,
    network: Network,
) -> None:
    """Write a standard pipeline folder.

    Args:
        folder: where.
        vae: the autoencoder; like the network it is rounded to float16 in place.
        text_encoder, tokenizer: of the captions.
        network: a UNet for a ``StableDiffusionPipeline``, a transformer for a ``StableDiffusion3Pipeline``.

    The text encoder stays in float32: transformers loads weights in the type they were saved in, diffusers in float32,
    and a plain ``from_pretrained(folder)`` should give one type.
    """
    parts = {"vae": vae.half(), "text_encoder": text_encoder.float(), "tokenizer": tokenizer}
    pipeline: StableDiffusionPipeline | StableDiffusion3Pipeline
    if isinstance(network, SD3Transformer2DModel):
        vae.register_to_config(shift_factor=0.0)  # this pipeline asks for it
        pipeline = StableDiffusion3Pipeline(
            **parts, **ABSENT, transformer=network.half(), scheduler=build_flow_scheduler()
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts,
            unet=network.half(),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
