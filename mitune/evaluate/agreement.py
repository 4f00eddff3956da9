"""How well scores agree on which candidate of a prompt is best: Kendall's τ between every two of them, and what a
referee thinks of the candidates that each of them prefers.

The study of MI-Tune (Wang et al., ICLR 2025, §3.1: τ over the 1st, 25th and 50th of 50 candidates) and of CAS (Hong et
al., ICLR 2024: the referee's mean over the top N % by each score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mitune.errors import UserError
from mitune.evaluate.bootstrap import cell
from mitune.evaluate.drawings import as_png, explain, panels
from mitune.evaluate.judged import in_markdown, sentence
from mitune.evaluate.tables import in_words

SCHEMA = 1
_COLOURS = "tab10"


def agreement(
    table: pd.DataFrame,
    scores: Sequence[str],
    referee: str,
    positions: Sequence[int] = (1, 25, 50),
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    forwards: Mapping[str, float] | None = None,
    seed: int = 0,
    resamples: int = 2000,
    ranked_by: str | None = None,
) -> dict[str, Any]:
    """Study a table of candidates: one row each, with ``prompt_id`` and a column for every score.

    Args:
        scores: what is compared; ``referee`` is one of them.
        positions: ranks (1 = best) by the score of the row at which the score of the column is compared with it. Where
            a prompt has fewer candidates than the last of them, the same shares of its candidates are taken.
        fractions: top shares of each prompt's candidates by a score whose mean by the referee is given.
        forwards: network rows a candidate that each score took, beyond drawing it.
        seed, resamples: of the bootstrap.
        ranked_by: the score whose ranks ``positions`` are for every two scores, as in the paper, which compares three
            scores on the pictures that one of them has ranked; by default that of the row.

    Gives ``{"schema", "prompts", "candidates", "referee", "scores": {name: {"forwards", "tau", "tau_ci95", "winner",
    "winner_ci95", "share_of_room"}}, "tau": {row: {column: cell}}, "tau_positions": {row: {column: cell}},
    "positions", "ranked_by", "curves": {name: [{"top", "mean", "ci95"}]}, "pool", "best"}``; a cell is ``{"mean",
    "ci95", "prompts"}``: prompts whose candidates either score cannot tell apart have no τ and are not counted.
    Intervals are bootstraps over prompts.

    Raises UserError: fewer than two prompts with two candidates, an unknown score, a score that is not finite.
    """
    groups = _groups(table, [*scores, referee, *([] if ranked_by is None else [ranked_by])])
    taus: dict[str, dict[str, Any]] = {name: {} for name in scores}
    taus_at: dict[str, dict[str, Any]] = {name: {} for name in scores}
    for number, row in enumerate(scores):
        for place, column in enumerate(scores):
            if place > number:
                values = [tau(group[row], group[column]) for group in groups]
                taus[row][column] = taus[column][row] = _cell(values, seed, resamples)
            if place != number:
                values = [
                    tau(*(group[name][ranked(group[ranked_by or row], positions)] for name in (row, column)))
                    for group in groups
                ]
                taus_at[row][column] = _cell(values, seed, resamples)
    curves = {
        name: [
            {
                "top": float(fraction),
                **cell(
                    [top_mean(group[name], group[referee], fraction) for group in groups], seed, resamples
                ),
            }
            for fraction in sorted(fractions)
        ]
        for name in scores
    }
    pool = float(np.mean([group[referee].mean() for group in groups]))
    best = float(np.mean([group[referee].max() for group in groups]))
    summary = {}
    for name in scores:
        winner = cell([top_mean(group[name], group[referee], 0.0) for group in groups], seed, resamples)
        pair = taus[name].get(referee)
        summary[name] = {
            "forwards": None if forwards is None or name not in forwards else float(forwards[name]),
            "tau": None if pair is None else pair["mean"],
            "tau_ci95": None if pair is None else pair["ci95"],
            "winner": winner["mean"],
            "winner_ci95": winner["ci95"],
            "share_of_room": (winner["mean"] - pool) / (best - pool) if best > pool else None,
        }
    sizes = {len(group[referee]) for group in groups}
    return {
        "schema": SCHEMA,
        "prompts": len(groups),
        "candidates": max(sizes),
        "referee": referee,
        "scores": summary,
        "tau": taus,
        "tau_positions": taus_at,
        "positions": places(max(sizes), positions),
        "ranked_by": ranked_by,
        "curves": curves,
        "pool": pool,
        "best": best,
    }


def _groups(table: pd.DataFrame, names: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
    """The scores of each prompt's candidates, for the prompts with two or more."""
    for name in names:
        if name not in table:
            raise UserError(
                f"agree: the table has no score '{name}'; it has {', '.join(map(str, table.columns))}"
            )
        values = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(values).all():
            row = table.iloc[int(np.argmax(~np.isfinite(values)))]
            raise UserError(
                f"agree: score '{name}' of a candidate of prompt {row['prompt_id']} is no finite number; leave this"
                " score out"
            )
    wanted = list(dict.fromkeys(names))
    groups = [
        {name: rows[name].to_numpy(dtype=np.float64) for name in wanted}
        for _, rows in table.groupby("prompt_id", sort=True)
        if len(rows) > 1
    ]
    if len(groups) < 2:
        raise UserError(
            f"agree: {len(groups)} prompts have two candidates or more; at least two such prompts are needed"
        )
    return groups


