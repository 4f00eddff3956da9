"""The card of a dataset repository says which files are which split."""

from __future__ import annotations

from pathlib import Path

import pytest

from mitune.data.prompts import load_prompts
from mitune.errors import UserError

FILES = {
    "bench.csv": "prompt\nb\n",
    "prompts.csv": "prompt\na\n",
    "more/x.jsonl": '"c"\n',
    "note.txt": "junk\n",
}
CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: prompts.csv
  - split: test
    path: ["bench.*"]
- config_name: more
  data_files: "more/**"
---
# Prompts
"""


def put(folder: Path, card: str) -> Path:
    for name, text in {**FILES, "README.md": card}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def texts(*args: object, **options: object) -> list[str]:
    return [prompt.text for prompt in load_prompts(*args, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["plain", "with [brackets]"])
def test_the_card_decides_where_it_lists_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    folder = put(tmp_path / name, CARD)
    assert texts(folder) == texts(folder, "train") == ["a"]
    assert texts(folder, "test") == texts(folder, "validation") == ["b"]
    assert texts(folder, subset="more") == ["c"]
    with pytest.raises(UserError, match="no configuration 'mor', did you mean 'more'"):
        texts(folder, subset="mor")


def test_a_note_in_another_encoding_is_no_card(tmp_path: Path) -> None:
    put(tmp_path, "")
    (tmp_path / "README.md").write_bytes("été".encode("latin-1"))
    (tmp_path / "note.txt").unlink()
    assert texts(tmp_path) == ["b", "a"]


@pytest.mark.parametrize("card", ["", "# Prompts\n", "---\nlicense: mit\n---\n", "---\nconfigs: here\n"])
def test_a_card_that_lists_none_leaves_it_to_the_names(tmp_path: Path, card: str) -> None:
    put(tmp_path, card)
    (tmp_path / "note.txt").unlink()
    assert texts(tmp_path) == ["b", "a"]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ("configs: 5", "configs is no list"),
        ("configs: [{", "cannot be read"),
        ("configs: " + "[" * 5000, "cannot be read"),
        (
            "configs: [{config_name: a}, {config_name: b}]",
            "several configurations .a, b., none of them the default",
        ),
        (
            "configs: [{config_name: a, data_files: absent.csv}, {config_name: b, data_files: 'more/*'}]",
            r"several configurations .a, b.*file or the folder of one.*such as .*/more/x\.jsonl, or mark",
        ),
        ("configs: [{data_dir: ../x, data_files: a.txt}]", r"data_dir '\.\./x' leads out of the folder"),
        ("configs: [{data_files: 5}]", "data_files is no list of split and path"),
        ("configs: [{data_files: [{split: train}]}]", "data_files is no list of split and path"),
        ("configs: [{data_files: ../x.csv}]", "leads out of the folder"),
        ("configs: [{data_files: /etc/*}]", "leads out of the folder"),
        ("configs: [{data_files: 'hf://x/y.csv'}]", "leads out of the folder"),
        ("configs: [{data_files: 'absent-*.csv'}]", "lists 'absent-.*.csv', and no such file is there"),
    ],
)
def test_a_card_that_cannot_be_obeyed_is_refused(tmp_path: Path, configs: str, message: str) -> None:
    put(tmp_path, f"---\n{configs}\n---\n")
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(tmp_path)
    assert "\n" not in str(caught.value)
