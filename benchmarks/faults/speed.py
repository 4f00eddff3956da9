"""What two processes bring over one, and what it costs that a command can be resumed: ``results/processes.json``.

``python -m benchmarks.faults.speed`` needs a quiet machine with two cores. Times are those of whole commands, in
processes that were forked after the imports (a launcher would add the same seconds to both): opening the model, the
work, the writing. A third arm shows what the machine has to give: two processes that know nothing of each other do half
of the work each, at the same time.
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
AGAINST_CONTROL = 0.95  # throughput of two processes training, over that of two on their own
_WHO = {"two": "two processes", "one": "one", "apart": "two on their own"}
APART = ("apart-1", "apart-2")  # run folders of the two that know nothing of each other
SHARE = 0.02  # of generate's time may go into being resumable
# Everything that generate does so that it can be resumed, and nothing it would do anyway but write once at the end.
BOOKKEEPING = (
    "mitune.data.store.CandidateStore.clean",
    "mitune.data.store.CandidateStore.bind",
    "mitune.data.store.CandidateStore.todo",
    "mitune.data.store.CandidateStore.write_unit",
    "mitune.data.store.CandidateStore.notes",
    "mitune.data.store.CandidateStore.digests",
    "mitune.stages.candidates.tell",
    "mitune.stages.candidates.bind_model",
    "mitune.stages.generate.total_cost",
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
            comparisons = [*_generate(server, folder, options), *_train(server, folder, options)]
        finally:
            server.close()
        shares = [_overhead(folder / f"alone-{number}", options) for number in range(options.repeats)]
    share = common.spread(shares)["median"]
    goals = {"generate": GENERATE, "train": TRAIN, "train: against the control": AGAINST_CONTROL}
    figures = [
        common.figure(
            f"{entry['name']}: throughput of {_WHO[entry['ours']]} over {_WHO[entry['against']]}",
            1 / entry["ratio"]["median"],
            "x",
            at_least=goals.get(entry["name"]),
        )
        for entry in comparisons
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


def _job(stage: str, run: Path, options: argparse.Namespace, *overrides: str) -> list[str]:
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
        *overrides,
    )


def _run(server: Server, *commands: list[str], apart: bool = False) -> None:
    done = server.run(commands, apart=apart)
    if any(own.code for own in done):
        raise RuntimeError(f"{commands[0][0]} by {len(commands)}: {done[0].err}{done[-1].err}")


def _compare(
    name: str, seconds: dict[str, list[float]], goal: float, agreement: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """Two processes against one, and the control: as much work at once by two that do not know of each other."""
    note = "two processes on their own, half of the work each: what this machine's two cores can bring"
    return [
        common.comparison(name, seconds, "two", "one", 1 / goal, agreement),
        common.comparison(f"{name}: control", seconds, "apart", "one", note=note),
        common.comparison(f"{name}: against the control", seconds, "two", "apart"),
    ]


def _timed(
    server: Server,
    folder: Path,
    options: argparse.Namespace,
    stage: str,
    clear: Callable[[Path], None],
    repeats: int,
    *half: str,
) -> dict[str, list[float]]:
    """Seconds of ``stage`` by each arm.

    Args:
        server, folder, options, stage: what runs where.
        clear: ``clear(run)`` takes away what the stage made.
        repeats: rounds.
        half: the work of a lone one of two.
    """

    def job(name: str, *overrides: str) -> list[str]:
        clear(folder / name)
        return _job(stage, folder / name, options, *overrides)

    arms: dict[str, Callable[[], None]] = {
        "two": lambda: _run(server, *[job("generate-2")] * 2),
        "one": lambda: _run(server, job("generate-1")),
        "apart": lambda: _run(server, *[job(name, *half) for name in APART], apart=True),
    }
    return common.interleave(arms, repeats)


def _generate(server: Server, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    count = itertools.count()

    def clear(run: Path) -> None:
        if run.exists():
            run.rename(folder / f"old-{next(count)}")  # deleting is not part of it

    half = f"prompts.limit={options.prompts // 2}"
    seconds = _timed(server, folder, options, "generate", clear, options.repeats, half)
    for name in APART:
        _run(server, _job("select", folder / name, options, half))
    files = []
    for name in ("generate-1", "generate-2"):
        _run(server, _job("select", folder / name, options))
        files.append(folder / name / "round-1" / "dataset" / "data-00000-of-00001.arrow")
    same = files[0].read_bytes() == files[1].read_bytes()
    agreement = {"training sets differ": common.agree("selections", float(not same), 0.0)}
    return _compare("generate", seconds, GENERATE, agreement)


def _train(server: Server, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    def clear(run: Path) -> None:
        for made in ("checkpoints", "adapter"):
            shutil.rmtree(run / "round-1" / made, ignore_errors=True)
        (run / "round-1" / "done" / "train.json").unlink(missing_ok=True)

    half = (f"prompts.limit={options.prompts // 2}", f"train.batch_size={options.train_batch // 2}")
    seconds = _timed(server, folder, options, "train", clear, options.train_repeats, *half)
    return _compare("train", seconds, TRAIN)


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
    parser = common.parser(
        "faults.speed",
        __doc__,
        "processes",
        prompts=(40, "units of generate"),
        candidates=(16, "a prompt"),
        steps=(20, "of the sampler"),
        train_steps=60,
        train_batch=48,
        repeats=(5, "rounds of generate"),
        train_repeats=(
            11,
            "rounds of train: who goes step by step with another feels every disturbance twice",
        ),
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    common.warn_if_busy()
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
