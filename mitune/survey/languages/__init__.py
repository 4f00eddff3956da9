"""The words of the pages: a JSON file a language, all with the same names."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence

_PART = re.compile(r"([A-Za-z]{1,8})(?:-[\w-]+)?\s*(?:;\s*q\s*=\s*([\d.]{1,6}))?")


@functools.cache
def known() -> dict[str, Mapping[str, str]]:
    """Give the words of all languages: {language: {name: words}}."""
    own = importlib.resources.files("mitune.survey.languages")
    names = sorted(one.name for one in own.iterdir() if one.name.endswith(".json"))
    return {
        name.removesuffix(".json"): json.loads(own.joinpath(name).read_text(encoding="utf-8"))
        for name in names
    }


def preferred(header: str, offered: Sequence[str]) -> str:
    """Choose of the languages on offer the one that a browser asks for (Accept-Language), else the first."""
    asked = []
    for place, part in enumerate(header[:500].split(",")):
        if found := _PART.fullmatch(part.strip()):
            weight = found[2] or "1"
            asked.append(
                (-float(weight) if weight.count(".") < 2 and weight != "." else 0, place, found[1].lower())
            )
    return next((name for _, _, name in sorted(asked) if name in offered), offered[0])
