"""One value of a configuration: how the text of a command line becomes it.

A text is taken as it stands: nothing in it is looked up (``${…}``), and nothing of YAML's is read into a number
(``010`` as 8, ``1:30`` as 90), a list apart.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mitune.errors import UserError
from mitune.settings import Key, shown, wrong_kind

_DIGITS = 4300  # of a whole number: what int() reads by default, where it is bounded (Python 3.10.7)
_NULL = ("null", "Null", "NULL", "~")
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_NUMBER = re.compile(
    r"[+-]?(((0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|\.?(inf|nan)|infinity)",
    re.IGNORECASE,
)
_TRUTH = {
    "true": True, "yes": True, "on": True, "y": True, "1": True,
    "false": False, "no": False, "off": False, "n": False, "0": False,
}  # fmt: skip


def parse(key: Key, text: str) -> Any:
    """Read ``key=text`` of a command line as a value. Raises UserError for a text that is none of its type."""
    given = text.strip()
    if given in _NULL and (key.optional or (key.many and not key.default)):
        return [] if key.many and not key.optional else None
    if key.many:
        return _items(key, given)
    if key.kind is str:
        if not given and not key.limits.empty:
            raise UserError(f"{key.name}= is empty: give a value{', or null' if key.optional else ''}")
        return text
    value = _scalar(key.kind, given)
    if value is None:
        raise wrong_kind(key, text)
    return value


def _scalar(kind: type, text: str) -> Any:
    """A number or truth, or None where the text is none."""
    if kind is bool:
        return _TRUTH.get(text.lower())
    if kind is int and _WHOLE.fullmatch(text) and len(text) <= _DIGITS:
        return int(text)
    if kind is float and _NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text if kind is str else None


def _items(key: Key, text: str) -> list[Any]:
    """The items of ``[a,b]`` or ``a,b``."""
    try:
        parts = _flow(text) if text[:1] in ("[", "'", '"') else [part.strip() for part in text.split(",")]
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{key.name}={shown(text)}: not a value that can be read; lists are written [a,b]"
        ) from error
    if text.startswith("{") or text in _NULL or not all(parts):
        raise wrong_kind(key, text)
    values = [_scalar(key.kind, part) for part in parts]
    if any(value is None for value in values):
        raise wrong_kind(key, text)
    return values


def _flow(text: str) -> list[str]:
    """The items of a YAML list of plain items, or one quoted item; its grammar alone, none of its types.

    Raises ValueError for lists in lists, maps, anchors and tags.
    """
    items = []
    events = list[yaml.Event]()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        events.append(event)
        if isinstance(event, yaml.ScalarEvent) and event.anchor is None and event.tag is None:
            items.append(event.value)
        elif isinstance(event, (yaml.AliasEvent, yaml.MappingStartEvent, yaml.ScalarEvent)):
            raise ValueError("not a plain item")
        elif isinstance(event, yaml.SequenceStartEvent) and (
            items or len(events) > 3 or event.anchor or event.tag
        ):
            raise ValueError("a list in a list")
        elif isinstance(event, yaml.DocumentStartEvent) and len(events) > 2:
            raise ValueError("two texts")
    return items
