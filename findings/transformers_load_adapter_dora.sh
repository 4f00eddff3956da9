#!/usr/bin/env bash
# transformers 5.23.0's own load_adapter() drops the magnitudes of a DoRA adapter that peft 0.21.2 saved.
#
# Guess before running: transformers hands an adapter folder to peft, so a model loaded by `model.load_adapter(folder)`
# equals the one loaded by `PeftModel.from_pretrained(model, folder)`.
# Seen: the file calls a magnitude "....lora_magnitude_vector"; transformers looks for "....lora_magnitude_vector.weight",
# reports the first as unexpected and the second as missing, raises nothing, and goes on with the magnitudes that peft
# initialises (the rows' norms of the plain weights). The LoRA part is loaded, so the result is neither the base model
# nor the adapter: on the tiny text encoder here the hidden states are off by a tenth of their size. peft reads its own
# folder exactly. Text encoders of diffusers pipelines are loaded through this path.
#
# Runs: needs Python 3.10 to 3.13 and PyPI; about two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 numpy==2.2.6
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPTextConfig, CLIPTextModel

torch.manual_seed(0)
config = CLIPTextConfig(
    vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=8, pad_token_id=1, bos_token_id=0, eos_token_id=1,
)
CLIPTextModel(config).save_pretrained("base")


def base() -> CLIPTextModel:
    return CLIPTextModel.from_pretrained("base").eval()


made = get_peft_model(base(), LoraConfig(r=2, lora_alpha=2, use_dora=True, target_modules=["q_proj"])).eval()
with torch.no_grad():
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.add_(0.5 * torch.randn_like(parameter))
made.save_pretrained("adapter")

loaded = base()
report = loaded.load_adapter("adapter")
by_peft = PeftModel.from_pretrained(base(), "adapter").eval()
ids = torch.tensor([[0, 5, 6, 1]])
with torch.no_grad():
    want, plain = made(ids).last_hidden_state, base()(ids).last_hidden_state
    theirs, pefts = loaded(ids).last_hidden_state, by_peft(ids).last_hidden_state
off = float((theirs - want).abs().max())
print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
print(f"largest hidden state {float(want.abs().max()):.2f}; adapter less base {float((want - plain).abs().max()):.3f}")
print(f"PeftModel.from_pretrained less the adapter made: {float((pefts - want).abs().max()):.2g}")
print(f"model.load_adapter less the adapter made: {off:.3g}")
print("reported missing:", sorted(report.missing_keys))
print("reported unexpected:", sorted(report.unexpected_keys))
as_described = (
    torch.equal(pefts, want)
    and off > 0.01
    and all("magnitude" in name for name in (*report.missing_keys, *report.unexpected_keys))
    and len(report.missing_keys) == len(report.unexpected_keys) == 2
)
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
