"""A run of a million candidates, as far as files go: what looking at its units, choosing from them, evaluating and
reporting take, in seconds, memory and file operations.

    python -m benchmarks.scale --prompts 20000 --base /path/to/an/older/tree

The units are written by the store's own writer: tables and latents of Stable Diffusion's size, two of ``--candidates``
kept. Nothing is drawn: latents are noise. Each piece of work is done in processes of its own, with ``--base`` those of
another tree in turn with this one's: their largest resident size is taken before and after, and, in one more process
under strace (where it is installed), the operations on files of the run are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import common
from mitune.data.prompts import make_prompt
from mitune.data.store import CandidateStore, plan_units
from mitune.evaluate.evaluation import write_evaluation
from mitune.files import write_json, write_text
from mitune.tasks import Task

LATENT, SIDE = (4, 64, 64), 512  # of Stable Diffusion
KEPT, SHOWN = 2, 8  # of the candidates of a prompt: winner and worst; different pictures on the report
WORDS = "a small red round blue circle left of the big green square with white dots".split()  # noqa: SIM905
# Calls by which a file system is asked, by the name under which they are counted.
CALLS = {
    "opens": ("open", "openat"),
    "stats": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"),
    "changes": (
        "unlink",
        "unlinkat",
        "rename",
        "renameat",
        "renameat2",
        "mkdir",
        "mkdirat",
        "chmod",
        "fchmodat",
    ),
}
_CALL = re.compile(r"(?:\d+ +)?(\w+)\(")

_BEFORE = """
import json, pathlib, sys, time
import pandas, torch
from mitune.config import compose
from mitune.data.prompts import make_prompt
from mitune.data.store import CandidateStore, plan_units
from mitune.runs import RunFolder
from mitune.stages import begun, candidates, generate, select
from mitune.stages.artefacts import tell
from mitune.report import write_report
folder, prompts, each, size = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
run = RunFolder(folder)
store = CandidateStore(folder / "round-1" / "candidates")
found = {}
def most():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
"""
_UNITS = """
texts = (folder / "prompts.txt").read_text().splitlines()
units = plan_units([make_prompt(text, "color") for text in texts], each, size)
"""
_START = "before, began = most(), time.perf_counter()\n"
_AFTER = """
found |= {"seconds": time.perf_counter() - began, "mib": most() - before}
print(json.dumps(found))
"""
# What a stage does, in the words of this tree and of those before it.
_WORK = {
    "start": (
        _UNITS,
        """
store.clean()
if hasattr(store, "look"):
    look = store.look()
    begun.clear_begun(store, look)
    tell(store, look)
    left = [unit for unit in units if unit.index not in look.whole]
else:
    begun.clear_begun(store)
    tell(store)
    left = store.todo(units)
assert not left
""",
    ),
    "end": (
        _UNITS,
        """
if hasattr(store, "notes"):
    notes = store.notes()
    spent = generate.total_cost(notes)
    run.write_mark(1, "generate", {"model": "noise", **spent.total}, known=store.digests(run.root, notes))
else:
    spent = generate.cost(store, units)
    run.write_mark(1, "generate", {"model": "noise", **spent.total}, store.artefacts())
""",
    ),
    "select": (
        'config = compose(["experiment=shapes", "select.by=contrast", "select.k=1"], "select")\n',
        "found['rows'] = len(select._choose(config, run, 1).rows)\n",
    ),
    "report": ("", "found['bytes'] = write_report(folder).stat().st_size\n"),
    "evaluate": (
        """
from mitune.evaluate.evaluation import write_evaluation
class Decoder:
    device = "cpu"
    def decode(self, latents):
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :3].sigmoid()
store = CandidateStore(folder)
""",
        """
table = store.table()
rows = table.drop(columns=["kept", "unit", "latent_row"])
pictures = getattr(candidates, "each_picture", candidates.decode_rows)
write_evaluation(folder / "evaluation", rows, rows, *(pictures(store, table, Decoder(), 16) for _ in range(2)))
""",
    ),
}


def tasks(count: int) -> list[Task]:
    """Prompts of ten words, each another."""
    draw = random.Random(0)
    return [make_prompt(f"{' '.join(draw.choices(WORDS, k=9))} {number}", "color") for number in range(count)]


def write_candidates(
    store: CandidateStore, prompts: int, candidates: int, rows_per_unit: int, kept: int
) -> int:
    """Write the units of a run, as its stage would; gives how many there are."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    units = plan_units(tasks(prompts), candidates, rows_per_unit)
    store.bind(units)
    write_json(store.folder / "model.json", {"model": "noise"})
    for unit in units:
        rows = unit.candidates()
        flags = [number < kept for _, number in rows]
        table: dict[str, Any] = {
            "prompt_id": [task.id for task, _ in rows],
            "prompt": [task.text for task, _ in rows],
            "category": [task.category for task, _ in rows],
            "candidate": [number for _, number in rows],
            "seed": [draw.getrandbits(62) for _ in rows],
            "kept": flags,
            # Of those kept the winner's scores are the highest and the worst one's the lowest.
            "contrast": [9.0 - 18 * number if number < kept else draw.uniform(-8, 8) for _, number in rows],
            "elbo": numbers.standard_normal(len(rows)),
        }
        latents = torch.from_numpy(numbers.standard_normal((sum(flags), *LATENT), dtype=np.float32))
        store.write_unit(unit, table, latents, {"forwards": 100, "seconds": 1.5, "scorers": {"contrast": 3}})
    return len(units)


