"""What a page says of where its figures are from: the command, the day, the version, the device."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mitune
from mitune.errors import UserError
from mitune.reading import read_json

COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())
"""The words of the command that is at work: the stage, then ``key=value``."""
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")


def made(config: Any, path: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Say ``{"command", "date", "version", "device"}`` of ``figures``; or what the file ``path`` says, where it holds
    the same figures already: a command that is given again makes nothing new.
    """
    try:
        before = read_json(path) if path.is_file() else {}
    except UserError:
        before = {}
    said = before.pop("made", None) if isinstance(before, dict) else None
    if isinstance(said, dict) and before == json.loads(json.dumps(figures)):
        return said
    return {
        "command": spelled(COMMAND.get()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": mitune.__version__,
        "device": device_name(config.model.device),
    }


def spelled(words: Sequence[str]) -> str | None:
    """Write the words as a shell takes them, without secrets; None where there was no command line."""
    if not words:
        return None
    return shlex.join(["mitune", *(_open(word) for word in words)])


def _open(word: str) -> str:
    """A word without its secret."""
    from mitune.track import without_secrets  # brings torch, which the command line does without

    key, sign, value = word.partition("=")
    hidden = str(without_secrets({key.rpartition(".")[2]: value}).popitem()[1]) if sign else ""
    return _TOKEN.sub("***", f"{key}{sign}{hidden}")


def device_name(device: str) -> str:
    """Name what computes: the graphics card's own name, and how many of them."""
    import torch

    from mitune.distributed import state
    from mitune.families.options import find_device

    found, count = find_device(device), state().num_processes
    if found.type == "cuda":
        name = torch.cuda.get_device_name(found)
    else:
        threads = torch.get_num_threads()
        cpu = f"CPU, {threads} threads" if threads > 1 else "CPU, one thread"
        name = {"cpu": cpu, "mps": "Apple GPU"}.get(found.type, found.type)
    return name if count == 1 else f"{count} × {name}"
