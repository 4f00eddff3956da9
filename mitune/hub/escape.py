"""Text of unknown origin (prompts, names, paths) made harmless in a model card; secrets kept out of files."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from mitune.errors import short
from mitune.track import without_secrets

_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
HIDDEN = "***"


def plain(value: str, length: int = 300) -> str:
    """``value`` on one line without tokens and without control, formatting or direction characters, at most ``length``
    long.
    """
    kept = (" " if letter.isspace() else letter for letter in _TOKEN.sub(HIDDEN, value))
    seen = "".join(letter for letter in kept if unicodedata.category(letter)[0] != "C")
    return short(" ".join(seen.split()), length)


def literal(value: str, length: int = 300) -> str:
    """Give ``value`` as Markdown that reads as just that text: no markup, HTML, link, table cell or front matter in it.

    All but letters, digits, spaces and commas become character references, which CommonMark never takes for structure
    (CommonMark 0.31, 2.5).
    """
    text = plain(value, length)
    return "".join(
        letter
        if letter.isalnum() or letter in " ,…" or unicodedata.combining(letter)
        else f"&#{ord(letter)};"
        for letter in text
    )


def scrub(value: Any) -> Any:
    """Nested mappings and lists fit to be published: without secrets, credentials in addresses, and folders of this
    machine (of an absolute path the last name stays).
    """
    if isinstance(value, dict):
        return {key: scrub(part) for key, part in without_secrets(value).items()}
    if isinstance(value, (list, tuple)):
        return [scrub(part) for part in value]
    if not isinstance(value, str):
        return value
    value = _CREDENTIALS.sub(f"{HIDDEN}@", _TOKEN.sub(HIDDEN, value))
    return Path(value).name if value.startswith(("/", "~")) else value