def write_round(folder: Path, prompts: int) -> None:
    """Write the evaluation of as many held-out prompts, which the report shows; of its pictures a few differ."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(SHOWN, 3, SIDE // 16, SIDE // 16, generator=generator)
    pictures = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    given, numbers = tasks(prompts), np.random.default_rng(1)
    before = pd.DataFrame(
        {
            "prompt_id": [task.id for task in given],
            "prompt": [task.text for task in given],
            "category": ["color" if number % 2 else "spatial" for number in range(prompts)],
            "candidate": 0,
            "seed": range(prompts),
            **{name: numbers.standard_normal(prompts) for name in ("contrast", "elbo", "mi")},
        }
    )
    after = before.assign(contrast=before["contrast"] + 0.1)
    shown = ((pictures[row % SHOWN] for row in range(prompts)) for _ in range(2))
    write_evaluation(folder / "round-1", before, after, *shown)


def do(work: str, tree: Path, words: Sequence[str], trace: Path | None = None) -> dict[str, float]:
    """A piece of work in a process of its own, by the code of ``tree``; with ``trace`` its calls are written there."""
    before, own = _WORK[work]
    code = _BEFORE + before + _START + own + _AFTER
    command = [sys.executable, "-c", code, *words]
    if trace is not None:
        names = ",".join(f"?{name}" for several in CALLS.values() for name in several)
        command = ["strace", "-f", "-qq", "-s", "300", "-e", f"trace={names}", "-o", str(trace), *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    if done.returncode:
        raise RuntimeError(f"{work} by {tree}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def operations(work: str, tree: Path, words: Sequence[str]) -> dict[str, int]:
    """Count the operations on files below the folder that the work is done in."""
    with tempfile.TemporaryDirectory() as place:
        trace = Path(place) / "calls"
        do(work, tree, words, trace)
        counts: Counter[str] = Counter()
        with trace.open(encoding="utf-8", errors="replace") as calls:
            for line in calls:
                call = _CALL.match(line)
                if call and f'"{words[0]}' in line:
                    counts.update(name for name, several in CALLS.items() if call[1] in several)
    return {name: counts[name] for name in CALLS}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings, comparisons, figures and, as ``works``, what each piece of work took in each tree."""
    trees = {"new": common.ROOT} | ({"old": Path(options.base).resolve()} if options.base else {})
    with tempfile.TemporaryDirectory(dir=options.place) as name:
        folder = Path(name)
        store = CandidateStore(folder / "run" / "round-1" / "candidates")
        shape = (options.prompts, options.candidates, options.rows_per_unit)
        units = write_candidates(store, *shape, KEPT)
        write_round(folder / "run", options.prompts)
        texts = "\n".join(task.text for task in tasks(options.prompts))
        write_text(folder / "run" / "prompts.txt", texts)
        files = {
            "units": units,
            "table_bytes": _largest(store.folder, "*.parquet"),
            "latents_bytes": _largest(store.folder, "*.safetensors"),
            "note_bytes": _largest(store.folder, "unit-*.json"),
            "all_bytes": sum(path.stat().st_size for path in store.folder.iterdir()),
        }
        words = [str(folder / "run"), *map(str, shape)]
        do("end", trees["new"], words)  # the mark that select asks for
        works = {
            work: _of(work, trees, words, options.repeats) for work in ("start", "end", "select", "report")
        }
        shutil.rmtree(folder / "run")
        for prompts in (options.pictures // 4, options.pictures):
            place = folder / f"evaluate-{prompts}"
            write_candidates(CandidateStore(place), prompts, 1, options.rows_per_unit, 1)
            found = _of("evaluate", trees, [str(place), str(prompts), "1", words[3]], options.repeats)
            works[f"evaluate, {prompts} pictures"] = found
            shutil.rmtree(place)
    more = {"files": files, "works": works}
    settings = common.settings_of(options, "device", "place", "base")
    return {
        "settings": settings,
        "comparisons": list(_ratios(works)),
        "figures": list(_figures(works)),
        "more": more,
    }


def _largest(folder: Path, pattern: str) -> int:
    return max(path.stat().st_size for path in folder.glob(pattern))


def _of(work: str, trees: dict[str, Path], words: Sequence[str], repeats: int) -> dict[str, Any]:
    """What a piece of work takes: the trees in turn, as often as asked for, the first one another each time."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for number in range(repeats):
        names = [*trees][:: 1 if number % 2 == 0 else -1]
        for name in names:
            found[name].append(do(work, trees[name], words))
    result: dict[str, Any] = {}
    for name, several in found.items():
        values = {key: [one[key] for one in several] for key in several[0]}
        result[name] = {key: common.spread(column) for key, column in values.items()}
        if shutil.which("strace"):
            result[name]["operations"] = operations(work, trees[name], words)
    return result


def _ratios(works: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for work, found in works.items():
        if "old" in found:
            seconds = {name: found[name]["seconds"]["values"] for name in ("new", "old")}
            yield common.comparison(work, seconds, "new", "old")


def _figures(works: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for work, found in works.items():
        for tree, took in found.items():
            yield common.figure(f"{work}, {tree}: seconds", took["seconds"]["median"], "s")
            yield common.figure(f"{work}, {tree}: memory above the imports", took["mib"]["median"], "MiB")
            for name, count in took.get("operations", {}).items():
                yield common.figure(f"{work}, {tree}: {name}", count, "")
            if "bytes" in took:
                yield common.figure(f"{work}, {tree}: the page", took["bytes"]["median"] / 2**20, "MiB")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = common.parser(
        "scale", __doc__, "scale", prompts=20_000, candidates=50, rows_per_unit=400, repeats=3,
        pictures=(400, "of the larger evaluation"),
    )  # fmt: skip
    parser.add_argument("--base", help="folder of the tree to compare with")
    parser.add_argument("--place", help="folder in which the run is made (default: the system's own)")
    parser.set_defaults(device="cpu")
    options = parser.parse_args(argv)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
