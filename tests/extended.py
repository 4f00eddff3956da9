"""The package as somebody who extends it would have it: a copy with files added and changed, and its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli import command
from tests.tree import ROOT

_COMMANDS = """
import contextlib, io, json, sys
from mitune.cli import main
found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Answer:
    """What a command gave: its exit code and what it printed."""

    code: int
    out: str
    err: str


def extend(folder: Path, added: Mapping[str, str], changed: Mapping[str, Mapping[str, str]]) -> Path:
    """Copy the package into ``folder`` (as links, but for what differs); gives what to import it from.

    Args:
        folder: an empty one.
        added: place in ``mitune/`` -> text of a new file.
        changed: place -> {text that stands there once: what stands there instead}.
    """
    package = folder / "mitune"
    for source in (ROOT / "mitune").rglob("*"):
        name = source.relative_to(ROOT / "mitune")
        if source.is_file() and "__pycache__" not in name.parts:
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).symlink_to(source)
    (folder / "conf").symlink_to(ROOT / "conf")
    for name, text in added.items():
        (package / name).write_text(text, encoding="utf-8")
    for name, exchanged in changed.items():
        text = (ROOT / "mitune" / name).read_text(encoding="utf-8")
        for old, new in exchanged.items():
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (package / name).unlink()
        (package / name).write_text(text, encoding="utf-8")
    return folder


def ask(folder: Path, commands: Sequence[Sequence[str]]) -> list[Answer]:
    """Give ``commands`` to the package in ``folder``, one after the other in one process that stands there."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps([*map(command, commands)])],
        env={**os.environ, "PYTHONPATH": str(folder)}, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout.splitlines()[-1])]
