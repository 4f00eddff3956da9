"""A configuration that is read back is data: nothing in it is looked up, run or repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mitune.config.keys import keys
from mitune.config.values import check_value
from mitune.errors import UserError, nearest
from mitune.reading import check_yaml, read_text, reading

WAY_OUT = "restore it, or choose another run= folder"


def read_settings(path: Path) -> dict[Any, Any]:
    """What a file of settings says, nothing looked up. Raises UserError for a file that is none."""
    text = read_text(path)
    check_yaml(text, path, WAY_OUT)
    with reading(path, WAY_OUT):
        # OmegaConf's own reader: it wrote the file, and its numbers are not quite YAML's.
        found = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds no configuration; {WAY_OUT}")
    return found


def read_saved(path: Path) -> dict[str, Any]:
    """{full key: value} of a ``config.yaml`` that mitune wrote; keys that came later are not in it.

    Raises UserError: not readable, a key that there is not, a value that the key cannot have.
    """
    found = read_settings(path)
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
