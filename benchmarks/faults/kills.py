"""SIGKILL at random moments, the same command again, sometimes by another number of processes, until it is done."""

from __future__ import annotations

import random
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.job import arguments, judge
from benchmarks.faults.server import Server

COMMANDS = ("generate", "train", "run")
LIVES = 5  # kills of one job at most


def undisturbed(server: Server, folder: Path) -> dict[tuple[str, int], tuple[Path, float]]:
    """(folder, seconds) of each command by one and by two processes; what ``train`` begins with is in ``prepared``."""
    prepared = folder / "prepared"
    for stage in ("generate", "select"):
        _done(server, 1, stage, prepared)
    whole = {}
    for command in COMMANDS:
        for ranks in (1, 2):
            place = folder / f"whole-{command}-{ranks}"
            _begin(command, prepared, place)
            _done(server, ranks, command, place)
            whole[command, ranks] = (place, server.seconds)
    return whole


def _begin(command: str, prepared: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if command == "train":
        shutil.copytree(prepared, place)


def _done(server: Server, ranks: int, stage: str, place: Path) -> None:
    done = server.run([arguments(stage, place)] * ranks)
    if any(own.code for own in done):
        raise RuntimeError(f"{stage} by {ranks}: {[own.code for own in done]}\n{done[0].err}{done[-1].err}")


def campaign(server: Server, folder: Path, kills: int, seed: int) -> list[dict[str, Any]]:
    """Jobs, each killed up to ``LIVES`` times and then left to end, until so many kills have struck."""
    chance = random.Random(seed)
    whole = undisturbed(server, folder)
    # About how long a life is: longer after one that was killed, shorter after one that got away, as other programs
    # make the machine slower and faster.
    span = {key: seconds for key, (_, seconds) in whole.items()}
    jobs: list[dict[str, Any]] = []
    struck = 0
    while struck < kills:
        command, first = COMMANDS[len(jobs) % 3], 1 + len(jobs) // 3 % 2
        place = folder / f"job-{len(jobs)}"
        _begin(command, folder / "prepared", place)
        lives: list[dict[str, Any]] = []
        while True:
            # Every third life is by the other number of processes.
            ranks = first if chance.random() < 0.67 else 3 - first
            dying = len([life for life in lives if life["killed"]]) < LIVES
            moment = chance.uniform(0.0, span[command, ranks]) if dying else None
            done = server.run([arguments(command, place)] * ranks, kill_after=moment)
            codes = [own.code for own in done]
            killed = -signal.SIGKILL in codes
            lives.append({"ranks": ranks, "moment": moment, "codes": codes, "killed": killed})
            struck += killed
            if moment is not None:
                span[command, ranks] *= 1.05 if killed else 0.75
            if not any(codes):
                break
            if not killed and len(lives) > 2 * LIVES:
                break  # it does not get through
        exact = len({life["ranks"] for life in lives}) == 1
        verdict = judge(place, whole[command, lives[-1]["ranks"]][0])
        # A life that was not killed and failed is a fault of the program too.
        failed = [life for life in lives if not life["killed"] and any(life["codes"])]
        good = verdict.good(exact) and not failed
        jobs.append({"command": command, "exact": exact, "good": good, "lives": lives, **asdict(verdict)})
        print(
            f"job {len(jobs)}: {command}, {len(lives)} lives, {struck} kills, {'good' if good else verdict}",
            file=sys.stderr,
            flush=True,
        )
        if good:
            shutil.rmtree(place)
    return jobs
