"""What is looked up: ``help``, ``schema``, ``completion``."""

from __future__ import annotations

import json

from mitune.errors import UserError


def explained(words: list[str]) -> int:
    """``mitune help NAME``, or several names."""
    from mitune.manual import explain

    print("\n\n".join(explain(word) for word in words))
    return 0


def printed_schema(words: list[str]) -> int:
    """``mitune schema``."""
    from mitune.config.schema import schema

    if words:
        raise UserError("mitune schema: it takes no words")
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
    return 0


def completed(words: list[str]) -> int:
    """``mitune completion SHELL``."""
    from mitune.completion import script

    print(script(words[0] if len(words) == 1 else ""), end="")
    return 0
