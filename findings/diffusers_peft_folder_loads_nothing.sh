#!/usr/bin/env bash
# diffusers 0.42.1: a LoRA that peft saved for the bare UNet "loads" into the pipeline, and nothing is in it.
#
# Guess before running: `pipe.load_lora_weights(folder, weight_name="adapter_model.safetensors")` either reads peft's own
# names (base_model.model....) or raises that the file holds no LoRA of this pipeline. The same trainers (DPO and GRPO
# scripts that wrap the UNet by get_peft_model) write exactly such folders.
# Seen: it returns, raises nothing, warns that this "is safe to ignore", and list_adapters is empty: every picture is the
# base model's, from the call that every model card shows.
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
import io
import logging
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from transformers import CLIPTextConfig, CLIPTextModel

said = io.StringIO()
logging.getLogger("diffusers").addHandler(logging.StreamHandler(said))
torch.manual_seed(0)


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


made = get_peft_model(pipeline().unet, LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"])).eval()
with torch.no_grad():
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
made.save_pretrained("adapter")

pipe = pipeline()
pipe.load_lora_weights("adapter", weight_name="adapter_model.safetensors")
z, c = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 8)
with torch.no_grad():
    plain, trained, loaded = (net(z, 10, c).sample for net in (pipeline().unet, made, pipe.unet))
print(f"diffusers {diffusers.__version__}")
print("list_adapters:", pipe.get_list_adapters())
print(f"trained less base {float((trained - plain).abs().max()):.3f}; loaded less base {float((loaded - plain).abs().max()):.3g}")
print("warned that it is safe to ignore:", "safe to ignore" in said.getvalue())
as_described = (
    pipe.get_list_adapters() == {} and torch.equal(loaded, plain) and not torch.allclose(trained, plain, atol=1e-3)
    and "safe to ignore" in said.getvalue()
)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
