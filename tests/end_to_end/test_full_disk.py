"""Disks that refuse: a file system that is really full, or read-only, at every moment of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.server import ENVIRONMENT
from tests.end_to_end.test_resume import contents

Arguments = Callable[..., list[str]]

# In a mount namespace of its own: a small disk is filled up to so many free KiB, then the command runs; and again.
SCRIPT = """
import json, shutil, subprocess, sys
from pathlib import Path
from tests.cli import main

disk, arguments, kept = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(disk)], check=True)

mount("-o", "size=16m")
ends = []
for free in [4, 16, 32, 64, 128, 200]:
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    room = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        file.write(b"0" * max(0, room - free * 1024))
    print("free", free, file=sys.stderr)
    ends.append(main(arguments))
(disk / "ballast").unlink()
mount("-o", "remount,ro")
print("free", "read-only", file=sys.stderr)
ends.append(main(arguments))
mount("-o", "remount,rw")
print("free", "all", file=sys.stderr)
ends.append(main(arguments))
shutil.copytree(disk / "run", kept)
print(json.dumps(ends))
"""


def own_mounts() -> bool:
    """Whether this machine lets us mount a file system of our own."""
    try:
        command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@pytest.mark.skipif(not own_mounts(), reason="needs the right to mount (unshare -m mount -t tmpfs)")
def test_a_disk_that_is_full_or_read_only_costs_nothing(
    arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = arguments("run", f"run={disk / 'run'}")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", SCRIPT, str(disk), json.dumps(command), str(kept)],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *ends, read_only, last = json.loads(done.stdout.splitlines()[-1])
    assert last == 0, done.stderr[-2000:]
    assert read_only == 2
    assert ends[0] == 2
    assert ends.count(2) >= 3
    assert set(ends) <= {0, 2}
    for part in done.stderr.split("free ")[1:]:
        head, *lines = part.splitlines()
        if head != "all":
            assert len(lines) <= 1, part
        for line in lines:
            words = "read-only" if head == "read-only" else "disk is full"
            assert words in line
            assert str(disk) in line
    assert run_command(arguments("run", f"run={tmp_path / 'whole'}")).code == 0
    assert contents(kept) == contents(tmp_path / "whole")
    assert not list(kept.rglob(".partial-*"))
