#!/usr/bin/env bash
# diffusers 0.42.1: InstructPix2Pix with image_guidance_scale below 1 is drawn without any guidance, the text's too.
#
# Guess before running: e = e(-,-) + s_I (e(I,-) - e(-,-)) + s_T (e(I,T) - e(I,-)) holds for every pair of scales (eq. 3 of
# the paper, arXiv 2211.09800), so image_guidance_scale 0.9 in the place of 1 is a slightly weaker pull to the picture.
# Seen: one property switches both guidances: guidance_scale > 1 and image_guidance_scale >= 1. Below 1 the text's scale, 7.5
# here, is dropped with the picture's, and nothing is said: the latents are bit for bit those of guidance_scale=1. Whoever
# sweeps the picture's scale through 1 sees a jump that no model has.
#
# Runs: needs Python 3.11 to 3.13 and PyPI; about two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install --quiet diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 2>/dev/null
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, in_channels=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
).eval()
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).eval()
pipe = StableDiffusionInstructPix2PixPipeline(vae, None, None, unet, DDIMScheduler(), None, None, requires_safety_checker=False)
pipe.set_progress_bar_config(disable=True)
told = {"prompt_embeds": torch.randn(1, 4, 8), "negative_prompt_embeds": torch.zeros(1, 4, 8)}
picture, start = torch.rand(1, 3, 8, 8), torch.randn(1, 4, 8, 8)


def draw(text: float, image: float) -> torch.Tensor:
    return pipe(image=picture, latents=start, guidance_scale=text, image_guidance_scale=image, num_inference_steps=4,
                output_type="latent", **told).images


print(f"diffusers {diffusers.__version__}")
plain = draw(1.0, 1.0)
moved = {image: float((draw(7.5, image) - plain).abs().max()) for image in (1.01, 1.0, 0.99, 0.5)}
for image, far in moved.items():
    print(f"guidance_scale 7.5, image_guidance_scale {image}: latents are {far:.3g} from those without guidance")
as_described = moved[1.0] > 1e-3 and moved[0.99] == moved[0.5] == 0
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
