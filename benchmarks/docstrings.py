"""An extension of griffe: docstrings of this house in the Markdown that the API page is made of.

Three habits of ours differ from what mkdocstrings reads: several arguments share a line (``steps, guidance: ...``),
names are marked as Sphinx does (``:class:`Model```), and examples (``>>>``) stand in the text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SHARED = re.compile(r"^( *)(\w+(?:, \w+)+)(: .*(?:\n\1 +\S.*)*)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?\.?([^`]+)`")
_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


def readable(text: str) -> str:
    """Give a docstring as mkdocstrings reads it.

    >>> print(readable("Args:\\n    a, b: of :class:`Model`."))
    Args:
        a: of `Model`.
        b: of `Model`.
    """
    text = _ROLE.sub(r"`\1`", text)
    text = _EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
    return _SHARED.sub(
        lambda found: "\n".join(f"{found[1]}{name}{found[3]}" for name in found[2].split(", ")), text
    )


class Docstrings(griffe.Extension):
    """Makes every docstring readable as it is loaded."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
