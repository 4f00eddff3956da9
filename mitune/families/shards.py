"""Weights spread over several files: the index beside them says which weight is in which file, and must be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mitune.errors import UserError, listed, short
from mitune.families.headers import Header
from mitune.reading import read_json

_WAY_OUT = "fetch the model again"


def shard_files(index: Path) -> list[Path]:
    """List the files an index names. Raises UserError for one that is damaged or names files outside its folder."""
    return [index.parent / file for file in sorted(set(_weight_map(index).values()))]


def check_shards(index: Path, component: str, headers: Mapping[Path, Header]) -> None:
    """Raise UserError unless the files of an index hold exactly the weights it lists, each once and where it says: of a
    weight that is elsewhere or there twice, the libraries take none or any. ``headers``: those of its files.
    """
    wanted = _weight_map(index)
    found: dict[str, list[str]] = {}
    for file in shard_files(index):
        for name in headers[file].shapes:
            found.setdefault(name, []).append(file.name)
    kinds = {
        "are missing": [name for name in wanted if name not in found],
        "are in two of its files": [name for name, files in found.items() if len(files) > 1],
        "are not in its weight_map": [name for name in found if name not in wanted],
        "are in another of its files than it says": [
            name for name, file in wanted.items() if name in found and file not in found[name]
        ],
    }
    wrong = [
        f"{len(names)} weights {what} ({listed(sorted(names))})" for what, names in kinds.items() if names
    ]
    if wrong:
        raise UserError(
            f"{index} and the files it names are not of one {component}: {'; '.join(wrong)}; {_WAY_OUT}"
        )


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index, _WAY_OUT)
    named = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise UserError(
            f"{index} is damaged: it has no weight_map that says which file each weight is in; {_WAY_OUT}"
        )
    _check_names(index, named.values())
    return named


def _check_names(index: Path, files: Iterable[str]) -> None:
    strange = sorted({file for file in files if Path(file).name != file or not file.endswith(".safetensors")})
    if strange:
        raise UserError(
            f"{index} names files that are no safetensors files beside it ({short(strange[0])}); {_WAY_OUT}"
        )
