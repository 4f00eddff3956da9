"""A preset of one's own: ``experiment=mine.yaml``, a file of keys on top of one of the presets that are shipped.

    experiment: mitune
    model:
      path: models/mine
    train:
      steps: 200

The file is data: nothing in it is looked up or run. What is not in it is as the preset named by ``experiment:`` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.config.keys import keys
from mitune.config.saved import read_settings
from mitune.errors import UserError, nearest, printable, short
from mitune.reading import home
from mitune.settings import check_value

GROUP = "experiment"
BASE = "mitune"  # the preset that a file goes on from where it names none
SUFFIXES = (".yaml", ".yml")
_WAY_OUT = "mend it, or write one with mitune init"


def is_own(word: str) -> bool:
    """Tell whether a word of a command line names a preset of one's own."""
    name, _, text = word.partition("=")
    return name.strip().lstrip("+") == GROUP and text.strip().lower().endswith(SUFFIXES)


def spelled_out(
    words: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> tuple[list[str], dict[str, Any]]:
    """Give the words with the group options of an own preset in its place, which other words may still change, and
    {key: value} of what it sets.

    Of several presets the last counts, as of any word. Raises UserError as :func:`own_preset`.
    """
    places = [number for number, word in enumerate(words) if word.partition("=")[0].strip("+ ") == GROUP]
    if not places or not is_own(words[places[-1]]):
        return [word for word in words if not is_own(word)], {}
    chosen, values = own_preset(home(words[places[-1]].partition("=")[2].strip()), groups)
    others = [word for number, word in enumerate(words) if number not in places]
    return [*(f"{group}={option}" for group, option in chosen.items()), *others], values


def own_preset(path: Path, groups: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, Any]]:
    """Read ``path``: {group: option} (``experiment`` among them) and {key: value}.

    Raises UserError, naming file and key: no such file, no settings in it, a key or option that there is not, a value
    that a key cannot have.
    """
    chosen: dict[str, str] = {GROUP: BASE}
    values: dict[str, Any] = {"name": path.stem}  # two files do not share a run folder
    for name, value in _entries(read_settings(path, _WAY_OUT), ""):
        try:
            if name in groups and isinstance(value, str):
                chosen[name] = _option(name, value, groups[name])
            else:
                _check(name, value, groups)
                values[name] = value
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    check_value(keys()["name"], values["name"])
    return chosen, values


def _entries(part: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    """(full name, value) of what a file says; a section of which all lines are comments says nothing."""
    found = []
    sections = {name.rpartition(".")[0] for name in keys()}
    sections |= {name.partition(".")[0] for name in sections}
    for name, value in part.items():
        full = f"{prefix}{name}"
        if isinstance(value, dict) and full not in keys():
            found += _entries(value, f"{full}.")
        elif value is not None or full not in sections:
            found.append((full, value))
    return found


def _option(group: str, text: str, options: Sequence[str]) -> str:
    if text in options:
        return text
    hint = nearest(text, options)
    if group == GROUP and text.lower().endswith(SUFFIXES):
        hint = ", and a file of one's own goes on from one that is shipped"
    raise UserError(
        f"{group}: there is no '{short(printable(text), 80)}'{hint}; {group} is one of {', '.join(options)}"
    )


def _check(name: str, value: Any, groups: Mapping[str, Sequence[str]]) -> None:
    known = keys()
    shown = short(printable(name), 80)
    if name.partition(".")[0] == "defaults":
        raise UserError(
            "defaults: is for presets inside the package; write GROUP: option, as experiment: mitune"
        )
    if name in groups:
        raise UserError(f"{shown}: give the name of one option, of {', '.join(groups[name])}")
    if name not in known:
        raise UserError(
            f"there is no key '{shown}'{nearest(name, known)}; mitune run --help --all lists the keys"
        )
    check_value(known[name], value)
