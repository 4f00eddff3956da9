"""What every benchmark shares: interleaved timing, ratios with their spread, the record of where it was measured."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mitune.errors import UserError
from mitune.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
SCHEMA = 1
_PACKAGES = ("mitune", "torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "numpy")
_DRAWS = 4000  # of the bootstrap


# -- timing ----------------------------------------------------------------------------------------------------


def synchronize(device: torch.device | str = "cpu") -> None:
    """Wait until ``device`` has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Seconds that ``run`` takes, the device's work included, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        return time.perf_counter() - began
    finally:
        gc.enable()


def interleave(
    arms: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every arm, ``repeats`` of each. All arms run once a round, so a machine that slows down slows all of
    them; the order turns by one each round, so none is always the first.
    """
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            arms[name]()
    for number in range(repeats):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            seconds[name].append(timed(arms[name], device))
    return seconds


# -- statistics ------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles, with the values themselves."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "quartiles": [low, high], "values": [float(value) for value in values]}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Median over the rounds of ours / theirs, its quartiles, and a 95 % bootstrap interval of that median.

    ValueError where the two were not measured in the same rounds.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds cannot be paired")
    ratios = np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64)
    draws = np.random.default_rng(seed).choice(ratios, size=(_DRAWS, len(ratios)))
    interval = np.quantile(np.median(draws, axis=1), [0.025, 0.975]).tolist()
    return spread(ratios.tolist()) | {"ci95": interval}


def comparison(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    ours: str,
    theirs: str,
    at_most: float | None = None,
    agreement: Mapping[str, float] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One ratio of two arms that do the same work. ``agreement``: how far their results are apart."""
    ratio = paired_ratio(seconds[ours], seconds[theirs])
    return {
        "name": name,
        "ours": ours,
        "against": theirs,
        "ratio": ratio,
        "at_most": at_most,
        "reached": None if at_most is None else bool(ratio["median"] <= at_most),
        "seconds": {arm: spread(seconds[arm]) for arm in (ours, theirs)},
        "agreement": dict(agreement or {}),
        "note": note,
    }


def figure(
    name: str, value: float | None, unit: str, at_least: float | None = None, note: str = ""
) -> dict[str, Any]:
    """One number; ``at_least``: what it has to reach."""
    reached = None if at_least is None or value is None else bool(value >= at_least)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "at_least": at_least,
        "reached": reached,
        "note": note,
    }


def agree(what: str, difference: float, limit: float) -> float:
    """``difference`` if it is at most ``limit``. Raises RuntimeError: a ratio of two different things means nothing."""
    if not difference <= limit:  # NaN too
        raise RuntimeError(f"{what}: the two sides differ by {difference:.3g}, more than {limit:.3g}")
    return float(difference)


