"""Type every command of README.md and the quick start literally, in a fresh environment made from the wheel.

    python -m tests.wheel [--torch-index URL] [--keep FOLDER]        (make test-wheel)

The environment is made in a temporary folder, outside of the checkout; nothing of the checkout is on its path. The
model is a tiny Stable Diffusion. What still trains after 15 minutes is interrupted as by Ctrl-C, and ends with 130.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.documented import ROOT, furnish, told

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, install, type; give 0 where every command ended with 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-index", help="a package index to ask for torch, beside the usual one")
    parser.add_argument("--keep", type=Path, help="work here, and leave everything behind")
    parser.add_argument("--without", nargs="*", default=[], help="commands that are left out, such as demo")
    parser.add_argument(
        "--patience", type=float, default=900.0, help="seconds before a command is interrupted"
    )
    given = parser.parse_args(arguments)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background is started deaf to it, and so its children
    with tempfile.TemporaryDirectory(prefix="mitune-wheel-") as temporary:
        place = (given.keep or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        failed = tried(place, installed(place, given.torch_index), given.without, given.patience)
    print("\n".join(["", *(failed or ["everything that the pages say works"])]))
    return 1 if failed else 0


def installed(place: Path, index: str | None) -> Path:
    """Build the wheel, make an environment of it in ``place``, and give the folder of its programs."""
    call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(ROOT)])
    (wheel,) = place.glob("mitune-*.whl")
    left_out = files() - {*zipfile.ZipFile(wheel).namelist()}
    if left_out:
        raise SystemExit(f"the wheel lacks {', '.join(sorted(left_out))}")
    if not (place / "environment").exists():
        venv.create(place / "environment", with_pip=True)
    binaries = place / "environment" / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    call([*pip, "torch==2.13.0", *(["--extra-index-url", index] if index else [])])
    call([*pip, str(wheel)])
    # An environment that was kept has an older one.
    call([*pip, "--force-reinstall", "--no-deps", str(wheel)])
    return binaries


def files() -> set[str]:
    """Name what the wheel has to hold: the package with its models, the presets, the launch files."""
    homes = {"mitune": "mitune", "conf": "mitune/conf", "launch": "mitune/launch"}
    return {
        f"{home}/{path.relative_to(ROOT / folder)}"
        for folder, home in homes.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def tried(place: Path, binaries: Path, without: Sequence[str], patience: float) -> list[str]:
    """Type what the pages say, once each, in a folder with a model and prompts; give what failed.

    Args:
        place: where the folder is made.
        binaries: the programs of the environment.
        without: commands that are left out.
        patience: seconds after which a command that trains or draws on is interrupted.
    """
    folder = Path(tempfile.mkdtemp(prefix="typed-", dir=place))
    furnish(folder)
    ours = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    failed = []
    for one in told():
        if one.kind == "bash" and (one.words[0] == "pip" or one.words[1] in without):
            continue
        print(f"\n$ {one.text}", flush=True)
        started = time.perf_counter()
        program = [str(binaries / "python")] if one.kind == "python" else ["bash"]
        code = waited([*program, "-c", one.text], folder, environment, patience)
        print(f"({code}, {time.perf_counter() - started:.0f} s)", flush=True)
        if code:
            failed.append(f"{one.page}: exit code {code}: {one.text}")
    return failed


def waited(words: list[str], folder: Path, environment: dict[str, str], patience: float) -> int:
    """Give the exit code of a command.

    One that still goes on after ``patience`` seconds is stopped as by Ctrl-C: 0 where it then ends as it should.
    """
    with subprocess.Popen(words, cwd=folder, env=environment, start_new_session=True) as process:
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            print(f"(interrupted after {patience:.0f} s)", flush=True)
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait()
            return 0 if code in (INTERRUPTED, -signal.SIGINT) else code or 1


def call(words: list[str]) -> None:
    """Run a command and stop where it fails."""
    print("$", " ".join(words), flush=True)
    subprocess.run(words, check=True)


if __name__ == "__main__":
    sys.exit(main())
