"""Peak memory of ``select`` and ``train`` by the number of winners: ``python -m benchmarks.memory --base FOLDER``.

Winners of Stable Diffusion's size (``benchmarks.memory_units``), the two commands as users type them, by one process
and by two of ``accelerate launch``. ``FOLDER`` is another checkout, measured beside this one: with more than
``--base-counts`` winners it would not fit, so its peak at the largest count is extrapolated by a line through its last
two, and said to be.

What is compared is the high water of each process's resident pages (VmHWM), added up: looks at a busy machine miss a
short peak, and this does not. Beside it stands what ``/proc/PID/smaps_rollup`` says five times a second, added up over
the processes: the proportional share (PSS), so that pages which two of them map count once; its anonymous part, which
must stay in memory; and its part of mapped files, which the system may drop. The floor is what a process takes that has
imported the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import common
from benchmarks.memory_units import environment, write_candidates, write_model

SHARE_AT_MOST, GROWTH_AT_MOST, STEP_AT_MOST = 0.1, 1.2, 1.02
STAGES = ("select", "train")
_KINDS = {"Pss": "pss", "Pss_Anon": "anonymous", "Pss_File": "file", "VmHWM": "high_water"}
_FLOOR = """
import datasets, diffusers, time, torch, transformers
import mitune.families, mitune.stages.select, mitune.stages.train
from diffusers import StableDiffusionPipeline
print("there", flush=True)
time.sleep(600)
"""
# Told to, takes training steps of the embedded model, and says the seconds.
_STEPS = """
import sys, tempfile, time, torch
from pathlib import Path
from benchmarks.speed import load, prompts_and_seeds, random_training_set
from mitune.finetune import trainer
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig

if sys.argv[1] == "files":
    from mitune.finetune import encoded
    encoded.HELD = 0
