"""A configuration that is read back is data: nothing in it is looked up, run or repeated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.config.keys import flatten, keys
from mitune.errors import UserError, nearest
from mitune.reading import check_yaml, read_text, reading
from mitune.settings import check_value

_NOTE = re.compile(r"# mitune: (\d{1,9}) keys\n")
WAY_OUT = "restore it, or choose another run= folder"


def read_settings(path: Path, way_out: str = WAY_OUT) -> dict[Any, Any]:
    """Read a file of settings, nothing looked up. Raises UserError, with the ``way_out``, for a file that is none."""
    return _settings(read_text(path), path, way_out)


def _settings(text: str, path: Path, way_out: str = WAY_OUT) -> dict[Any, Any]:
    check_yaml(text, path, way_out)
    with reading(path, way_out):
        # OmegaConf's own reader: it wrote the file, and its numbers are not quite YAML's.
        found = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds no configuration; {way_out}")
    return found


def saved_text(config: DictConfig) -> str:
    """Write what ``config.yaml`` says: the keys, and how many they are, so that one that is gone since is missed."""
    return f"# mitune: {len(flatten(config))} keys\n{OmegaConf.to_yaml(config)}"


def read_saved(path: Path) -> dict[str, Any]:
    """{full key: value} of a ``config.yaml`` that mitune wrote; keys that came later are not in it.

    Raises UserError: not readable, a key that there is not, or that is gone, a value that the key cannot have.
    """
    text = read_text(path)
    found = _settings(text, path)
    values: dict[str, Any] = {}
    _collect(found, "", values)
    known = keys()
    for name, value in values.items():
        try:
            if name not in known:
                raise UserError(f"there is no key '{name}'{nearest(name, known)}")
            check_value(known[name], value)
        except UserError as error:
            raise UserError(
                f"{path} is not a configuration of this version of mitune ({error}); {WAY_OUT}"
            ) from error
    noted = _NOTE.match(text)
    if noted and len(values) < int(noted[1]):
        gone = [name for name in known if name not in values]
        named = f" (such as {gone[0]})" if gone else ""
        raise UserError(
            f"{path} holds {len(values)} of the {noted[1]} keys that were written to it{named}; {WAY_OUT}"
        )
    return values


def _collect(part: dict[Any, Any], prefix: str, values: dict[str, Any]) -> None:
    for name, value in part.items():
        full = f"{prefix}{name}"
        if isinstance(value, dict) and full not in keys():
            _collect(value, f"{full}.", values)
            if not value:
                values[full] = value
        else:
            values[full] = value
