"""One value of a configuration: how the text of a command line becomes it, and what it may be.

A text is taken as it stands: nothing in it is looked up (``${…}``), and nothing of YAML's is read into a number
(``010`` as 8, ``1:30`` as 90), a list apart.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from mitune.config.keys import Key, Limits
from mitune.errors import UserError, nearest, printable, short
from mitune.reading import home

LONGEST = 10_000  # characters of a text
_DIGITS = 4300  # of a whole number: what int() reads by default, where it is bounded (Python 3.10.7)
_PATH, _NAME = 4000, 255  # bytes of a path, and of one name in it, that file systems take
_WORDS = {int: "a whole number in plain digits", float: "a number", bool: "true or false", str: "text"}
_LISTS = {int: " of whole numbers", float: " of numbers", str: ""}
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
    """The value that ``key=text`` of a command line means. Raises UserError for a text that is none of its type."""
    given = text.strip()
    if given in _NULL and (key.optional or (key.many and not key.default)):
        return [] if key.many else None
    if key.many:
        return _items(key, given)
    if key.kind is str:
        if not given and not key.limits.empty:
            raise UserError(f"{key.name}= is empty: give a value{', or null' if key.optional else ''}")
        return text
    value = _scalar(key.kind, given)
    if value is None:
        raise _wrong(key, text)
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
            f"{key.name}={_shown(text)}: not a value that can be read; lists are written [a,b]"
        ) from error
    if text.startswith("{") or text in _NULL or not all(parts):
        raise _wrong(key, text)
    values = [_scalar(key.kind, part) for part in parts]
    if any(value is None for value in values):
        raise _wrong(key, text)
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


def _wrong(key: Key, text: str) -> UserError:
    words = f"a list{_LISTS[key.kind]}, written [a,b]" if key.many else _WORDS[key.kind]
    return UserError(f"{key.name}={_shown(text)}: this key takes {words}{' or null' if key.optional else ''}")


def check_value(key: Key, value: Any) -> None:
    """Raise UserError unless ``value`` is one that ``key`` may have, by its type and limits."""
    if value is None and key.optional:
        return
    if key.many:
        if not isinstance(value, list):
            raise _wrong(key, str(value))
        for item in value:
            _check(key, item, value)
    else:
        _check(key, value, value)


def _check(key: Key, item: Any, value: Any) -> None:
    fits = type(item) in ((int, float) if key.kind is float else (key.kind,))
    if not fits:
        raise _wrong(key, str(value))
    if isinstance(item, str):
        _check_text(key, item)
    elif not isinstance(item, bool):
        _check_number(key, item, value)


def _check_text(key: Key, text: str) -> None:
    limits = key.limits
    if limits.choices and text not in limits.choices:
        hint = nearest(text, limits.choices)
        if key.many:
            raise UserError(
                f"{key.name}: there is no '{_shown(text)}'{hint}; choose among {', '.join(limits.choices)}"
            )
        raise UserError(f"{key.name}={_shown(text)}: it is one of {', '.join(limits.choices)}{hint}")
    if "${" in text or text == "???":
        raise UserError(
            f"{key.name}={_shown(text)}: a text is taken as it stands, and nothing in it is looked up; write out what"
            " is meant"
        )
    if len(text) > LONGEST:
        raise UserError(
            f"{key.name}={_shown(text)}: {len(text)} characters are too many, of {LONGEST} at most"
        )
    if text != printable(text):
        raise UserError(
            f"{key.name}={_shown(text)}: the text holds a control character, or bytes that are no UTF-8; leave them out"
        )
    if limits.path:
        try:
            home(text)
        except UserError as error:
            raise UserError(f"{key.name}={error}") from error
        data = text.encode()
        if len(data) > _PATH or max(map(len, data.split(b"/"))) > _NAME:
            raise UserError(f"{key.name}={_shown(text)}: too long for a path; give a shorter one")


def _check_number(key: Key, number: float, value: Any) -> None:
    if wrong := _outside(key.limits, number):
        raise UserError(f"{key.name}={_shown(str(value))}: must be {wrong}")


def _outside(limits: Limits, number: float) -> str:
    """The bound that a number breaks, in words; empty where it breaks none."""
    low, above, high, below = limits.low, limits.above, limits.high, limits.below
    if isinstance(number, float) and not math.isfinite(number):
        least = (
            f"at least {low} and " if low is not None else f"above {above} and " if above is not None else ""
        )
        return f"{least}finite"
    if low is not None and number < low:
        return f"at least {low}"
    if above is not None and number <= above:
        return f"above {above}"
    if high is not None and number > high:
        return f"at most {high}{f', {limits.why}' if limits.why else ''}"
    return f"below {below}" if below is not None and number >= below else ""


def _shown(text: str) -> str:
    return printable(short(text, 80))
