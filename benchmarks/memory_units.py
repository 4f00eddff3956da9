"""What ``benchmarks.memory`` runs on: a model of Stable Diffusion's sizes that costs next to nothing, and a round of
candidates that nobody drew.

Latents are 4×64×64 and random, pictures 512×512 and nearly of one colour (so that their files are small), texts 77
tokens of 768 numbers. What is held in memory is of real size; what is computed is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.faults.server import ENVIRONMENT

TOKENS = 77
WIDTH = 768
# Run in the tree that is measured: ``generate`` as it is, but for the drawing.
_GENERATE = """
import sys, torch
from mitune.cli import main
from mitune.sampling.seeds import candidate_seed
from mitune.stages import candidates

def draw_unit(unit, how, begun=None, bar=None):
    rows = unit.candidates()
    generator = torch.Generator().manual_seed(unit.index)
    table = {
        "prompt_id": [prompt.id for prompt, _ in rows],
        "prompt": [prompt.text for prompt, _ in rows],
        "category": [prompt.category for prompt, _ in rows],
        "candidate": [number for _, number in rows],
        "seed": [candidate_seed(how.seed, prompt.key, number) for prompt, number in rows],
        "mi": torch.rand(len(rows), generator=generator).tolist(),
    }
    return table, torch.randn(len(rows), 4, 64, 64, generator=generator)

candidates.draw_unit = draw_unit
sys.exit(main(sys.argv[1:]))
"""


def write_model(folder: Path) -> Path:
    """Write a ``StableDiffusionPipeline`` with random weights."""
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from benchmarks.world.architecture import build_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer([_text(0)])
        tokenizer.model_max_length = TOKENS
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=12,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        narrow = (1, 1, 1, 1)
        vae = AutoencoderTiny(
            encoder_block_out_channels=narrow,
            decoder_block_out_channels=narrow,
            num_encoder_blocks=narrow,
            num_decoder_blocks=(1, 1, 1, 0),
        )
        with torch.no_grad():
            vae.decoder.layers[-1].weight.mul_(1e-4)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=1,
        )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    # diffusers writes an entry there that its own class does not take.
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config))
    return folder


def write_candidates(tree: Path, model: Path, folder: Path, count: int) -> Path:
    """Write a run folder with ``count`` prompts of one candidate each, as ``generate`` of ``tree`` leaves it."""
    folder.mkdir(parents=True)
    prompts, run = folder / "prompts.txt", folder / "run"
    prompts.write_text("\n".join(map(_text, range(count))) + "\n")
    words = [
        "generate", "experiment=shapes", f"run={run}", f"model.path={model}", "model.device=cpu", "prompts=file",
        f"prompts.source={prompts}", "prompts.limit=null", "evaluate=file", f"evaluate.prompts.source={prompts}",
        "evaluate.scorers=[mi]", "scorers=[mi]", "select=mi", "sampler.steps=2", "generate.candidates=1",
        "generate.keep=1", "generate.guidance=null", "select.k=1", "adapter.targets=[]", "adapter.rank=2",
        "train.steps=4", "train.batch_size=4", "train.checkpoint_every=4",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", _GENERATE, *words],
        check=True,
        env=environment(tree),
        cwd=tree,
        stdout=subprocess.DEVNULL,
    )
    return run


def environment(tree: Path) -> dict[str, str]:
    """Give the environment of a command of ``tree``."""
    return (
        os.environ | ENVIRONMENT | {"PYTHONPATH": str(tree), "ACCELERATE_USE_CPU": "true", "MASTER_PORT": "0"}
    )


def _text(number: int) -> str:
    """Prompts that differ."""
    digits = " ".join(f"{number:06d}")
    return f"a photo of {digits}"
