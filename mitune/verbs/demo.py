"""``mitune demo``: the whole loop on the embedded world, with its own model, prompts and oracle."""

from __future__ import annotations

from mitune import command

PRESET, SHOW = "experiment=shapes", "--cfg"


def demo(words: list[str]) -> int:
    """Do ``mitune run`` with the demo's preset; ``words`` change it as they do any. Gives the exit code."""
    return command.do("run", [PRESET, *(word for word in words if word != SHOW)], show=SHOW in words)
