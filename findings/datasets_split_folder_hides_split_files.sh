#!/usr/bin/env bash
# datasets 5.2.0: in a folder with train.txt and a sub-folder test/, the training file is not found, silently.
#
# Guess before running: load_dataset(folder) of {train.txt, test/prompts.txt} has the splits train and test; both names
# are documented ways to say a split, and each is read where it stands alone.
# Seen: names of sub-folders are tried before names of files, and the first way that matches anything decides for the
# whole folder. So there is one split, test, and the rows of train.txt are in none; nothing is said. The same files with
# test.txt beside train.txt give both splits.
#
# Runs: needs Python 3.10 to 3.13 and PyPI; about a minute. Exit 0: as described; 1: it changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 2>/dev/null
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/cache" "$work/venv/bin/python" - 2>/dev/null <<'PY'
import sys
from pathlib import Path

import datasets


def splits(name: str, files: dict[str, str]) -> dict[str, list[str]]:
    for file, text in files.items():
        path = Path(name) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {split: list(rows["text"]) for split, rows in datasets.load_dataset(name).items()}


rows = {"train": "a red circle\n", "test": "a blue square\n"}
both = splits("files", {"train.txt": rows["train"], "test.txt": rows["test"]})
mixed = splits("mixed", {"train.txt": rows["train"], "test/prompts.txt": rows["test"]})
print(f"datasets {datasets.__version__}")
print("train.txt, test.txt:        ", both)
print("train.txt, test/prompts.txt:", mixed)
as_described = set(both) == {"train", "test"} and mixed == {"test": ["a blue square"]}
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PY
