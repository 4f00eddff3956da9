"""Surveys of the embedded world's pictures, servers of them that may be killed, and a PostgreSQL that lasts a while.

What the load run measures is what the tests try small.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from mitune.survey.design import (
    ATTENTION,
    PRACTICE,
    ROUND,
    Picture,
    Round,
    Survey,
    place_of,
    read_survey,
    write_survey,
)
from mitune.worlds.shapes.grammar import parse_prompt
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import random_scene

PROMPTS = (
    "a red circle above a blue square", "a green square left of a yellow cross", "a small blue triangle",
    "a big yellow square", "a red triangle below a green circle", "a blue cross right of a red square",
    "a green triangle", "a small red circle", "a yellow cross", "a big green cross", "a blue circle", "a red square",
)  # fmt: skip
NAMES = {"best_of_scores": ("mi", "clip", "elbo"), "methods": ("ours", "base"), "pairs": ("ours", "base")}


def digest(*parts: object) -> str:
    """Hex digits of some parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def make_survey(
    folder: Path,
    kind: str = "best_of_scores",
    rounds: int = 3,
    practice: int = 1,
    attention: int = 0,
    blocks: int = 1,
    **more: Any,
) -> Survey:
    """A survey in a folder, with pictures by the world's renderer; participants share the rounds in ``blocks``."""
    names = NAMES.get(kind, ("ours",))
    wanted = [(PRACTICE, practice), (ROUND, rounds * blocks), (ATTENTION, attention)]
    kinds = [each for each, count in wanted for _ in range(count)]
    made = []
    for number, each in enumerate(kinds):
        prompt = PROMPTS[number % len(PROMPTS)]
        drawn = (prompt, prompt, PROMPTS[(number + 2) % len(PROMPTS)])  # the third is of another
        pictures = tuple(_picture(folder, one, number, name) for one, name in zip(drawn, names, strict=False))
        right = () if each == ROUND else (pictures[0].id,)
        made.append(Round(digest("round", number), prompt, "color", pictures, each, right))
    of_kind = {each: [one.id for one in made if one.kind == each] for each, _ in wanted}
    survey = Survey(
        kind=kind,
        title=more.pop("title", "Which picture fits?"),
        question=more.pop("question", "Which pictures represent the text best?"),
        names=names,
        seed=7,
        multiple=kind in ("best_of_scores", "methods"),
        rounds=tuple(made),
        blocks=tuple(
            (*of_kind[ROUND][place * rounds : (place + 1) * rounds], *of_kind[ATTENTION])
            for place in range(blocks)
        ),
        **more,
    )
    write_survey(folder, survey)
    return read_survey(folder)


def _picture(folder: Path, prompt: str, number: int, name: str) -> Picture:
    own = digest("picture", number, name)
    rng = np.random.default_rng([number, len(name), ord(name[0])])
    pixels, _ = render(random_scene(rng, parse_prompt(prompt)))
    path = folder / place_of(own)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return Picture(own, place_of(own), (name,))


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@dataclass
class Server:
    """A server of its own process, which may be killed and started again at the same address.

    Attributes:
        words: further words of the command.
    """

    folder: Path
    words: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[str] | None = None
    said: str = ""

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Start it, and wait until it says that it is open."""
        if not self.port:
            self.port = free_port()
        command = [
            sys.executable,
            "-c",
            "import sys; from mitune.survey.serve import main; main(sys.argv[1:])",
        ]
        self.process = subprocess.Popen(
            [*command, str(self.folder), f"port={self.port}", *self.words],
            stdout=subprocess.PIPE,
            stderr=(self.folder / "log.txt").open("a"),
            text=True,
            env={**os.environ, "MITUNE_LOG_EVERY": "0"},
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said.startswith("survey: open "), (self.folder / "log.txt").read_text()
        return self

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """End it, and wait until it has; gives its exit code."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        code, self.process = self.process.wait(), None
        return code

    @property
    def log(self) -> str:
        """What it said on standard error."""
        return (self.folder / "log.txt").read_text()


def postgresql_programs() -> Path | None:
    """Where PostgreSQL's programs are, or None where it is not installed."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places and (places[-1] / "initdb").exists() else None


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own that lasts as long as the block; gives the URL of an empty database.

    It refuses to run as root: then it runs as the user ``postgres``, whom its package made.
    """
    programs = postgresql_programs()
    assert programs is not None
    is_root = os.geteuid() == 0
    folder.mkdir()
    if is_root:
        shutil.chown(folder, "postgres")
    own: dict[str, Any] = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
    own |= {"user": "postgres", "group": "postgres", "extra_groups": []} if is_root else {}
    data, port = folder / "data", free_port()
    subprocess.run(
        [programs / "initdb", "--auth=trust", "--username=survey", "--encoding=UTF8", "-D", data], **own
    )
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log.txt", "-o", settings, "start"], **own)
    try:
        yield f"postgresql://survey@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], **own)
