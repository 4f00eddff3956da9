"""Settings: a key is declared once, beside the code that it sets, with its default, meaning, choices and bounds.

    @dataclass
    class StepSettings(Settings):
        eta: float = key(1.0, "0 = deterministic, 1 = as noisy as ddpm", low=0, high=1)

Everything else is derived from it: the configuration, ``--help``, the schema, the checks and their messages. Nothing
here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mitune.errors import UserError, nearest, printable, short
from mitune.reading import home

# The most of what a key counts, far beyond any use: a slip of the finger is refused in a line, not run for ever.
STEPS = 1000  # of the schedule: times lie between 0 and this
CANDIDATES = 100_000  # of a prompt
BATCH = 65_536  # rows of a forward
ROWS = 1_000_000_000  # of a table, of which a part is taken
TRAINING = 10_000_000  # optimizer steps
ROUNDS = 10_000
RESAMPLES = 100_000
GUIDANCE = 1000
SEED = 2**63 - 1  # as columns of 64 bits hold it

LONGEST = 10_000  # characters of a text
_PATH, _NAME = 4000, 255  # bytes of a path, and of one name in it, that file systems take
_WORDS = {int: "a whole number in plain digits", float: "a number", bool: "true or false", str: "text"}
_COUNTS = {2: "two numbers", 3: "three numbers"}
_LISTS = {int: " of whole numbers", float: " of numbers", str: ""}


@dataclass(frozen=True)
class Limits:
    """Bound what a value, or each item of a list, may be.

    Attributes:
        low, above: it is at least ``low``, or above ``above``.
        high, below: it is at most ``high`` (``why`` no more), or below ``below``. Numbers are finite in any case.
        choices: it is one of these.
        path: it may be a place or a name of one.
        empty: a text without a character means something.
        filled: a list has an item at least; ``sizes``: it has just so many.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    path: bool = False
    empty: bool = False
    filled: bool = False
    sizes: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Key:
    """Holds a key as it is declared.

    Attributes:
        name: the full name, such as ``sampler.eta``.
        kind: the type of its value, or of an item where it is a list (``many``).
        optional: whether it may be null.
        said: choice -> what it means, where the declaration says so.
        unit: of a number, such as ``pixels``.
        basic: whether ``mitune STAGE --help`` shows it without ``--all``.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    meaning: str
    limits: Limits
    said: Mapping[str, str]
    unit: str
    basic: bool


def key(
    default: Any,
    meaning: str,
    *,
    choices: Mapping[str, str] | Sequence[str] = (),
    unit: str = "",
    basic: bool = False,
    **limits: Any,
) -> Any:
    """Declare a key: a field of a :class:`Settings`.

    Args:
        default: the value where nobody gives one.
        meaning: the line that ``--help`` prints; choices, bounds and unit are added to it and not repeated in it.
        choices: the names that it may have, or name -> meaning (``Catalogue.meanings``).
        unit: of a number.
        basic: shown without ``--all``.
        limits: as :class:`Limits`.
    """
    metadata = {
        "help": meaning,
        "limits": Limits(choices=tuple(choices), **limits),
        "said": dict(choices) if isinstance(choices, Mapping) else {},
        "unit": unit,
        "basic": basic,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type) -> Any:
    """Declare a group of keys within another."""
    return field(default_factory=kind)


class Settings:
    """Makes the fields of a dataclass keys: their base.

    >>> @dataclass
    ... class Walk(Settings):
    ...     steps: int = key(20, "network evaluations a picture", low=1)
    >>> Walk(steps=0).check("sampler.")
    Traceback (most recent call last):
    mitune.errors.UserError: sampler.steps=0: must be at least 1
    """

    def check(self, prefix: str = "") -> None:
        """Raise UserError, naming the key after ``prefix``, for a value that its declaration does not allow."""
        for one in declared(type(self)):  # type: ignore[arg-type]
            value: Any = functools.reduce(getattr, one.name.split("."), self)  # type: ignore[arg-type]
            value = list(value) if one.many and isinstance(value, tuple) else value
            check_value(dataclasses.replace(one, name=f"{prefix}{one.name}"), value)


@functools.cache
def declared(kind: type, prefix: str = "") -> tuple[Key, ...]:
    """Give the keys that a dataclass declares, by full name after ``prefix``."""
    return tuple(_declared(kind, prefix))


def _declared(kind: type, prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        name, hint, optional = f"{prefix}{item.name}", hints[item.name], False
        if dataclasses.is_dataclass(hint):
            yield from _declared(typing.cast(type, hint), f"{name}.")
            continue
        make = item.default_factory
        default = item.default if make is dataclasses.MISSING else make()
        if isinstance(hint, types.UnionType):
            hint, optional = next(part for part in hint.__args__ if part is not types.NoneType), True
        many = typing.get_origin(hint) is list
        own = item.metadata
        yield Key(
            name, hint.__args__[0] if many else hint, many, optional, default,
            own["help"], own["limits"], own["said"], own["unit"], own["basic"],
        )  # fmt: skip


def wrong_kind(key: Key, text: str) -> UserError:
    """Make the error of a text that is no value of the key's type."""
    words = f"a list{_LISTS[key.kind]}, written [a,b]" if key.many else _WORDS[key.kind]
    return UserError(f"{key.name}={shown(text)}: this key takes {words}{' or null' if key.optional else ''}")


