"""What two processes bring over one, and what it costs that a command can be resumed: ``results/processes.json``.

``python -m benchmarks.faults.speed`` needs a quiet machine with two cores. Times are those of whole commands, in
processes that were forked after the imports (a launcher would add the same seconds to both): opening the model, the
work, the writing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import pkgutil
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import common
from benchmarks.faults.job import arguments
from benchmarks.faults.server import Server
from mitune.cli import main as mitune

GENERATE, TRAIN = 1.85, 1.7  # throughput of two processes over one
SHARE = 0.02  # of generate's time may go into being resumable
# Everything that generate does so that it can be resumed, and nothing it would do anyway but write once at the end.
BOOKKEEPING = (
    "mitune.data.store.CandidateStore.clean",
    "mitune.data.store.CandidateStore.claim",
    "mitune.data.store.CandidateStore.todo",
    "mitune.data.store.CandidateStore.write_unit",
    "mitune.stages.units.Meter.write",
    "mitune.stages.candidates.claim_model",
    "mitune.stages.generate.cost",
    "mitune.runs.RunFolder.remember",
    "mitune.runs.RunFolder.prepare",
    "mitune.runs.RunFolder.mark",
    "mitune.runs.RunFolder.write_mark",
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings, comparisons and figures."""
    with tempfile.TemporaryDirectory(prefix="mitune-processes-") as name:
        folder = Path(name)
        server = Server(folder)
        try:
            comparisons = [_generate(server, folder, options), _train(server, folder, options)]
        finally:
            server.close()
        shares = [_overhead(folder / f"alone-{number}", options) for number in range(options.repeats)]
    share = common.spread(shares)["median"]
    figures = [
        common.figure(
            f"{entry['name']}: throughput of two processes over one",
            1 / entry["ratio"]["median"],
            "x",
            at_least=goal,
        )
        for entry, goal in zip(comparisons, (GENERATE, TRAIN), strict=True)
    ]
    note = (
        "store, plan, marks, costs, configuration: written with fsync, and read; one process; generate alone"
    )
    figures.append(
        common.figure("share of generate spent on being resumable", share, "", note=note)
        | {"reached": share <= SHARE}
    )
    return {
        "settings": common.settings_of(options, "device"),
        "comparisons": comparisons,
        "figures": figures,
        "more": {"shares": shares},
    }


def _job(stage: str, run: Path, options: argparse.Namespace) -> list[str]:
    return arguments(
        stage,
        run,
        f"prompts.limit={options.prompts}",
        f"generate.candidates={options.candidates}",
        f"generate.rows_per_unit={options.candidates}",
        f"sampler.steps={options.steps}",
        f"train.steps={options.train_steps}",
        f"train.batch_size={options.train_batch}",
        "train.checkpoint_every=10",
    )


def _run(server: Server, ranks: int, command: list[str]) -> None:
    done = server.run([command] * ranks)
    if any(own.code for own in done):
        raise RuntimeError(f"{command[0]} by {ranks}: {done[0].err}{done[-1].err}")


def _generate(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    count = itertools.count()

    def arm(ranks: int) -> Callable[[], None]:
        def run() -> None:
            place = folder / f"generate-{ranks}"
            if place.exists():
                place.rename(folder / f"old-{next(count)}")  # deleting is not part of it
            _run(server, ranks, _job("generate", place, options))

        return run

    seconds = common.interleave({"two": arm(2), "one": arm(1)}, options.repeats)
    files = []
    for ranks in (1, 2):
        _run(server, 1, _job("select", folder / f"generate-{ranks}", options))
        files.append(folder / f"generate-{ranks}" / "round-1" / "dataset" / "data-00000-of-00001.arrow")
    same = files[0].read_bytes() == files[1].read_bytes()
    agreement = {"training sets differ": common.agree("selections", float(not same), 0.0)}
    return common.comparison("generate", seconds, "two", "one", 1 / GENERATE, agreement)


def _train(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    def arm(ranks: int) -> Callable[[], None]:
        def run() -> None:
            place = folder / f"generate-{ranks}"
            for made in ("checkpoints", "adapter"):
                shutil.rmtree(place / "round-1" / made, ignore_errors=True)
            (place / "round-1" / "done" / "train.json").unlink(missing_ok=True)
            _run(server, ranks, _job("train", place, options))

        return run

    seconds = common.interleave({"two": arm(2), "one": arm(1)}, options.repeats)
    return common.comparison("train", seconds, "two", "one", 1 / TRAIN)


def _overhead(run: Path, options: argparse.Namespace) -> float:
    """Share of ``generate``'s time, by one process, that its bookkeeping takes."""
    spent = 0.0
    inside = False

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*positional: Any, **named: Any) -> Any:
            nonlocal spent, inside
            if inside:  # counted by the outer one
                return function(*positional, **named)
            inside, began = True, time.perf_counter()
            try:
                return function(*positional, **named)
            finally:
                spent += time.perf_counter() - began
                inside = False

        return run

    with contextlib.ExitStack() as patches:
        for name in BOOKKEEPING:
            patches.enter_context(mock.patch(name, timed(pkgutil.resolve_name(name))))
        began = time.perf_counter()
        code = mitune(_job("generate", run, options))
        whole = time.perf_counter() - began
    if code:
        raise RuntimeError(f"generate ended with {code}")
    return spent / whole


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.speed", description=__doc__)
    parser.add_argument("--prompts", type=int, default=40, help="units of generate")
    parser.add_argument("--candidates", type=int, default=16, help="a prompt")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--train-steps", type=int, default=120)
    parser.add_argument("--train-batch", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(device="cpu")
    common.add_output(parser, "processes")
    options = parser.parse_args(arguments)
    common.warn_if_busy()
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
