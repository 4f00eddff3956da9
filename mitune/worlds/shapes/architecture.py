"""The small Stable Diffusion pipeline of the shapes world, built from configuration (3.9 M parameters)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PICTURE_SIZE = 64
LATENT_SHAPE = (8, 8, 8)
PROMPT_TOKENS = 24
WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"


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


def save_pipeline(
    folder: str | Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Write a standard ``StableDiffusionPipeline`` folder; UNet and autoencoder in float16, rounded in place.

    The text encoder stays in float32: transformers loads weights in the type they were saved in, diffusers in float32,
    and a plain ``from_pretrained(folder)`` should give one type.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.float(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
