"""Runs commands in forked processes, so that the libraries are imported once; kills them on request.

The server is a process of its own in which nothing of torch runs, so its children start clean. One request a line:
``{"processes": [{"arguments", "environment", "out", "err", "die": [part of a path, n, signal] or null, "refuse":
[place, ledger] or null}], "kill_after": seconds or null}``; the answer is ``{"codes": [exit code, negative for a
signal], "seconds"}``.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Also where the package is not installed; one thread, as many processes may be at work; no lines of progress.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MITUNE_LOG_EVERY": "0"}


@dataclass(frozen=True)
class Done:
    """How a process ended. ``code`` is negative for a signal."""

    code: int
    out: str
    err: str


class Server:
    """The client's side; ``folder`` takes what the commands print."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        )

    def run(
        self,
        commands: Sequence[Sequence[str]],
        die: Mapping[int, Sequence[Any]] | None = None,
        kill_after: float | None = None,
        environment: Mapping[str, str] | None = None,
        refuse: tuple[str, Path] | None = None,
        apart: bool = False,
    ) -> list[Done]:
        """Run each of ``commands`` in a process; several are the processes of one launch on this machine, or with
        ``apart`` as many launches.

        ``die``: of a process (by its rank), [part of a path, n, signal]: the signal just before the n-th file whose
        path holds that part takes its final name. ``kill_after``: SIGKILL for all that are left after so many seconds.
        ``refuse``: (place, ledger): the disk is full at the first write that the ledger does not name; it is added.
        Place "fsync": once the contents are written, "replace": when a file or folder takes its final name.
        """
        processes: list[dict[str, Any]] = []
        for rank, arguments in enumerate(commands):
            self.count += 1
            files = {name: str(self.folder / f"{self.count}.{name}") for name in ("out", "err")}
            for file in files.values():
                Path(file).touch()  # there also of a process that is killed before it opens them
            own = ({} if apart else fellows(rank, len(commands))) | dict(environment or {})
            death = (die or {}).get(rank)
            refusal = None if refuse is None else [refuse[0], str(refuse[1])]
            more = {"die": death, "refuse": refusal}
            processes.append({"arguments": list(arguments), "environment": own} | more | files)
        request = {"processes": processes, "kill_after": kill_after, "port": len(commands) > 1 and not apart}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        self.seconds: float = answer["seconds"]
        return [
            Done(code, Path(own["out"]).read_text(), Path(own["err"]).read_text())
            for code, own in zip(answer["codes"], processes, strict=True)
        ]

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)


def fellows(rank: int, ranks: int) -> dict[str, str]:
    """What a launcher would put into the environment of a process; the port is the server's to find."""
    if ranks == 1:
        return {}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in names.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "ACCELERATE_USE_CPU": "true",
    }


def work(process: Mapping[str, Any]) -> None:
    """In the child: the command, with its output in files."""
    os.environ.update(process["environment"])
    for name, number in (("out", 1), ("err", 2)):
        handle = os.open(process[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    if process["die"]:
        part, left, death = process["die"]
        replace = os.replace

        def deadly(source: Any, target: Any, **rest: Any) -> None:
            nonlocal left
            if part in str(target):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), death)
            replace(source, target, **rest)

        os.replace = deadly  # type: ignore[assignment]
    if process["refuse"]:
        full_disk(*process["refuse"])
    from mitune.cli import main

    code = main(process["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def full_disk(place: str, ledger: str) -> None:
    """Let the first write that ``ledger`` does not name fail, and name it there. Only writes of ``mitune.files``."""
    before = set(Path(ledger).read_text().splitlines()) if Path(ledger).exists() else set()
    real = getattr(os, place)

    def refusing(*arguments: Any, **rest: Any) -> Any:
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__") == "mitune.files":
            target = str(arguments[1] if place == "replace" else caller.f_locals["path"])
            # The end of a temporary name is drawn by lot.
            name = re.sub(r"\.partial-([^/]*?)-?[a-z0-9_]{8}(?=/|$)", r"*\1", target)
            if name not in before:
                with Path(ledger).open("a") as file:
                    file.write(name + "\n")
                before.add(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        return real(*arguments, **rest)

    setattr(os, place, refusing)


def launch(request: Mapping[str, Any]) -> dict[str, Any]:
    """Fork for each process of a request, and wait for all of them."""
    common = {}
    if request["port"]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            common = {"MASTER_PORT": str(free.getsockname()[1])}
    began = time.monotonic()
    children = []
    for process in request["processes"]:
        child = os.fork()
        if child == 0:
            try:
                work(process | {"environment": process["environment"] | common})
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    codes: dict[int, int] = {}
    killed = request["kill_after"] is None
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if not killed and time.monotonic() - began > request["kill_after"]:
            killed = True
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return {"codes": [codes[child] for child in children], "seconds": time.monotonic() - began}


# What a command imports, directly or late, down to a pipeline's own modules: half of a tiny run's time otherwise.
PRELOADED = (
    "datasets",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mpl_toolkits.mplot3d",
    "peft",
    "scipy.ndimage",
    "scipy.stats",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "mitune.cli",
    "mitune.report.report",
    "mitune.stages.agree",
    "mitune.stages.calibrate",
    "mitune.stages.edit",
    "mitune.stages.export",
    "mitune.stages.run",
    "mitune.stages.sample",
    "mitune.stages.score",
    "mitune.stages.segment",
)


def serve() -> None:
    """Answer requests until the input ends."""
    for module in PRELOADED:
        importlib.import_module(module)
    from mitune.config import compose
    from mitune.families import families

    families()
    compose([])  # Hydra looks for its plugins once
    for line in sys.stdin:
        print(json.dumps(launch(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
