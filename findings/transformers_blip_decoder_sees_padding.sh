#!/usr/bin/env bash
# transformers 5.23.0: BLIP's decoder looks at the padding of a question, whatever mask it is given.
#
# Guess before running: BlipTextLMHeadModel(answer, encoder_hidden_states=question, encoder_attention_mask=mask) leaves
# out the padded places of the question, as the argument says; so the answer to a question is the same alone and in a
# batch with a longer one.
# Seen: the mask is handed to the layer under the name of another argument and dropped. With it and without it the logits
# are equal bit for bit, and those of a padded question differ from those of the same question alone. So answers of
# BlipForQuestionAnswering depend on what else is in the batch. The encoder's own mask works.
#
# Runs: needs Python 3.10 to 3.13 and PyPI; two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0 torch==2.13.0 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/cache" "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys

import torch
import transformers

torch.manual_seed(0)
small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
text = {**small, "vocab_size": 40, "encoder_hidden_size": 32, "bos_token_id": 38, "sep_token_id": 3, "pad_token_id": 0}
config = transformers.BlipConfig(
    text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16
)
model = transformers.BlipForQuestionAnswering(config).eval()
for name, parameter in model.named_parameters():
    drawn = 0.3 * torch.randn_like(parameter)
    parameter.data = 1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn
seen = torch.randn(1, 17, 32)
alone = torch.tensor([[39, 7, 8, 9, 3]])
padded = torch.tensor([[39, 7, 8, 9, 3, 0, 0]])
mask = (padded != 0).long()
start = torch.tensor([[38]])


def decided(states, **told):
    return model.text_decoder(start, encoder_hidden_states=states, use_cache=False, **told).logits


with torch.no_grad():
    short = model.text_encoder(alone, encoder_hidden_states=seen)[0]
    long = model.text_encoder(padded, attention_mask=mask, encoder_hidden_states=seen)[0]
    encoder = float((long[:, :5] - short).abs().max())
    unheard = bool(torch.equal(decided(long), decided(long, encoder_attention_mask=mask)))
    apart = float((decided(long, encoder_attention_mask=mask) - decided(short)).abs().max())
print(f"transformers {transformers.__version__}")
print(f"encoder, padded against alone: {encoder:.1e}")
print(f"decoder, with the mask as without: {unheard}; padded against alone: {apart:.1e}")
as_described = encoder < 1e-5 and unheard and apart > 1e-3
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
