"""Fixtures every test may use: tiny random pipelines in the standard diffusers layout, built once a
session.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

# Words the tiny tokenizer holds whole; anything else falls apart into letters.
WORDS = "a an and the of in on left right above below red green blue yellow circle square star cat dog photo small big"


def _tokenizer(folder: Path, length: int) -> None:
    """Write a CLIP byte-pair tokenizer: letters, digits, punctuation, and the merges that make ``WORDS``
    whole.
    """
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
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


def build_pipeline(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write a tiny random ``StableDiffusionPipeline`` to ``folder``: 16×16 pictures, 4×8×8 latents, 32-wide
    text.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    length = 16
    _tokenizer(folder / "words", length)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "words"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(8, 16),
            norm_num_groups=8,
            latent_channels=4,
            sample_size=16,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion folder that predicts the noise."""
    return build_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction."""
    return build_pipeline(tmp_path_factory.mktemp("tiny_v"), prediction_type="v_prediction", seed=1)