def tau(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kendall's τ-b of two scores of the same candidates; NaN where either is the same for all of them."""
    from scipy import stats

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(stats.kendalltau(one, other).statistic)


def ranked(score: NDArray[np.float64], positions: Sequence[int]) -> NDArray[np.int64]:
    """Find the candidates at the given ranks by ``score`` (1 = best; ties in the order of the candidates)."""
    order = np.argsort(-score, kind="stable")
    return order[[place - 1 for place in places(len(score), positions)]]


def places(candidates: int, positions: Sequence[int]) -> list[int]:
    """Give the ranks among so many candidates: ``positions``, or the same shares where there are not as many."""
    last = max(positions)
    if candidates < last:
        positions = [1 + round((place - 1) * (candidates - 1) / max(last - 1, 1)) for place in positions]
    return sorted(dict.fromkeys(positions))


def top_mean(score: NDArray[np.float64], referee: NDArray[np.float64], fraction: float) -> float:
    """Compute the referee's mean over the top share by ``score``, at least one candidate.

    Candidates that tie at the edge count in part, as choosing among them by lot would on average.
    """
    count = max(1, round(fraction * len(score)))
    edge = np.sort(score)[-count]
    above, tied = score > edge, score == edge
    left = count - int(above.sum())
    return float((referee[above].sum() + left * referee[tied].mean()) / count)


def _cell(values: list[float], seed: int, resamples: int) -> dict[str, Any]:
    return cell(values, seed, resamples) | {"prompts": sum(map(math.isfinite, values))}


# -- for people --------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """Write the study as Markdown: a row a score, then every pair."""
    referee, names = result["referee"], list(result["scores"])
    at = ", ".join(map(str, result["positions"]))
    lines = [
        f"{result['prompts']} prompts, {result['candidates']} candidates each; referee: {referee}, whose mean is"
        f" {result['pool']:.3f} over all candidates and {result['best']:.3f} over the best of each prompt.",
        "",
        *in_markdown(result.get("judged_by") or {}, result["prompts"]),
        f"| score | forwards a candidate | τ with {referee} (95 %) | τ at ranks {at} (95 %) | {referee} of its winners"
        " (95 %) | share of what the referee would gain |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        row = result["scores"][name]
        spent = "" if row["forwards"] is None else f"{row['forwards']:.4g}"
        share = "" if row["share_of_room"] is None else f"{row['share_of_room']:.2f}".replace("-", "−")
        winner = in_words({"mean": row["winner"], "ci95": row["winner_ci95"]}, ".3f")
        pair = result["tau"][name].get(referee), result["tau_positions"][name].get(referee)
        lines.append(
            f"| `{name}` | {spent} | {in_words(pair[0])} | {in_words(pair[1])} | {winner} | {share} |"
        )
    for title, key in (
        ("all candidates", "tau"),
        (
            f"the candidates at ranks {at} by {result.get('ranked_by') or 'the score of the row'}",
            "tau_positions",
        ),
    ):
        lines += ["", f"Kendall's τ over {title}, mean over prompts:", ""]
        lines += ["| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
        for row in names:
            cells = [in_words(result[key][row].get(column), interval=False) for column in names]
            lines.append(f"| `{row}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def plot(result: Mapping[str, Any]) -> bytes:
    """Draw the referee's mean over the top share by each score (left), τ with it against forwards (right), as PNG."""
    import matplotlib

    referee = result["referee"]
    names = list(result["scores"])
    colours = dict(zip(names, matplotlib.colormaps[_COLOURS].colors * (1 + len(names) // 10), strict=False))
    figure, (left, right) = panels(11, 4.8, 2)
    for name in names:
        points = result["curves"][name]
        shares = [100 * point["top"] for point in points]
        style = {"color": "black", "linestyle": ":"} if name == referee else {"color": colours[name]}
        left.plot(shares, [point["mean"] for point in points], marker="o", markersize=3, label=name, **style)
        if name != referee and all(point["ci95"] for point in points):
            low, high = zip(*(point["ci95"] for point in points), strict=True)
            left.fill_between(shares, low, high, alpha=0.3 / len(names), color=colours[name], linewidth=0)
    left.axhline(result["pool"], color="grey", linewidth=0.8, linestyle="--")
    left.set_xlabel("top share of each prompt's candidates, %")
    left.set_ylabel(f"mean {referee}")
    left.set_title(f"what {referee} thinks of each score's favourites")
    ranked = sorted(
        (name for name in names if result["scores"][name]["tau"] is not None),
        key=lambda name: result["scores"][name]["tau"],
    )
    for place, name in enumerate(ranked):
        row = result["scores"][name]
        low, high = row["tau_ci95"] or (row["tau"], row["tau"])
        reach = [[max(0.0, row["tau"] - low)], [max(0.0, high - row["tau"])]]
        right.errorbar([row["tau"]], [place], xerr=reach, fmt="o", color=colours[name], capsize=3)
    right.axvline(0.0, color="grey", linewidth=0.8, linestyle="--")
    right.set_yticks(
        range(len(ranked)), [_priced(name, result["scores"][name]["forwards"]) for name in ranked]
    )
    right.set_ylim(-0.6, len(ranked) - 0.4)
    right.set_xlabel(f"Kendall's τ with {referee}")
    right.set_title("how well it ranks, and what that costs")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=8, frameon=False
    )
    explain(
        figure,
        f"Left: the mean {referee} of each prompt's best candidates by a score, from all of them (100 %, dashed) down"
        f" to its favourites; dotted: the best that can be. Right: how alike a score and {referee} rank a prompt's"
        " candidates (1 the same, 0 not at all), with 95 % intervals over prompts; in brackets the forwards that it"
        " took a candidate."
        f" {sentence(result.get('judged_by') or {}, result['prompts'])}",
    )
    return as_png(figure)


def _priced(name: str, forwards: float | None) -> str:
    """A score with what it cost, for an axis."""
    return (name if forwards is None else f"{name} ({forwards:.4g})").replace("$", r"\$")
