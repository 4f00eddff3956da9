"""``mitune init MODEL PROMPTS``: a preset of one's own for a model and its prompts, with comments."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.config import compose, groups
from mitune.config.composition import asked
from mitune.config.own_preset import BASE, GROUP, SUFFIXES, is_own
from mitune.errors import UserError, printable, short
from mitune.families.source import EMBEDDED
from mitune.families.usual import Known, known_of
from mitune.manual import options
from mitune.reading import home, is_file, is_folder
from mitune.verbs.amounts import size
from mitune.verbs.catalogue import VERBS
from mitune.verbs.held_out import Prompts, prompts_of, without_columns, write_prompts, written_out
from mitune.verbs.preset_text import NOWHERE, preset_text

# What the words say that are no key=value, in their order.
_PLACES = ("model.path", "prompts.source", "evaluate.prompts.source")
_OF_ITS_OWN = ("model.path", "model.revision", "model.variant")  # of one repository, not of its family


@dataclass(frozen=True)
class Asked:
    """Holds what the words of ``mitune init`` ask for.

    Attributes:
        model, prompts, held_out: as given.
        out: the preset's file.
        base: the shipped preset that it goes on from.
        more: {key: value} of further words.
    """

    model: str
    prompts: str
    held_out: str | None
    out: Path
    base: str
    more: Mapping[str, Any]


def init(words: list[str]) -> int:
    """``mitune init MODEL PROMPTS [HELD_OUT] [out=FILE] [key=value …]``: write the preset, and say what comes next."""
    given = read(words)
    check_free([given.out])
    known = known_of(given.model)
    prompts = prompts_of(given.prompts, given.held_out, given.out.parent, given.more)
    check_free(prompts.new)
    values = _values(given, known, prompts)
    text = preset_text(
        [
            _model(given.model, known),
            f"Use it:  mitune run {shlex.quote(f'{GROUP}={given.out}')}",
            f"What is not here, or behind a #, is as {GROUP}={given.base} has it; mitune help KEY tells of a key.",
        ],
        given.base,
        values,
    )
    _try(text, given.out)
    write_prompts(prompts)
    _write_new(given.out, text)
    for line in _told(given, known, prompts, values):
        print(printable(line))
    return 0


def read(words: Sequence[str]) -> Asked:
    """Read the words. Raises UserError for what is missing, too much, or not understood."""
    places = [word for word in words if "=" not in word or is_file(word) or is_folder(word)]
    named = dict(word.split("=", 1) for word in words if word not in places)
    found = {name: named.pop(name) for name in _PLACES if named.get(name)}
    free = [name for name in _PLACES if name not in found]
    if len(places) > len(free):
        raise UserError(
            f"init: '{short(places[len(free)], 80)}' is one word too many; give {VERBS['init'].takes}"
        )
    found |= dict(zip(free, places, strict=False))
    for name, what in zip(_PLACES[:2], ("a model", "a file of prompts"), strict=True):
        if name not in found:
            raise UserError(f"init: {what} is missing ({name}); give {VERBS['init'].takes}")
    base = named.pop(GROUP, BASE)
    if is_own(f"{GROUP}={base}"):
        raise UserError(
            f"init: {GROUP}={short(base, 80)}: a preset goes on from one that is shipped; mitune ls lists them"
        )
    model = found["model.path"]
    out = home(named.pop("out", "") or f"{_slug(model)}.yaml")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"init: out={short(str(out), 80)}: a preset's name ends in {' or '.join(SUFFIXES)}")
    plain = asked([f"{GROUP}={base}", NOWHERE])
    changed = asked([f"{GROUP}={base}", NOWHERE, *(f"{name}={value}" for name, value in named.items())])
    more = {name: value for name, value in changed.items() if value != plain[name]}
    return Asked(model, found["prompts.source"], found.get("evaluate.prompts.source"), out, base, more)


def _slug(model: str) -> str:
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).stem if is_file(model) else Path(model).name).strip("-.")
        or "mine"
    )


def check_free(paths: Sequence[Path]) -> None:
    """Raise UserError where something is that would be written over."""
    for path in paths:
        if os.path.lexists(path):
            raise UserError(f"init: {path} is there already; move it away, or say out= another FILE.yaml")


def _values(given: Asked, known: Known, prompts: Prompts) -> dict[str, Any]:
    """{key: value} that the preset sets."""
    place = home(given.model)
    here = given.model not in EMBEDDED and (is_file(place) or is_folder(place))
    values = {
        "name": given.out.stem,
        "model.path": str(written_out(place)) if here else given.model,
        "prompts.source": prompts.source,
        "evaluate.prompts.source": prompts.held_out_source,
        **_usual(given.model, known),
    }
    if prompts.in_splits:  # their names say what is held out
        values |= {"prompts.split": None, "evaluate.prompts.split": None}
    return values | (without_columns(given.more) if prompts.new else dict(given.more))


def _usual(model: str, known: Known) -> dict[str, Any]:
    """What a model of this name, or else of its kind, is usually drawn with."""
    for group, option in options():
        own = options()[group, option]
        if group == "model" and own.get("model.path") == model:
            return {name: value for name, value in own.items() if name != "model.path"}
    family = options().get(("model", known.option), {})
    return {name: value for name, value in family.items() if name not in _OF_ITS_OWN}


def _try(text: str, out: Path) -> None:
    """Raise UserError where the preset would be refused, before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / out.name
        trial.write_text(text, encoding="utf-8")
        try:
            compose([f"{GROUP}={trial}", NOWHERE], "run")
        except UserError as error:
            raise UserError(f"init: {str(error).replace(str(trial), str(out))}") from error


