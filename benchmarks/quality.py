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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.held_out import Fidelity, above, gains
from mitune.config import compose, saved_text
from mitune.files import read_json, write_json, write_text
from mitune.report.figures import selection_gain

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


def share(source: Path, target: Path, words: Sequence[str]) -> None:
    """Let ``target``, the run of ``words``, start from ``source``'s first candidates and base pictures, by hard links
    where possible. Its configuration goes first: mitune takes nothing over that lies in a folder without one.
    """
    if not (target / "config.yaml").exists():
        write_text(target / "config.yaml", saved_text(compose([*words, f"run={target}"])))

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


def figures(result: dict[str, Any], folder: Path, fidelity: Callable[[Path, int], Any]) -> dict[str, Any]:
    """The figures the targets speak of, one entry a round; ``fidelity``: as :class:`benchmarks.held_out.Fidelity`."""
    rounds = []
    for entry in result["summary"]["rounds"]:
        chosen, evaluation = entry["select"], entry["evaluate"]
        rounds.append(
            {
                "round": entry["round"],
                "pool": chosen["oracle_pool"],
                "winners": chosen["oracle_kept"],
                "best": chosen["oracle_best"],
                "share_of_room": selection_gain(chosen),
                "before": evaluation["before"]["all"],
                "after": evaluation["after"]["all"],
                "difference": evaluation["difference"]["all"],
                "categories": {
                    name: values["oracle"]
                    for name, values in evaluation["difference"].items()
                    if name != "all"
                },
                "diversity": evaluation["diversity"],
                "fidelity": fidelity(folder, entry["round"]),
            }
        )
    origin = ("command", "processes", "wall_seconds", "cpu_seconds", "peak_memory_gib")
    return {key: result[key] for key in origin} | {
        "forwards": result["summary"]["forwards"],
        "stage_seconds": result["summary"]["seconds"],
        "rounds": rounds,
    }


def report(name: str, results: dict[str, dict[str, Any]], folders: dict[str, Path]) -> str:
    """Write the record and the table of the arms; gives the table. ``results``: of :func:`run`, by arm."""
    fidelity = Fidelity()
    arms = {arm: figures(result, folders[arm], fidelity) for arm, result in results.items()}
    if "random" in arms:
        for arm in set(arms) - {"random"}:
            for entry, _ in zip(arms[arm]["rounds"], arms["random"]["rounds"], strict=False):
                own, other = (gains(folders[which], entry["round"]) for which in (arm, "random"))
                entry["above_random"] = above(own, other)
    text = table(arms)
    write_json(common.RESULTS / f"{name}.json", {"benchmark": name, **common.origin(), "arms": arms})
    write_text(common.RESULTS / f"{name}.md", text)
    return text


def table(arms: dict[str, dict[str, Any]]) -> str:
    """The arms as a Markdown table, one row a round."""
    lines = [
        "| choice | round | pool | winners | best of M | share of room | held-out before | after | difference (95 %) "
        "| above chance | exact before | after | worst category | diversity | fidelity before | after |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        for entry in arm["rounds"]:
            gain = entry["difference"]["oracle"]
            lifts = {category: of["difference"] for category, of in entry["categories"].items()}
            worst = min(lifts, key=lifts.__getitem__)
            share = entry["share_of_room"]
            lines.append(
                f"| {name} | {entry['round']} | {_plain(entry['pool'])} "
                f"| {_plain(entry['winners'])} | {_plain(entry['best'])} "
                f"| {'' if share is None else f'{share:.2f}'} | {gain['before']:.3f} | {gain['after']:.3f} "
                f"| {_interval({'value': gain['difference'], 'ci95': gain['ci95']})} "
                f"| {_interval(entry.get('above_random'))} "
                f"| {entry['before']['exact']:.3f} | {entry['after']['exact']:.3f} "
                f"| {worst} {lifts[worst]:+.3f} "
                f"| {entry['diversity']['ratio']:.2f} "
                f"| {entry['fidelity']['before']:.4f} | {entry['fidelity']['after']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["ci95"]
    return f"{estimate['value']:+.3f} ({low:+.3f} … {high:+.3f})"


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
    results, folders = {result["summary"]["scorer"]: result}, {result["summary"]["scorer"]: own}
    for control in [name for name in options.controls.split(",") if name not in ("", "none")]:
        folder = folders[control] = options.runs / f"{options.preset}-{control}"
        extra = [f"rounds={options.control_rounds}"] if options.control_rounds else []
        words = [*common_overrides, f"select={control}", *extra]
        share(own, folder, words)
        results[control] = run(folder, words, options.processes)
    print(report(options.name or f"quality-{options.preset}", results, folders))


if __name__ == "__main__":
    main()
