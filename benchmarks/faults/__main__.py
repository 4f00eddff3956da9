"""The fault campaign: ``python -m benchmarks.faults`` writes ``results/faults.json`` and its page.

SIGKILL at random moments over generate, train and run, by one and two processes; every write of the store, the marks
and the checkpoints refused once. It needs no quiet machine; ``python -m benchmarks.faults.speed`` does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.faults import kills, writes
from benchmarks.faults.server import Server


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings, figures and jobs."""
    with tempfile.TemporaryDirectory(prefix="mitune-faults-") as name:
        folder = Path(name)
        server = Server(folder)
        try:
            jobs = kills.campaign(server, folder, options.kills, options.seed)
            refusals = writes.campaign(server, folder, folder / "whole-run-1") if options.writes else []
        finally:
            server.close()
    return {
        "settings": common.settings_of(options, "device"),
        "comparisons": [],
        "figures": figures(jobs, refusals),
        "more": {"jobs": jobs, "refusals": refusals},
    }


def figures(jobs: Sequence[Mapping[str, Any]], refusals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the campaign came to."""
    lives = [life for job in jobs for life in job["lives"]]
    struck = [life for life in lives if life["killed"]]
    everything = [*jobs, *refusals]
    exact = [job["adapter"] for job in jobs if job["exact"] and job["adapter"] is not None]
    mixed = [job["adapter"] for job in jobs if not job["exact"] and job["adapter"] is not None]
    refused = sum(entry["refused"] for entry in refusals)
    found = [
        common.figure("SIGKILLs that struck", len(struck), "", at_least=100),
        common.figure("of them by two processes", sum(life["ranks"] == 2 for life in struck), ""),
        common.figure("jobs", len(jobs), ""),
        common.figure(
            "jobs in which the number of processes changed", sum(not job["exact"] for job in jobs), ""
        ),
        common.figure("writes refused, each once", refused, ""),
    ]
    for what in ("lost", "duplicates", "corrupt", "leftovers"):
        total = sum(entry[what] for entry in everything)
        names = {"lost": "lost units", "duplicates": "duplicate candidates", "corrupt": "corrupt files"}
        found.append(
            common.figure(names.get(what, "half-written files left"), total, "") | {"reached": total == 0}
        )
    equal = [
        ("jobs whose candidates are bit for bit the undisturbed ones", "candidates_equal"),
        ("jobs whose training set is bit for bit the undisturbed one", "selection_equal"),
    ]
    for text, key in equal:
        share = sum(entry[key] for entry in everything) / len(everything)
        found.append(common.figure(text, share, "of all", at_least=1.0))
    if exact:
        found.append(
            common.figure("adapter, same number of processes: largest difference", max(exact), "")
            | {"reached": max(exact) == 0}
        )
    if mixed:
        found.append(
            common.figure("adapter, number of processes changed: largest difference", max(mixed), "")
        )
    good = sum(entry["good"] for entry in everything) / len(everything)
    found.append(common.figure("jobs without any fault", good, "of all", at_least=1.0))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = common.parser(
        "faults",
        __doc__,
        "faults",
        kills=(120, "SIGKILLs that have to strike"),
        seed=(0, "of the moments"),
    )
    parser.add_argument(
        "--writes", action=argparse.BooleanOptionalAction, default=True, help="refuse writes too"
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
