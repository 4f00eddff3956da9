#!/usr/bin/env bash
# diffusers 0.42.1: a DoRA in the form of kohya's and LyCORIS' trainers (dora_scale) is loaded as a plain LoRA.
#
# Guess before running: load_lora_weights turns `dora_scale` into peft's magnitudes (peft has DoRA, and diffusers writes
# and reads DoRA files of its own), or refuses the file.
# Seen: it takes the magnitudes out with a warning and loads A and B as a LoRA without DoRA. That is not the adapter with
# a part missing but another update: here the weights end nearly as far from the trained ones as the base model's are.
# The trained weight is diag(s / ||W||) (W + alpha/r B A) as ComfyUI computes it from the same file.
#
# Runs: needs Python 3.11 to 3.13 and PyPI; about two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install --quiet diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 2>/dev/null
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel


def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    )
    text = CLIPTextModel(CLIPTextConfig(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                        num_attention_heads=2, max_position_embeddings=8))
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    return StableDiffusionPipeline(vae, text, None, unet.eval(), DDIMScheduler(), None, None,
                                   requires_safety_checker=False)


layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
weight = pipeline().unet.get_submodule(layer).weight.detach()
generator = torch.Generator().manual_seed(1)
down = 0.1 * torch.randn(2, weight.shape[1], generator=generator)
up = 0.1 * torch.randn(weight.shape[0], 2, generator=generator)
norm = weight.norm(dim=1, keepdim=True)
scale = norm * (0.5 + torch.rand(norm.shape, generator=generator))
trained = scale / norm * (weight + up @ down)
name = "lora_unet_" + layer.replace(".", "_")
save_file(
    {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0),
     f"{name}.dora_scale": scale.contiguous()},
    "kohya.safetensors",
)
pipe = pipeline()
pipe.load_lora_weights("kohya.safetensors")
dora = pipe.unet.get_submodule(layer).use_dora
pipe.fuse_lora()
pipe.unload_lora_weights()
loaded = pipe.unet.get_submodule(layer).weight.detach()
print(f"diffusers {diffusers.__version__}")
print("use_dora of the loaded layer:", dora)
print(f"trained less base {float((trained - weight).norm()):.3f}; loaded less trained {float((loaded - trained).norm()):.3f}")
print(f"loaded less the plain LoRA W + B A {float((loaded - weight - up @ down).norm()):.2g}")
as_described = (
    not any(dora.values()) and torch.allclose(loaded, weight + up @ down, atol=1e-6)
    and float((loaded - trained).norm()) > 0.5 * float((trained - weight).norm())
)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
