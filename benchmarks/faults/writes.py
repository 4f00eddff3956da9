"""Every write refused once by a full disk, one after the other, and the same command again each time."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.job import arguments, judge
from benchmarks.faults.server import Server

PLACES = ("fsync", "replace")


def campaign(
    server: Server, folder: Path, whole: Path, places: tuple[str, ...] = PLACES
) -> list[dict[str, Any]]:
    """For each place: how many writes were refused, what the command said, and what became of the job."""
    found = []
    for place in places:
        run, ledger = folder / f"refused-{place}", folder / f"{place}.txt"
        shutil.rmtree(run, ignore_errors=True)
        ledger.unlink(missing_ok=True)
        wrong: list[str] = []
        lives = 0
        while True:
            (done,) = server.run([arguments("run", run)], refuse=(place, ledger))
            names = ledger.read_text().splitlines()
            lives += 1
            if done.code == 0:
                break
            lines = [line for line in done.err.splitlines() if not line.startswith("mitune: warning:")]
            clear = (
                len(lines) == 1
                and "disk is full" in lines[0]
                and Path(names[-1].split("*")[0]).parts[1] in lines[0]
            )
            if done.code != 2 or not clear:
                wrong.append(f"{names[-1]}: code {done.code}: {done.err[-300:]}")
            if lives > len(names) + 1:
                wrong.append("a life without a new refusal did not end well")
                break
        verdict = judge(run, whole)
        good = verdict.good(exact=True) and not wrong
        found.append({"place": place, "refused": len(names), "wrong": wrong, "good": good, **asdict(verdict)})
        print(
            f"{place}: {len(names)} writes refused, {'good' if good else found[-1]}",
            file=sys.stderr,
            flush=True,
        )
    return found
