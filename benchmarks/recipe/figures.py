"""What the runs of a study reached: gains in pairs, pooled over seeds, with the controls beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from benchmarks import common, held_out
from benchmarks.recipe.studies import Study
from mitune.evaluate.bootstrap import mean_ci
from mitune.files import read_json
from mitune.report.figures import selection_gain

Row = dict[str, Any]
KEY = ["seed", "prompt_id", "candidate"]


def gather(study: Study, folders: Mapping[str, Path]) -> list[Row]:
    """A row for each arm, chooser and round that all of its seeds have finished."""
    fidelity = held_out.Fidelity()
    rows, gains = [], {}
    for arm, folder in folders.items():
        runs = [path.parent for path in sorted(folder.glob("*/summary.json"))]
        by_choice: dict[str, list[Path]] = {}
        for run in runs:
            by_choice.setdefault(OmegaConf.load(run / "config.yaml").select.by, []).append(run)
        for choice, own in by_choice.items():
            summaries = [read_json(run / "summary.json") for run in own]
            for number in range(1, min(len(summary["rounds"]) for summary in summaries) + 1):
                role = "own" if choice == study.chooser(arm) else choice
                gain = pd.concat([held_out.gains(run, number) for run in own], ignore_index=True)
                gains[arm, role, number] = gain
                rounds = [summary["rounds"][number - 1] for summary in summaries]
                rows.append(
                    {"arm": arm, "choice": choice, "role": role, "round": number} | _reached(gain, rounds)
                )
                rows[-1]["fidelity"] = [fidelity(run, number) for run in own]
    for row in rows:
        other = gains.get((row["arm"], "random", row["round"]))
        row["above_random"] = None
        if other is not None and row["role"] != "random":
            row["above_random"] = held_out.above(gains[row["arm"], row["role"], row["round"]], other)
    return rows


def _reached(gain: pd.DataFrame, rounds: Sequence[Mapping[str, Any]]) -> Row:
    estimate = mean_ci(gain["gain"], gain["prompt_id"])
    chosen = [entry["select"] for entry in rounds]
    mean = {
        name: float(np.mean([entry[name] for entry in chosen])) if chosen[0][name] is not None else None
        for name in ("oracle_pool", "oracle_kept", "oracle_best")
    }
    stages = ("generate", "select", "train")
    spent = [sum(entry[stage].get("forwards", 0) for stage in stages) for entry in rounds]
    return {
        "seeds": sorted(map(int, gain["seed"].unique())),
        "pictures": len(gain),
        "gain": {"value": estimate.mean, "ci95": estimate.interval},
        "by_seed": [float(value) for _, value in gain.groupby("seed")["gain"].mean().items()],
        "categories": {str(name): float(part["gain"].mean()) for name, part in gain.groupby("category")},
        "diversity": float(np.mean([entry["evaluate"]["diversity"]["ratio"] for entry in rounds])),
        **mean,
        "share_of_room": selection_gain(mean),
        "forwards": float(np.mean(spent)),
        "train_seconds": float(np.mean([entry["train"]["seconds"] for entry in rounds])),
    }


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    settings = record["settings"]
    lines = [
        f"# {record['name']}", "", record["question"], "",
        f"Gain of the oracle on held-out prompts over the base model, with the 95 % interval over prompts; seeds"
        f" {', '.join(map(str, settings['seeds']))}. Above chance: the gain less that of the same arm with winners"
        " drawn by lot. Fidelity: kernel distance to the renderer's pictures, before and after (less is nearer)."
        " Forwards: network rows of drawing, scoring and training.", "",
        "| arm | winners by | round | gain | each seed | above chance | worst category | share of room | diversity"
        " | fidelity | forwards |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["rows"]:
        worst = min(row["categories"], key=row["categories"].__getitem__)
        room = row["share_of_room"]
        before, after = (
            float(np.mean([entry[side] for entry in row["fidelity"]])) for side in ("before", "after")
        )
        lines.append(
            f"| {row['arm']} | {row['choice']} | {row['round']} | {_interval(row['gain'])} "
            f"| {' '.join(f'{value:+.3f}' for value in row['by_seed'])} "
            f"| {'' if row['above_random'] is None else _interval(row['above_random'])} "
            f"| {worst} {row['categories'][worst]:+.3f} | {'' if room is None else f'{room:.2f}'} "
            f"| {row['diversity']:.2f} | {before:.3f} → {after:.3f} | {row['forwards'] / 1000:.0f} k |"
        )
    lines += ["", *(f"- {arm}: `{' '.join(words) or '(the base)'}`" for arm, words in record["arms"].items())]
    lines += [f"- base: `{' '.join(settings['base'])}`", ""]
    return "\n".join(lines) + "\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def _interval(entry: Mapping[str, Any]) -> str:
    bounds = entry["ci95"]
    return f"{entry['value']:+.3f}" + (f" ({bounds[0]:+.3f} … {bounds[1]:+.3f})" if bounds else "")


def plot(rows: Sequence[Row]) -> bytes:
    """PNG: every arm's gain by its own choice, by lot and by the oracle."""
    from matplotlib.figure import Figure

    last = {(row["arm"], row["role"]): row for row in rows}  # of several rounds the last
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    drawn = Figure(figsize=(7, 1.4 + 0.55 * len(arms)), layout="constrained")
    axes = drawn.subplots()
    for offset, (role, colour) in zip(
        (0.0, -0.2, 0.2), (("own", "tab:blue"), ("random", "grey"), ("oracle", "tab:green")), strict=True
    ):
        there = [(place, last[arm, role]["gain"]) for place, arm in enumerate(arms) if (arm, role) in last]
        values = np.array([gain["value"] for _, gain in there])
        sides = np.array([gain["ci95"] for _, gain in there]).T
        if len(there):
            axes.errorbar(
                values, [place + offset for place, _ in there], xerr=np.abs(sides - values), fmt="o",
                markersize=4, capsize=2, color=colour, label={"own": "own score", "random": "by lot"}.get(role, role),
            )  # fmt: skip
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set_xlabel("gain in the oracle on held-out prompts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
