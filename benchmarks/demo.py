"""The demo of another tree and this one's, one after the other: ``python -m benchmarks.demo --base FOLDER``.

Each is what a user sees: ``mitune demo`` in a fresh folder, by a fresh Python. The record holds the gain on held-out
pictures, its interval, and where the time went.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from mitune.files import read_json

TIME, GAIN = 0.5, 0.06  # the targets: of the time before, and of the oracle on held-out pictures


def demo(tree: Path, folder: Path, words: Sequence[str], threads: int) -> dict[str, Any]:
    """Run the demo of a tree into ``folder``; gives its gain and its seconds, the whole command's and each stage's."""
    said = {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": str(threads)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mitune", "demo", f"run={folder}", *words],
        check=True, cwd=folder.parent, env=os.environ | said, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = read_json(folder / "summary.json")
    (entry,) = summary["rounds"]
    pool = entry["select"]
    return {
        "words": list(words),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "stage_seconds": {
            name: round(entry[name]["seconds"], 1) for name in ("generate", "train", "evaluate")
        },
        "forwards": summary["forwards"],
        "pool": pool["oracle_pool"],
        "winners": pool["oracle_kept"],
        "gain": entry["evaluate"]["difference"]["all"]["oracle"],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both ``--repeats`` times in turn."""
    trees = {"before": options.base, "now": common.ROOT}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    kept: dict[str, Any] = {}
    if options.kept and options.kept.exists():
        for line in options.kept.read_text().splitlines():
            kept |= json.loads(line)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for number in range(options.repeats):
            for name, tree in list(trees.items())[:: 1 if number % 2 == 0 else -1]:
                words = options.word if name == "now" else []
                place = Path(work) / f"{name}-{number}"
                # A run takes minutes, and what kills the second need not cost the first.
                found = kept.pop(f"{name}-{number}", None) or demo(
                    tree, place, [*words, f"seed={options.seed}"], options.threads
                )
                runs[name].append(found)
                if options.kept:
                    with options.kept.open("a") as file:
                        file.write(json.dumps({f"{name}-{number}": found}) + "\n")
    # Of processors and not of clocks: the two runs are minutes apart, and others may have been at work.
    seconds = {name: [run["cpu_seconds"] for run in own] for name, own in runs.items()}
    gain = runs["now"][-1]["gain"]
    return {
        "settings": {"threads": options.threads, "seed": options.seed, "words": options.word},
        "comparisons": [
            common.comparison(
                "mitune demo, processor seconds of the whole command", seconds, "now", "before", at_most=TIME
            )
        ],
        "figures": [
            common.figure(
                "gain of the oracle on held-out pictures", gain["difference"], "", GAIN,
                note=f"95 % interval {gain['ci95'][0]:+.3f} … {gain['ci95'][1]:+.3f}",
            )
        ],
        "more": {"runs": runs},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; write JSON and its page."""
    parser = common.parser("demo", __doc__, "demo", threads=1, repeats=1, seed=0)
    parser.add_argument("--base", type=Path, required=True, help="the tree to compare with")
    parser.add_argument(
        "--word", action="append", default=[], metavar="KEY=VALUE", help="of this tree's demo"
    )
    parser.add_argument("--kept", type=Path, help="a file of finished runs: those there are not made again")
    parser.add_argument(
        "--work", type=Path, help="where the runs lie while they are made (default: the system's)"
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
