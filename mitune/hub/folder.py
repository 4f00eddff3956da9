"""The export folder: what a round made, in the form that others can use, complete or not there at all.

    README.md                             the model card
    pytorch_lora_weights.safetensors      the adapter; ``load_lora_weights(folder)`` of the plain pipeline takes it
    pictures/before-000.png …             pairs from the evaluation
    config.yaml, provenance.json          the resolved configuration; what this was made from, and by what
    merged/, comfy/                       on request

The same round gives the same bytes, so that what was uploaded once is not uploaded again.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import mitune
from mitune.data.dataset import encode_png
from mitune.data.decoding import open_picture
from mitune.data.store import PICTURE
from mitune.errors import UserError
from mitune.families.adapter_place import ADAPTER_FILE
from mitune.files import atomic_folder, read_json, write_bytes, write_json, write_text
from mitune.hub.card import Example, Facts, write_card
from mitune.reading import is_there as found_at
from mitune.reading import read_bytes

PROVENANCE = "provenance.json"
SCHEMA = 1
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")

# What lies in an export folder, by this command and by what uploads it or looks at it.
_WRITTEN = {"README.md", ADAPTER_FILE, "pictures", "config.yaml", PROVENANCE, "merged", "comfy", "data"}
_WRITTEN |= {".cache", ".gitattributes", ".DS_Store"}


def examples(round_folder: Path, evaluation: Mapping[str, Any], count: int) -> list[Example]:
    """Find up to ``count`` examples whose files lie inside the round's folder. Their names in the export folder are
    numbers, nothing that a prompt says."""
    root, found = round_folder.resolve(), list[Example]()
    for example in evaluation.get("examples") or []:
        files = tuple((root / str(example.get(side, ""))).resolve() for side in ("before", "after"))
        if all(file.is_relative_to(root) and file.is_file() for file in files):
            before, after = (f"pictures/{side}-{len(found):03d}.png" for side in ("before", "after"))
            found.append(Example(str(example.get("prompt", "")), before, after, files))
    return found[:count]


def provenance(**facts: Any) -> dict[str, Any]:
    """Make ``provenance.json``: the facts of the run, and what exports them. No clock in it."""
    return {
        "schema": SCHEMA,
        **facts,
        "exported_by": {
            "mitune": mitune.__version__,
            "commit": _commit(),
            "python": platform.python_version(),
            **{name: found for name in _LIBRARIES if (found := _version(name))},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, where it is one."""
    root = Path(mitune.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def check_place(folder: Path) -> None:
    """Raises UserError if ``folder`` holds something that no export wrote: it would be replaced."""
    if found_at(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another export.out=")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    other = [path for path in there if path.name not in _WRITTEN]
    if other or (there and not _is_export(folder)):
        raise UserError(
            f"{other[0] if other and _is_export(folder) else folder} exists and was not written by mitune"
            " export; move it away, or choose another export.out="
        )


def _is_export(folder: Path) -> bool:
    """Whether the folder's provenance is one that an export wrote."""
    file = folder / PROVENANCE
    try:
        found = read_json(file) if file.is_file() else None
    except UserError:
        return False
    return isinstance(found, dict) and {"schema", "exported_by"} <= found.keys()


def is_there(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Tell whether ``folder`` holds just this export already."""
    file = folder / PROVENANCE
    return file.is_file() and read_json(file) == wanted


def write_folder(
    folder: Path,
    adapter: Path,
    facts: Facts,
    config: str,
    origin: Mapping[str, Any],
    extras: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write the export folder.

    Args:
        folder: where; ``adapter``: the round's.
        facts: for the card, with the files of its examples.
        config: YAML; ``origin``: the provenance.
        extras: what else to write, by its path in the folder.

    Raises UserError: the place is taken, a picture is none, the disk is full.
    """
    check_place(folder)
    with atomic_folder(folder) as partial:
        write_bytes(partial / ADAPTER_FILE, read_bytes(adapter / ADAPTER_FILE))
        for example in facts.examples:
            for name, file in zip((example.before, example.after), example.files, strict=True):
                write_bytes(partial / name, _picture(file))
        for name, write in (extras or {}).items():
            write(partial / name)
        write_text(partial / "config.yaml", config)
        write_text(partial / "README.md", write_card(facts))
        write_json(partial / PROVENANCE, origin)


def _picture(path: Path) -> bytes:
    """A picture's pixels as PNG, without whatever else its file holds. Raises UserError for what is no picture."""
    return encode_png(open_picture(read_bytes(path), str(path), "export without it: export.pictures=0"))


def write_training_set(folder: Path, dataset: Any, name: str, model: str, origin: Mapping[str, Any]) -> None:
    """Write a training set as a dataset repository: parquet, a card, provenance. Raises UserError as above.

    Args:
        folder: where; ``dataset``: the set; ``origin``: its provenance.
        name, model: what the card calls the set and the model that drew it.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    from mitune.hub.escape import literal

    check_place(folder)
    data = DatasetCardData(task_categories=["text-to-image"], tags=["mitune"])
    text = "\n".join(
        [
            f"# {literal(name, 100)}",
            "",
            f"{len(dataset)} pictures that [MI-Tune](https://arxiv.org/abs/2405.20759) drew with {literal(model)} and"
            " chose by the information that prompt and picture share. Every picture was made by that model, and its"
            " licence holds for them; `seed` and `text` draw one again.",
        ]
    )
    with atomic_folder(folder) as partial:
        (partial / "data").mkdir()
        # Straight from the set's own files to this one: it may be larger than the memory.
        table = _without_places(dataset.data.table)
        pq.write_table(table, partial / "data/train-00000-of-00001.parquet", row_group_size=100)
        write_text(partial / "README.md", str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")))
        write_json(partial / PROVENANCE, origin)


def _without_places(table: pa.Table) -> pa.Table:
    """Keep of what a picture was made from the digest and the file's name: where it lay is nobody's business."""
    if PICTURE not in table.column_names:
        return table
    lines = pc.replace_substring_regex(table[PICTURE], r"(?s)^([0-9a-f]{64}  ).*[/\\]", r"\1")
    return table.set_column(table.column_names.index(PICTURE), PICTURE, lines)


def contents(folder: Path) -> list[tuple[str, int]]:
    """List (path inside the folder, bytes) of every file, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]


def slug(name: str) -> str:
    """Turn a name into a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80] or "adapter"
