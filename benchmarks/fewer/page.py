"""The record of ``benchmarks.fewer`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.fewer.figures import SCORES


def page(record: Mapping[str, Any]) -> str:
    """Write the record."""
    lines = ["# Fewer network evaluations", ""]
    for name, heading, table in (
        ("candidates", "Pools of candidates", _candidates),
        ("winners", "Winners and how scores rank", _winners),
        ("llr", "llr against the closed form", _llr),
    ):
        if record.get(name):
            lines += [f"## {heading}", "", *table(record[name]), ""]
    return "\n".join(lines) + common.markdown(record).partition("\n")[2]


def _candidates(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "Evaluations: network rows a picture. Reached: at most 0.45 of the first setting's evaluations, and the 95 %"
        " interval of the paired difference (over prompts) above −0.02.",
        "",
        "| model | guidance | prompts × pictures | setting | evaluations | ratio | oracle | exact | difference (95 %)"
        " | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['model']} | {row['guidance']:g} | {row['prompts']} × {row['candidates']} | `{row['setting']}` "
            f"| {row['evaluations']:.4g} | {row['ratio']:.2f} | {row['oracle']:.3f} | {row['exact']:.3f} "
            f"| {_interval(row['difference'])} | {'yes' if row['reached'] else ''} |"
            for row in rows
        ),
    ]


def _winners(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = " | ".join(f"τ of {name}" for name in SCORES)
    lines = [
        "The best of each prompt by z(contrast) + z(elbo), by the oracle, against those of the first setting's pools;"
        " Kendall's τ of each score with the oracle within a prompt (95 % interval).",
        "",
        f"| model | guidance | prompts × pictures | setting | pool | winners | difference (95 %) | {head} |",
        "|---|---|---|---|---|---|---|" + "---|" * len(SCORES),
    ]
    for row in rows:
        taus = " | ".join(_interval(row["tau"].get(name), ".2f") for name in SCORES)
        lines.append(
            f"| {row['model']} | {row['guidance']:g} | {row['prompts']} × {row['candidates']} | `{row['setting']}` "
            f"| {row['pool']:.3f} | {row['winners']:.3f} | {_interval(row['difference'])} | {taus} |"
        )
    return lines


def _llr(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "Pearson r, slope and RMSE (nats) against log p(z|c) − log p(z), the means over two mixtures.",
        "",
        "| schedule | guidance | sampler | steps | kernel | r | slope | RMSE |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['schedule']} | {row['guidance']:g} | `{row['sampler']}` | {row['steps']} | {row['kernel']} "
            f"| {row['r']:.3f} | {row['slope']:.2f} | {row['rmse']:.3f} |"
            for row in rows
        ),
    ]


def _interval(estimate: Mapping[str, Any] | None, form: str = ".3f") -> str:
    if estimate is None or estimate["mean"] is None:
        return ""
    low, high = estimate["ci95"]
    return f"{estimate['mean']:+{form}} ({low:+{form}} … {high:+{form}})".replace("-", "−")
