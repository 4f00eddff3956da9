"""The configuration as a JSON schema (draft 2020-12), from the declarations of the keys."""

from __future__ import annotations

from typing import Any

from mitune.config.keys import keys
from mitune.settings import Key

_KINDS = {int: "integer", float: "number", bool: "boolean", str: "string"}
_BOUNDS = {"low": "minimum", "high": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}


def schema() -> dict[str, Any]:
    """Give the schema of a ``config.yaml``; what must fit together (:mod:`mitune.config.relations`) is not in it."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mitune", **_section()}
    for name, key in keys().items():
        place: dict[str, Any] = whole
        *sections, last = name.split(".")
        for own in sections:
            place = place["properties"].setdefault(own, _section())
        place["properties"][last] = _key(key)
    return whole


def _section() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": False}


def _key(key: Key) -> dict[str, Any]:
    default = list(key.default) if key.many and key.default is not None else key.default
    about: dict[str, Any] = {"description": key.meaning} | ({"x-unit": key.unit} if key.unit else {})
    if "${" not in str(default):  # of the run folder: its meaning says it
        about["default"] = default
    value = _value(key)
    if key.many:
        size = key.limits.sizes
        least = {"minItems": size or 1} if size or key.limits.filled else {}
        value = {"type": "array", "items": value, **least, **({"maxItems": size} if size else {})}
    if not key.optional:
        return about | value
    if "enum" in value:
        value["enum"] = [*value["enum"], None]
    return about | value | {"type": [value["type"], "null"]}


def _value(key: Key) -> dict[str, Any]:
    limits = key.limits
    value: dict[str, Any] = {"type": _KINDS[key.kind]}
    if limits.choices:
        value["enum"] = list(limits.choices)
    elif key.kind is str and not limits.empty:
        value["minLength"] = 1
    bounds = {name: getattr(limits, own) for own, name in _BOUNDS.items()}
    return value | {name: bound for name, bound in bounds.items() if bound is not None}
