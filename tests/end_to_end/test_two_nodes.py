"""Two machines, played by two network namespaces with a cable between them; one dies and comes back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import ENVIRONMENT, ROOT

Arguments = Callable[..., list[str]]
PORT = 29517  # nobody else is in these namespaces


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[list[tuple[str, str]]]:
    """(namespace, address) of two machines that see each other and nothing else."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("two machines are played by Linux network namespaces, made with iproute2's ip")
    mark = f"mi{os.getpid() % 100000}"
    machines = [(f"{mark}-{number}", f"10.117.0.{number + 1}") for number in range(2)]
    with contextlib.ExitStack() as stack:
        try:
            for name, _ in machines:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("link", "add", f"{mark}a", "type", "veth", "peer", "name", f"{mark}b")
            for (name, address), end in zip(machines, (f"{mark}a", f"{mark}b"), strict=True):
                ip("link", "set", end, "netns", name)
                ip("-n", name, "link", "set", end, "name", "cable")
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine does not let us make network namespaces: {error.stderr.strip()}")
        yield machines


class Node:
    """``accelerate launch`` with ``launch/multi_node.yaml`` on one machine, as its user would type it."""

    def __init__(self, machines: list[tuple[str, str]], rank: int, words: list[str], log: Path) -> None:
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
        launch += ["--config_file", str(ROOT / "launch" / "multi_node.yaml"), "--machine_rank", str(rank)]
        launch += [
            "--main_process_ip",
            machines[0][1],
            "--main_process_port",
            str(PORT),
            "--max_restarts",
            "3",
        ]
        here = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "cable", "TP_SOCKET_IFNAME": "cable"}
        self.log = log
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", machines[rank][0], *launch, "-m", "mitune", *words],
            env=os.environ | ENVIRONMENT | here,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def die(self) -> None:
        """The machine loses power: everything on it is gone at once. What it started are of its session."""
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self, seconds: float) -> int:
        """Its exit code."""
        return self.process.wait(timeout=seconds)


def _descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def until(what: Callable[[], Any], nodes: list[Node], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, [node.log.read_text()[-2000:] for node in nodes]
        time.sleep(0.02)


@pytest.mark.exhaustive
def test_a_machine_dies_and_comes_back(
    nodes: list[tuple[str, str]], arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    """The other one waits for it; together they go on, and the run ends as one that nothing happened to."""
    folder = tmp_path / "two"
    words = ["adapter.dropout=0", "train.steps=400", "train.checkpoint_every=20", "generate.rows_per_unit=1"]
    command = arguments("run", f"run={folder}", *words)
    first, second = (Node(nodes, rank, command, tmp_path / f"node-{rank}.log") for rank in range(2))
    try:
        until(lambda: list(folder.glob("round-1/checkpoints/step-*")), [first, second])
        second.die()
        units = {path: path.stat().st_mtime_ns for path in folder.glob("round-1/candidates/unit-*")}
        time.sleep(1)
        second = Node(nodes, 1, command, tmp_path / "node-1.log")
        for node in (first, second):
            assert node.end(500) == 0, node.log.read_text()[-4000:]
    finally:
        for node in (first, second):
            node.die()
    assert {path: path.stat().st_mtime_ns for path in units} == units
    assert run_command(arguments("run", *words)).code == 0
    alone, both = (RunOf(path) for path in (tmp_path / "run", folder))
    assert alone.candidates == both.candidates
    assert both.loss == pytest.approx(alone.loss, rel=1e-3)  # sums of two halves end in other bits
    assert not list(folder.rglob(".partial-*"))


class RunOf:
    """What two runs are compared by."""

    def __init__(self, folder: Path) -> None:
        import json

        tables = sorted((folder / "round-1" / "candidates").glob("unit-*.parquet"))
        self.candidates = [pq.read_table(path).to_pylist() for path in tables]
        self.loss = json.loads((folder / "summary.json").read_text())["rounds"][0]["train"]["loss"]