torch.set_num_threads(1)
denoiser = load("shapes", "cpu")
texts, _ = prompts_and_seeds(64)
latents = torch.randn(64, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
attach(denoiser, AdapterConfig(), seed=0)
run = trainer._Run(
    denoiser, random_training_set(latents, texts), TrainConfig(steps=10**6, batch_size=16), Path(tempfile.mkdtemp())
)
with run._training():
    step = 0
    for line in sys.stdin:
        began = time.perf_counter()
        for step in range(step, step + int(line)):
            run._step(step)
        step += 1
        print(time.perf_counter() - began, flush=True)
"""


# -- memory ----------------------------------------------------------------------------------------------------------


def memory_of(processes: Sequence[psutil.Process]) -> list[dict[str, int]]:
    """Give what each process takes, in bytes, by kind; one that has ended is left out."""
    found = []
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
            lines += [
                line
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if "VmHWM" in line
            ]
        except OSError:
            continue
        values = dict(line.split(":") for line in lines)
        if all(key in values for key in _KINDS):  # one that is ending has no pages any more
            found.append({name: 1024 * int(values[key].split()[0]) for key, name in _KINDS.items()})
    return found


def peaks(samples: Sequence[Sequence[Mapping[str, int]]]) -> dict[str, float]:
    """Give the highest sum over the processes of each kind, and the most that one of them took, in GB."""
    result = {
        name: max((sum(one[name] for one in sample) for sample in samples), default=0) / 1e9
        for name in _KINDS.values()
    }
    largest = max((one["high_water"] for sample in samples for one in sample), default=0)
    return result | {"largest_process": largest / 1e9}


def _ranks(root: psutil.Process, launched: bool) -> list[psutil.Process]:
    """The processes that do the work: those of a launch are the launcher's children."""
    if not launched:
        return [root]
    try:
        return [child for child in root.children() if "mitune" in child.cmdline()]
    except psutil.Error:
        return []


def measure_command(tree: Path, words: Sequence[str], processes: int) -> dict[str, float]:
    """Run a command of ``tree`` and look at its memory. Raises RuntimeError where it fails."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(tree / "launch" / "cpu_2.yaml")]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "mitune", *words]
    began, samples = time.perf_counter(), []
    with tempfile.TemporaryFile() as errors:
        # Python looks in the folder it is started in before PYTHONPATH: started elsewhere, it would not be this tree.
        started = subprocess.Popen(
            command, env=environment(tree), cwd=tree, stdout=subprocess.DEVNULL, stderr=errors
        )
        root = psutil.Process(started.pid)
        while started.poll() is None:
            samples.append(memory_of(_ranks(root, processes > 1)))
            time.sleep(0.2)
        if started.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{errors.read().decode()[-2000:]}")
    return peaks(samples) | {"seconds": time.perf_counter() - began}


def floor(tree: Path) -> float:
    """Give what a process of ``tree`` takes that has imported the libraries and done nothing, in GB."""
    with subprocess.Popen(
        [sys.executable, "-c", _FLOOR],
        env=environment(tree),
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = peaks([memory_of([psutil.Process(process.pid)])])["high_water"]
        process.kill()
    return found


def measure(
    name: str, tree: Path, counts: Sequence[int], processes: Sequence[int], folder: Path
) -> list[Any]:
    """Measure both stages of ``tree`` for every count and number of processes; gives a row each."""
    rows = []
    for count in counts:
        place = folder / f"{name}-{count}"
        run = write_candidates(tree, folder / "model", place, count)
        for ranks in processes:
            copy = place / f"run-{ranks}"
            shutil.copytree(run, copy, copy_function=os.link)  # the candidates are only read
            row: dict[str, Any] = {"tree": name, "winners": count, "processes": ranks}
            for stage in STAGES:
                row[stage] = measure_command(tree, [stage, f"run={copy}"], ranks)
            row["peak"] = {kind: max(row[stage][kind] for stage in STAGES) for kind in row["select"]}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            shutil.rmtree(copy)
        shutil.rmtree(place)
    return rows


# -- what is made of it ----------------------------------------------------------------------------------------------


def peak(rows: Sequence[Mapping[str, Any]], winners: int, processes: int, kind: str = "high_water") -> float:
    """Give the peak at a count."""
    (row,) = (row for row in rows if (row["winners"], row["processes"]) == (winners, processes))
    return float(row["peak"][kind])


def extrapolated(rows: Sequence[Mapping[str, Any]], winners: int, processes: int) -> float:
    """Give the peak at ``winners``: measured, or by the line through the two largest counts that were."""
    counts = sorted(row["winners"] for row in rows if row["processes"] == processes)
    if winners in counts:
        return peak(rows, winners, processes)
    low, high = counts[-2:]
    first, last = (peak(rows, count, processes) for count in (low, high))
    return last + (last - first) / (high - low) * (winners - high)


def figures(
    ours: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], floors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Give the ratios with two processes: how much of the other tree's peak, and how it grows with the winners."""
    most = max(row["processes"] for row in ours)
    counts = sorted(row["winners"] for row in ours if row["processes"] == most)
    own = peak(ours, counts[-1], most)
    found = [common.figure(f"peak at {counts[-1]} winners, {most} processes", own, "GB")]
    if len(counts) > 1:
        found += [
            common.figure(
                f"peak at {counts[-1]} against {counts[-2]} winners, {kind}",
                own_kind / peak(ours, counts[-2], most, kind),
                f"times (target: at most {GROWTH_AT_MOST})",
            )
            for kind, own_kind in (
                (kind, peak(ours, counts[-1], most, kind)) for kind in ("high_water", "anonymous")
            )
        ]
    if base:
        other = extrapolated(base, counts[-1], most)
        measured = any((row["winners"], row["processes"]) == (counts[-1], most) for row in base)
        note = "measured" if measured else "extrapolated by a line through its two largest counts"
        found += [
            common.figure(f"the other tree's peak at {counts[-1]} winners", other, "GB", note=note),
            common.figure("share of it", own / other, f"times (target: at most {SHARE_AT_MOST})"),
            common.figure(
                "share of it, both without the floor of every process",
                (own - most * floors["ours"]) / (other - most * floors["base"]),
                "times",
                note="the floor is torch, diffusers and the rest, imported",
            ),
        ]
    return found


def step_times(trees: Mapping[str, tuple[Path, str]], repeats: int, steps: int) -> dict[str, list[float]]:
    """Seconds of so many training steps of the embedded model, each tree (and where its latents lie) in turn."""
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", _STEPS, place],
            env=environment(tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tree,
        )
        for name, (tree, place) in trees.items()
    }

    def go(name: str, count: int) -> float:
        worker = workers[name]
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(f"{count}\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    try:
        for name in workers:
            go(name, 3)
        times = [[go(name, steps) for name in workers] for _ in range(repeats)]
        return dict(zip(workers, map(list, zip(*times, strict=True)), strict=True))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all; gives what ``common.write`` takes."""
    ours_tree, base = common.ROOT, options.base and Path(options.base).resolve()
    with tempfile.TemporaryDirectory(prefix="mitune-memory-", dir=options.scratch) as name:
        folder = Path(name)
        write_model(folder / "model")
        floors = {"ours": floor(ours_tree)} | ({"base": floor(base)} if base else {})
        rows = {"ours": [], "base": []}
        if base:
            rows["base"] = measure("base", base, options.base_counts, options.processes, folder)
        rows["ours"] = measure("ours", ours_tree, options.counts, options.processes, folder)
    comparisons = []
    if base and options.repeats:
        trees = {"ours": (ours_tree, "held"), "ours, files": (ours_tree, "files"), "base": (base, "held")}
        times = step_times(trees, options.repeats, options.steps)
        comparisons = [
            common.comparison(
                f"training steps of the embedded model, {arm}", times, arm, "base", STEP_AT_MOST
            )
            for arm in ("ours", "ours, files")
        ]
    return {
        "settings": common.settings_of(options, "scratch"),
        "comparisons": comparisons,
        "figures": figures(rows["ours"], rows["base"], floors),
        "more": {"rows": [*rows["base"], *rows["ours"]], "floor_gb_a_process": floors},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/memory.json`` and its table."""
    parser = common.parser("memory", __doc__, "memory", repeats=15, steps=(4, "training steps a turn"))
    parser.set_defaults(device="cpu")
    parser.add_argument("--base", help="another checkout to measure beside this one")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 20000], help="winners")
    parser.add_argument(
        "--base-counts", type=int, nargs="+", default=[1000, 2500, 5000], help="winners of the other checkout"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--scratch", help="where 8 GB may lie meanwhile (default: the system's)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    return common.run(options, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
