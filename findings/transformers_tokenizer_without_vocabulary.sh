#!/usr/bin/env bash
# transformers 5.23.0: a CLIP tokenizer folder that lost its vocabulary opens as a tokenizer without words.
#
# Guess before running: CLIPTokenizer.from_pretrained(folder) without tokenizer.json (and without vocab.json and
# merges.txt) raises an OSError that names the missing files.
# Seen: it returns a tokenizer of the special tokens alone. Every prompt becomes unknown tokens, one for each letter or
# piece, so all prompts of one length are the same to the text encoder; a Stable Diffusion pipeline made of such a folder
# draws pictures that have nothing to do with the prompt, without an error.
#
# Runs: needs Python 3.10 to 3.13 and PyPI; about half a minute. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.23.0 2>/dev/null
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import json
import sys
from pathlib import Path

import transformers
from transformers import CLIPTokenizer

words = ["red</w>", "blue</w>", "cat</w>"]
letters = sorted({letter for word in words for letter in word.removesuffix("</w>")})
pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
merges, tokens = [], list(pieces)
for word in words:
    parts = [*word.removesuffix("</w>")[:-1], word.removesuffix("</w>")[-1] + "</w>"]
    while len(parts) > 1:
        merges.append(f"{parts[0]} {parts[1]}")
        parts = [parts[0] + parts[1], *parts[2:]]
        tokens.append(parts[0])
vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
Path("old").mkdir()
Path("old/vocab.json").write_text(json.dumps(vocabulary))
Path("old/merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
whole = CLIPTokenizer.from_pretrained("old")
whole.save_pretrained("saved")
Path("saved/tokenizer.json").unlink()
print(f"transformers {transformers.__version__}; left in the folder: {sorted(path.name for path in Path('saved').iterdir())}")
try:
    bare = CLIPTokenizer.from_pretrained("saved")
except Exception as error:
    print(f"CHANGED: it raises {type(error).__name__}")
    sys.exit(1)
ids = {prompt: (whole(prompt).input_ids, bare(prompt).input_ids) for prompt in ("red cat", "tac der")}
print(f"words: {len(whole)} before, {len(bare)} after")
for prompt, (before, after) in ids.items():
    print(f"{prompt!r}: {before} before, {after} after")
before, after = zip(*ids.values())
as_described = len(bare) <= 4 < len(whole) and before[0] != before[1] and after[0] == after[1]
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