# -- where it was measured -------------------------------------------------------------------------------------


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, load, and the accelerator if ``device`` is one."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_gb"] = round(properties.total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
    return found


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """The commit, and whether tracked files of the package differ from it; None for both outside a repository."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "mitune", "benchmarks")
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def origin(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where figures come from: date, machine, versions, commit."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "git": git_state(),
    }


def commit_of(git: Mapping[str, Any]) -> str:
    """A ``git_state`` in words."""
    return (git["commit"] or "no repository")[:12] + (" with changes" if git["changed"] else "")


def warn_if_busy() -> None:
    """Say so where other programs take the processor: the ratios hold, the figures in seconds do not."""
    load = machine()["load_average"]
    if load is not None and load > 0.5:
        print(
            f"other programs are running (load average {load}): seconds and rates come out too low",
            file=sys.stderr,
        )


# -- the record ------------------------------------------------------------------------------------------------


def write(
    name: str,
    settings: Mapping[str, Any],
    comparisons: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
    folder: str | Path = RESULTS,
    device: torch.device | str = "cpu",
    load_before: float | None = None,
    more: Mapping[str, Any] | None = None,
    page: Callable[[Mapping[str, Any]], str] | None = None,
) -> dict[str, Any]:
    """Write the record to ``folder/name.json`` and its page to ``folder/name.md``, both atomically; gives the record.

    ``more``: further entries of the record; ``page``: what makes Markdown of it (None: ``markdown``).
    """
    record = {
        "schema": SCHEMA,
        "name": name,
        **origin(device),
        "settings": dict(settings),
        "comparisons": [dict(entry) for entry in comparisons],
        "figures": [dict(entry) for entry in figures],
    }
    record["machine"]["load_average_before"] = load_before
    record |= more or {}
    write_json(Path(folder) / f"{name}.json", record)
    write_text(Path(folder) / f"{name}.md", (page or markdown)(record))
    return record


def markdown(record: Mapping[str, Any]) -> str:
    """The record as a page: tables, then where they come from."""
    lines = [f"# {record['name']}", ""]
    if record["comparisons"]:
        lines += [
            "| ours against theirs | ratio of times (95 % interval) | quartiles | target | reached | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for entry in record["comparisons"]:
            ratio = entry["ratio"]
            target = "" if entry["at_most"] is None else f"≤ {entry['at_most']:g}"
            pair = " / ".join(
                f"{entry['seconds'][arm]['median']:.4g}" for arm in (entry["ours"], entry["against"])
            )
            low, high = ratio["ci95"]
            first, third = ratio["quartiles"]
            lines.append(
                f"| {entry['name']} | {ratio['median']:.4f} ({low:.4f}–{high:.4f}) | {first:.4f}–{third:.4f} "
                f"| {target} | {_mark(entry['reached'])} | {pair} |"
            )
        lines.append("")
    if record["figures"]:
        lines += ["| figure | value | target | reached |", "|---|---|---|---|"]
        for entry in record["figures"]:
            target = "" if entry["at_least"] is None else f"≥ {entry['at_least']:g}"
            value = "not measured" if entry["value"] is None else f"{entry['value']:.4g} {entry['unit']}"
            lines.append(f"| {entry['name']} | {value.strip()} | {target} | {_mark(entry['reached'])} |")
        lines.append("")
    notes = [
        f"- {entry['name']}: {entry['note']}"
        for entry in (*record["comparisons"], *record["figures"])
        if entry["note"]
    ]
    if notes:
        lines += [*notes, ""]
    where = record["machine"]
    place = where.get("gpu") or f"{where['processor']}, {where['torch_threads']} threads"
    lines += [
        f"Measured {record['date']} on {place} ({where['system']}, load average before "
        f"{where['load_average_before']}), torch {record['versions']['torch']}, "
        f"diffusers {record['versions']['diffusers']}, commit {commit_of(record['git'])}.",
        "",
        "Settings: " + ", ".join(f"{key} {value}" for key, value in record["settings"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _mark(reached: bool | None) -> str:
    return {None: "", True: "yes", False: "no"}[reached]


# -- the command -----------------------------------------------------------------------------------------------


def parser(
    module: str,
    about: str | None,
    record: str | None = None,
    device: str | None = None,
    **numbers: int | tuple[int | None, str] | None,
) -> argparse.ArgumentParser:
    """Make the parser of ``python -m benchmarks.MODULE``, with the options that most benchmarks have.

    Args:
        module: its name; ``about``: its docstring.
        record: the default of ``--name``; with it come the options of :func:`add_output`.
        device: the default of ``--device``; without one there is no such option.
        numbers: whole numbers, by name: the default, or (default, help).
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    if device is not None:
        made.add_argument("--device", default=device)
    for name, given in numbers.items():
        default, told = given if isinstance(given, tuple) else (given, None)
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=told)
    if record is not None:
        add_output(made, record)
    return made


def add_output(parser: argparse.ArgumentParser, name: str | None = None, hint: str = "") -> None:
    """The options that say where the record goes; ``name`` is the default."""
    parser.add_argument("--name", default=name, help=f"of the result files{hint}")
    parser.add_argument("--out", default=str(RESULTS), help="folder of the result files")


def settings_of(options: argparse.Namespace, *left_out: str) -> dict[str, Any]:
    """The options that figures depend on: all but where the record goes and those ``left_out``."""
    return {key: value for key, value in vars(options).items() if key not in ("name", "out", *left_out)}


def run(options: argparse.Namespace, measure: Callable[[], Mapping[str, Any]]) -> int:
    """What a command does: ``measure``, write the record, print its page. Exit code 2 for what the user can mend.

    ``measure`` gives what ``write`` takes: settings, comparisons, figures, and more and page where there are any.
    """
    from mitune.stages.inputs import quiet

    quiet()
    load_before = machine()["load_average"]
    try:
        found = measure()
        record = write(
            options.name, **found, folder=options.out, device=options.device, load_before=load_before
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(found.get("page", markdown)(record))
    return 0
