"""Each file of launch/ with real processes, as far as a machine without GPUs goes: the run is the same under all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import ENVIRONMENT, ROOT, Done

Arguments = Callable[..., list[str]]


def launched(name: str, words: list[str], *options: str, **environment: str) -> Done:
    """``accelerate launch --config_file launch/NAME.yaml OPTIONS -m mitune WORDS``."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"{ROOT}/launch/{name}.yaml",
    ]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", *options, "-m", "mitune", *words],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"} | environment,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def outcome(folder: Path) -> dict[str, Any]:
    """The adapter's bytes and the evaluation's figures."""
    weights = (folder / "round-1" / "adapter" / "pytorch_lora_weights.safetensors").read_bytes()
    summary = json.loads((folder / "summary.json").read_text())["rounds"][0]
    return {"adapter": hashlib.sha256(weights).hexdigest(), "difference": summary["evaluate"]["difference"]}


@pytest.mark.exhaustive
def test_the_run_is_the_same_under_every_configuration(arguments: Arguments, tmp_path: Path) -> None:
    """FSDP shards the frozen network (test_sharding) and changes no bit of what it trains; nor does any other."""
    ways: dict[str, tuple[str, list[str], dict[str, str]]] = {
        "cpu_2": ("cpu_2", [], {}),
        "multi_gpu": ("multi_gpu", [], {}),
        "fsdp": ("fsdp", [], {}),
        "fsdp kept": ("fsdp", ["--fsdp_reshard_after_forward", "false"], {}),
        # On one machine: two of them are test_two_nodes'.
        "multi_node": ("multi_node", ["--num_machines", "1"], {}),
        # Without the package, its configuration cannot start anything: what its processes would see.
        "zero2": ("cpu_2", [], {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
    }
    found = {}
    for way, (name, options, environment) in ways.items():
        words = arguments("run", f"run={tmp_path / way}", "adapter.dropout=0", "train.keep_best_by=mi")
        done = launched(name, words, *options, **environment)
        assert done.code == 0, (way, done.err)
        assert done.out.count("round 1: trained") == 1
        assert ("data parallelism" in done.err) == (way == "zero2")
        found[way] = outcome(tmp_path / way)
    assert all(result == found["cpu_2"] for result in found.values()), found


@pytest.mark.exhaustive
def test_fsdp_trains_from_what_two_plain_processes_made(
    arguments: Arguments, run_by_two: Callable[..., Any], tmp_path: Path
) -> None:
    run = f"run={tmp_path / 'run'}"
    losses = []
    assert run_by_two(arguments("generate", run)).code == 0
    assert run_by_two(arguments("select", run)).code == 0
    words = [run, "adapter.dropout=0"]
    for name in ("cpu_2", "fsdp"):
        done = launched(name, arguments("train", *words))
        assert done.code == 0, done.err
        mark = tmp_path / "run" / "round-1" / "done" / "train.json"
        losses.append(json.loads(mark.read_text())["loss"])
        mark.unlink()
        for made in ("checkpoints", "adapter"):
            (tmp_path / "run" / "round-1" / made).rename(tmp_path / f"{made}-{name}")
    assert losses[0] == losses[1]
    for made in ("cpu_2", "fsdp"):
        assert (tmp_path / f"adapter-{made}").is_dir()
    first, second = (
        (tmp_path / f"adapter-{name}" / "pytorch_lora_weights.safetensors").read_bytes()
        for name in ("cpu_2", "fsdp")
    )
    assert first == second


def test_what_fsdp_cannot_do_ends_in_one_line(arguments: Arguments) -> None:
    done = launched("fsdp", arguments("run"), "--fsdp_version", "1")
    assert done.code != 0
    lines = [line for line in done.err.splitlines() if line.startswith("mitune: ")]
    assert set(lines) == {
        "mitune: FSDP: mitune shards by its second version: say fsdp_version: 2 under fsdp_config"
    }
