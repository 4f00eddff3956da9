"""The text of a preset of one's own: the keys it sets, and behind a ``#`` those changed most, with meanings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mitune.config import groups
from mitune.config.composition import asked
from mitune.config.keys import keys
from mitune.config.own_preset import GROUP
from mitune.errors import printable
from mitune.settings import Key
from mitune.stages.catalogue import STAGES

_COLUMN = 44  # where meanings begin
NOWHERE = (
    "run=/dev/null/none"  # a place where no run is: what a preset says by itself, not what a run there has
)
_NOT = ("run", "launch", "search")  # of a command, and of steering, not of a recipe


def preset_text(head: Sequence[str], base: str, values: Mapping[str, Any]) -> str:
    """Write the file.

    Args:
        head: its first lines, as comments.
        base: the shipped preset that it goes on from.
        values: {key: value} that it sets.
    """
    shown = asked([f"{GROUP}={base}", NOWHERE]) | dict(values)
    rows = [one for one in keys().values() if one.name in values or _offered(one)]
    lines = [f"# {printable(line)}" for line in head]
    lines += ["", f"{GROUP}: {base}", *_cards()]
    lines += _section("", rows, values, shown, "")
    return "\n".join([*lines, ""])


def _offered(key: Key) -> bool:
    """Whether a user may well change it."""
    return key.basic and STAGES["run"].shows(key.name) and key.name.partition(".")[0] not in _NOT


def _cards() -> list[str]:
    cards = groups().get("card", [])
    return (
        [f"# card: {cards[0]}".ljust(_COLUMN) + f"# sizes for one GPU: {', '.join(cards)}"] if cards else []
    )


def _section(
    prefix: str, rows: Sequence[Key], values: Mapping[str, Any], shown: Mapping[str, Any], indent: str
) -> Iterator[str]:
    """The keys of a section, then the sections in it.

    Args:
        prefix: of their names.
        rows: all keys of the file.
        values, shown: what it sets, and what every key would be.
        indent: of its lines.
    """
    own = [one for one in rows if one.name.startswith(prefix)]
    for key in own:
        name = key.name.removeprefix(prefix)
        if "." not in name:
            off = "" if key.name in values else "# "
            left = f"{indent}{off}{name}: {json.dumps(shown[key.name], ensure_ascii=False)}"
            limits = ", ".join(key.limits.choices)
            yield f"{left.ljust(_COLUMN - 1)} # {key.meaning}{f' ({limits})' if limits else ''}"
    inner = dict.fromkeys(
        key.name.removeprefix(prefix).partition(".")[0] for key in own if "." in key.name.removeprefix(prefix)
    )
    for name in inner:
        yield from ([""] if not indent else []) + [f"{indent}{name}:"]
        yield from _section(f"{prefix}{name}.", rows, values, shown, f"{indent}  ")