def check_value(key: Key, value: Any) -> None:
    """Raise UserError unless ``value`` is one that ``key`` may have, by its type and limits."""
    if value is None and key.optional:
        return
    if key.many:
        if not isinstance(value, list):
            raise wrong_kind(key, str(value))
        _check_size(key, value)
        for item in value:
            _check(key, item, value)
    else:
        _check(key, value, value)


def check_interval(prefix: str, low: float, high: float) -> None:
    """Raise UserError unless ``t_min`` and ``t_max``, after ``prefix``, bound an interval."""
    if low >= high:
        raise UserError(f"{prefix}t_min={low} is not below {prefix}t_max={high}")


def _check_size(key: Key, items: list[Any]) -> None:
    if key.limits.filled and not items:
        raise UserError(f"{key.name} is empty: give at least one")
    if key.limits.sizes not in (None, len(items)):
        raise UserError(f"{key.name}={items}: give {_COUNTS[key.limits.sizes]}")


def _check(key: Key, item: Any, value: Any) -> None:
    fits = type(item) in ((int, float) if key.kind is float else (key.kind,))
    if not fits:
        raise wrong_kind(key, str(value))
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
                f"{key.name}: there is no '{shown(text)}'{hint}; choose among {', '.join(limits.choices)}"
            )
        raise UserError(f"{key.name}={shown(text)}: it is one of {', '.join(limits.choices)}{hint}")
    if "${" in text or text == "???":
        raise UserError(
            f"{key.name}={shown(text)}: a text is taken as it stands, and nothing in it is looked up; write out what"
            " is meant"
        )
    if len(text) > LONGEST:
        raise UserError(
            f"{key.name}={shown(text)}: {len(text)} characters are too many, of {LONGEST} at most"
        )
    if text != printable(text):
        raise UserError(
            f"{key.name}={shown(text)}: the text holds a control character, or bytes that are no UTF-8; leave them out"
        )
    if limits.path:
        try:
            home(text)
        except UserError as error:
            raise UserError(f"{key.name}={error}") from error
        data = text.encode()
        if len(data) > _PATH or max(map(len, data.split(b"/"))) > _NAME:
            raise UserError(f"{key.name}={shown(text)}: too long for a path; give a shorter one")


def _check_number(key: Key, number: float, value: Any) -> None:
    if wrong := _outside(key.limits, number):
        raise UserError(f"{key.name}={shown(str(value))}: must be {wrong}")


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


def shown(text: str) -> str:
    """A text of the user in a message: short, and without control characters."""
    return printable(short(text, 80))
