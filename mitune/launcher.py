"""``launch=NAME``: a command starts itself again as the processes that an accelerate configuration describes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mitune.config import shipped_folder
from mitune.errors import UserError, nearest
from mitune.reading import check_yaml, home, is_file, read_text

# accelerate's own exit code is 1 whatever its processes said: they leave theirs in the file that this names.
CODES = "MITUNE_EXIT_CODES"


def launch_folder() -> Path:
    """Find the folder of accelerate configurations."""
    return shipped_folder("launch", "single_gpu.yaml")


def launch_file(name: str) -> Path:
    """Find the configuration that ``launch=name`` means: a file, or one of ``launch/`` by its name without ending.

    Raises UserError where there is none.
    """
    path = home(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        if not is_file(path):
            raise UserError(f"launch={name}: there is no such file")
        return path
    known = {file.stem: file for file in sorted(launch_folder().glob("*.yaml"))}
    if name not in known:
        raise UserError(
            f"launch={name}: there is no such file in {launch_folder()}{nearest(name, known)}; it is one of"
            f" {', '.join(known)}, or a .yaml file that accelerate config wrote"
        )
    return known[name]


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process is one that a launcher started."""
    return "RANK" in environment or "LOCAL_RANK" in environment


def command(path: Path, arguments: Sequence[str]) -> list[str]:
    """Give the command line that runs ``mitune`` with ``arguments`` under the configuration ``path``."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    settings = _settings(path)
    if settings["num_machines"] == 1:
        launcher += ["--main_process_port", "0"]  # any free one: jobs side by side do not meet
        if settings["gpu_ids"] == "all" and (count := _gpus()) > 1:
            launcher += ["--num_processes", str(count)]
    return [*launcher, "-m", "mitune", *arguments]


def launch(name: str, arguments: Sequence[str]) -> int:
    """Run ``mitune`` with ``arguments`` under ``launch=name``; gives its processes' exit code.

    A wish to stop is passed on as SIGTERM, the one that accelerate passes on to its processes.
    """
    path = launch_file(name)
    with tempfile.TemporaryDirectory(prefix="mitune-") as folder:
        codes = Path(folder) / "codes"
        piped = sys.stderr is not sys.__stderr__  # a sweep reads along, for the line of an error
        process = subprocess.Popen(
            command(path, arguments),
            env=os.environ | {CODES: str(codes)},
            stderr=subprocess.PIPE if piped else None,
            encoding="utf-8",
            errors="replace",
        )
        with _passed_on(process):
            for line in process.stderr or ():
                sys.stderr.write(line)
            code = process.wait()
        said = [int(line) for line in codes.read_text().split()] if codes.exists() else []
    return _worst(code, said)


def leave_code(code: int) -> None:
    """Tell a ``launch`` that waits for this process how it ended. Without one, nothing happens."""
    if path := os.environ.get(CODES):
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"{code}\n")


def _worst(code: int, said: Sequence[int]) -> int:
    """What the processes said says more than their launcher's 1."""
    failed = [own for own in said if own]
    if code == 0 or not failed:
        return code if code >= 0 else 128 - code
    return max(failed)


def _settings(path: Path) -> dict[str, Any]:
    """Of a configuration, what decides how it is started."""
    way_out = "it is no configuration of accelerate; accelerate config writes one"
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"launch: {error}; {way_out}") from error
    check_yaml(text, f"launch: {path}", way_out)
    try:
        found: Any = yaml.safe_load(text)
        return {"num_machines": int(found.get("num_machines", 1)), "gpu_ids": found.get("gpu_ids")}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"launch: {path}: {way_out}") from error


def _gpus() -> int:
    """GPUs that a configuration of all of them means; none where the CPU is asked for."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[str]) -> Iterator[None]:
    def pass_on(number: int, frame: Any) -> None:
        process.send_signal(signal.SIGTERM)

    try:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not the main thread: signals do not come here
        before = {}
    try:
        yield
    except KeyboardInterrupt:  # the terminal has told the processes too
        process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
