#!/usr/bin/env bash
# transformers 5.23.0: OWLv2 finds things that nobody asked for, where the pictures of a batch are told names in
# different numbers.
#
# Guess before running: Owlv2Processor takes text=[["cat"], ["dog", "bird"]], and fills the shorter list up; the model's
# code says "if first token is 0, then this is a padded query" and masks those; so the first picture's boxes can only be
# cats.
# Seen: the processor fills up with the text " ", which is tokenised as any other: its first token is the start of text,
# which is not 0. The query is not masked and competes with the names in the maximum, its boxes have a label beyond the
# picture's names, and post_process_grounded_object_detection(text_labels=names) stops with IndexError. A reader has to
# cut logits[picture, :, : len(names)] before the maximum.
#
# Runs: needs Python 3.10 to 3.13 and PyPI; about two minutes. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow==13.0.0 scipy==1.17.1 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys
import torch
import transformers
from PIL import Image
from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

transformers.logging.set_verbosity_error()
letters = [*"abcdefghijklmnopqrstuvwxyz"]
words = ["!", *letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
tokenizer = CLIPTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=16)
small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
text = {**small, **ends, "vocab_size": len(words), "max_position_embeddings": 16}
torch.manual_seed(0)
model = Owlv2ForObjectDetection(
    Owlv2Config(text_config=text, vision_config={**small, "image_size": 64, "patch_size": 16}, projection_dim=16)
).eval()
for weight in model.parameters():
    weight.data += 0.1 * torch.randn_like(weight)
processor = Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)
pictures = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(2)]
names = [["cat"], ["dog", "bird"]]
inputs = processor(text=names, images=pictures, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
sizes = [(64, 64)] * 2
found = processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=sizes)
labels = found[0]["labels"].unique().tolist()
print(f"transformers {transformers.__version__}")
print(f"{len(names[0])} name for the first picture; labels of its boxes: {labels}")
least = torch.finfo(outputs.logits.dtype).min
masked = bool((outputs.logits[0, :, 1] == least).all())
print("the query that stands in for the missing name is masked:", masked)
try:
    processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=sizes, text_labels=names)
    said = "nothing"
except IndexError as error:
    said = f"IndexError: {error}"
print("with text_labels:", said)
as_described = not masked and 1 in labels and said.startswith("IndexError")
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
