#!/usr/bin/env bash
# diffusers 0.42.1: a kohya LoRA whose layers have different alphas gets one alpha for all of them.
#
# Guess before running: every layer of a kohya file has an `.alpha` of its own, and load_lora_weights obeys each (peft has
# alpha_pattern for just that).
# Seen: diffusers makes an alpha_pattern, but under names of layers that do not exist ("...processor.to_q_lora.down"), so
# peft matches none and only warns; every layer is scaled by the alpha that most layers have. Layers with another one are
# several times too strong or too weak. Files of merged or block-weighted LoRAs have such alphas.
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


block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
alphas = {f"{block}.to_q": 2.0, f"{block}.to_k": 2.0, f"{block}.to_v": 8.0}
weights = {name: pipeline().unet.get_submodule(name).weight.detach() for name in alphas}
generator = torch.Generator().manual_seed(1)
tensors, right = {}, {}
for name, alpha in alphas.items():
    down = 0.1 * torch.randn(2, weights[name].shape[1], generator=generator)
    up = 0.1 * torch.randn(weights[name].shape[0], 2, generator=generator)
    key = "lora_unet_" + name.replace(".", "_")
    tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    right[name] = alpha / 2 * up @ down
save_file(tensors, "kohya.safetensors")
pipe = pipeline()
pipe.load_lora_weights("kohya.safetensors")
scales = {name: next(iter(pipe.unet.get_submodule(name).scaling.values())) for name in alphas}
pipe.fuse_lora()
pipe.unload_lora_weights()
print(f"diffusers {diffusers.__version__}")
got = {}
for name, alpha in alphas.items():
    change = pipe.unet.get_submodule(name).weight.detach() - weights[name]
    got[name] = float((change * right[name]).sum() / right[name].square().sum())
    print(f"{name.rpartition('.')[2]}: alpha/r in the file {alpha / 2:g}, used {scales[name]:g}, update {got[name]:.2f} of what it should be")
*same, other = got.values()
as_described = all(abs(value - 1) < 1e-3 for value in same) and abs(other - 0.25) < 1e-3
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