def _write_new(path: Path, text: str) -> None:
    from mitune.files import write_text

    check_free([path])
    write_text(path, text)


def _told(given: Asked, known: Known, prompts: Prompts, values: Mapping[str, Any]) -> list[str]:
    word = shlex.quote(f"{GROUP}={given.out}")
    lines = [f"wrote {path}" for path in (*prompts.new, given.out)]
    unseen = "" if known.pipeline or known.weights else ", taken for a Hub id and not looked at"
    lines.append(f"model: {_model(given.model, known)}{unseen}")
    lines.append(f"prompts: {_counted(given, prompts, values)}")
    commands = (
        [f"  mitune check {word}    what it will draw and take, before anything is loaded"]
        if "check" in VERBS
        else []
    )
    return [*lines, "next:", *commands, f"  mitune run {word}", *_cards()]


def _model(model: str, known: Known) -> str:
    """A model with what is known of it."""
    side = f"{known.side} x {known.side} pictures" if known.side else ""
    weights = f"{size(known.weights)} of weights" if known.weights else ""
    said = ", ".join(filter(None, (known.pipeline, side, weights)))
    return f"{model} ({said})" if said else model


def _counted(given: Asked, prompts: Prompts, values: Mapping[str, Any]) -> str:
    """How many there are, and how many of them the preset takes."""
    if prompts.count is None:
        return prompts.said
    shown = asked([f"{GROUP}={given.base}", NOWHERE]) | dict(values)
    counts = {
        "to train on": ("prompts", prompts.count),
        "held out": ("evaluate.prompts", prompts.held_out_count),
    }
    parts = []
    for what, (section, count) in counts.items():
        limit = shown[f"{section}.limit"]
        taken = f" ({section}.limit takes {limit})" if limit is not None and count and limit < count else ""
        parts.append(f"{count} {what}{taken}")
    return ", ".join([*parts, *([prompts.said] if prompts.said else [])])


def _cards() -> list[str]:
    """A line on sizes of cards, where there are presets of them."""
    cards = groups().get("card", [])
    return [f"  (for your GPU add card= one of {', '.join(cards)})"] if cards else []
