"""What the loop gains on the embedded world, with its two controls: ``python -m benchmarks.quality shapes``.

Runs a preset as a user would (``mitune run experiment=…``), then the same preset with random choice and with the
oracle's choice of winners. The controls take over the first round's candidates and the base model's held-out
pictures, which do not depend on the choice. Figures go to ``benchmarks/results/quality-<preset>.json``.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from mitune.files import read_json, write_json, write_text

CONTROLS = ("random", "oracle")


def run(folder: Path, overrides: list[str], processes: int) -> dict[str, Any]:
    """One ``mitune run`` by itself: its summary, wall-clock seconds and the largest process's peak memory in GiB."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call = ["mitune", "run", f"run={folder}", *overrides]
    launcher = [sys.executable, "-m"]
    if processes > 1:
        config = common.ROOT / "launch/cpu_2.yaml"
        launcher += ["accelerate.commands.launch", "--config_file", str(config)]
        launcher += ["--num_processes", str(processes), "-m"]
    subprocess.run([*launcher, *call], check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": " ".join(call),
        "processes": processes,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),  # of the largest child so far
        "summary": read_json(folder / "summary.json"),
    }


def share(source: Path, target: Path) -> None:
    """Let ``target`` start from ``source``'s first candidates and base pictures (hard links where possible)."""

    def link(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)

    parts = [Path("round-1/candidates"), Path("round-1/done/generate.json")]
    parts += [path.relative_to(source) for path in source.glob("baseline-*")]
    for part in parts:
        if (target / part).exists():
            continue
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, copy_function=link)
        else:
            link(str(source / part), str(target / part))


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """The figures the targets speak of, one entry a round."""
    rounds = []
    for entry in result["summary"]["rounds"]:
        chosen, evaluation = entry["select"], entry["evaluate"]
        room = chosen["oracle_best"] - chosen["oracle_pool"]
        rounds.append(
            {
                "round": entry["round"],
                "pool": chosen["oracle_pool"],
                "winners": chosen["oracle_kept"],
                "best": chosen["oracle_best"],
                "share_of_room": (chosen["oracle_kept"] - chosen["oracle_pool"]) / room if room else None,
                "before": evaluation["before"]["all"],
                "after": evaluation["after"]["all"],
                "difference": evaluation["difference"]["all"],
                "categories": {
                    name: values["oracle"]
                    for name, values in evaluation["difference"].items()
                    if name != "all"
                },
                "diversity": evaluation["diversity"],
            }
        )
    origin = ("command", "processes", "wall_seconds", "cpu_seconds", "peak_memory_gib")
    return {key: result[key] for key in origin} | {
        "forwards": result["summary"]["forwards"],
        "stage_seconds": result["summary"]["seconds"],
        "rounds": rounds,
    }


def table(arms: dict[str, dict[str, Any]]) -> str:
    """The arms as a Markdown table, one row a round."""
    lines = [
        "| choice | round | pool | winners | best of M | share of room | held-out before | after | difference (95 %) "
        "| exact before | after | diversity |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        for entry in arm["rounds"]:
            gain = entry["difference"]["oracle"]
            low, high = gain["ci95"]
            share = entry["share_of_room"]
            lines.append(
                f"| {name} | {entry['round']} | {entry['pool']:.3f} | {entry['winners']:.3f} | {entry['best']:.3f} "
                f"| {'' if share is None else f'{share:.2f}'} | {gain['before']:.3f} | {gain['after']:.3f} "
                f"| {gain['difference']:+.3f} ({low:+.3f} … {high:+.3f}) "
                f"| {entry['before']['exact']:.3f} | {entry['after']['exact']:.3f} "
                f"| {entry['diversity']['ratio']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the preset and its controls; write JSON and a table. Interrupted, the same command goes on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("preset", help="an experiment of conf/experiment, such as shapes")
    parser.add_argument("overrides", nargs="*", help="further key=value for every arm")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument(
        "--controls", default=",".join(CONTROLS), help="choices beside the preset's own; or none"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="of each run, by accelerate launch if above 1"
    )
    parser.add_argument("--control-rounds", type=int, help="rounds of the controls (default: the preset's)")
    parser.add_argument("--name", help="of the results file (default: quality-<preset>)")
    options = parser.parse_args(argv)
    common_overrides = [f"experiment={options.preset}", *options.overrides]
    own = options.runs / options.preset
    result = run(own, common_overrides, options.processes)
    arms = {result["summary"]["scorer"]: figures(result)}
    for control in [name for name in options.controls.split(",") if name not in ("", "none")]:
        folder = options.runs / f"{options.preset}-{control}"
        share(own, folder)
        extra = [f"rounds={options.control_rounds}"] if options.control_rounds else []
        arms[control] = figures(
            run(folder, [*common_overrides, f"select={control}", *extra], options.processes)
        )
    name = options.name or f"quality-{options.preset}"
    text = table(arms)
    write_json(common.RESULTS / f"{name}.json", {"benchmark": name, **common.origin(), "arms": arms})
    write_text(common.RESULTS / f"{name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
