"""How early a running score knows which candidates will be best: the study that chooses when a race drops them.

A pilot has the running score of every candidate at every step and its final score, so what any schedule would have
kept is known without drawing again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mitune.evaluate.agreement import tau
from mitune.evaluate.bootstrap import cell
from mitune.evaluate.drawings import as_png, explain, panels
from mitune.evaluate.judged import in_markdown, sentence
from mitune.evaluate.tables import in_words
from mitune.sampling.racing import Cut, rows_of

SCHEMA = 1
FOLDS = 5  # of the cross-validation of a proposal
PAIR_STEPS = 8  # steps that schedules of two cuts are tried at
Scores = NDArray[np.float64]  # [prompts, candidates]


# -- what a schedule keeps ---------------------------------------------------------------------------------------------


def keep_best(running: Scores, alive: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Keep of those ``alive`` [P, M] the ``count`` highest of every prompt by ``running``; ties to the first."""
    order = np.argsort(-np.where(alive, running, -np.inf), axis=1, kind="stable")[:, :count]
    chosen = np.zeros_like(alive)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & alive


def race(running: Mapping[int, Scores], cuts: Sequence[Cut]) -> NDArray[np.bool_]:
    """Run the race and give who is left [P, M] after ``cuts``; ``running``: the scores after each number of steps."""
    alive = np.ones_like(next(iter(running.values())), dtype=bool)
    for cut in cuts:
        alive = keep_best(running[cut.step], alive, cut.survivors)
    return alive


def recall(final: Scores, alive: NDArray[np.bool_], k: int) -> Scores:
    """Compute the share of each prompt's top ``k`` by ``final`` that is alive [P].

    Where several tie for the last places, any of them will do.
    """
    edge = np.sort(final, axis=1)[:, -k][:, None]
    above, tied = final > edge, final == edge
    places = k - above.sum(1)
    return ((above & alive).sum(1) + np.minimum(places, (tied & alive).sum(1))) / k


def winners_mean(final: Scores, alive: NDArray[np.bool_], k: int) -> Scores:
    """Compute the mean ``final`` of the best ``k`` of those alive, in the score's own unit [P]."""
    return np.sort(np.where(alive, final, -np.inf), axis=1)[:, -k:].mean(1)


# -- the study ---------------------------------------------------------------------------------------------------------


def calibration(
    running: Mapping[str, Mapping[int, Scores]],
    target: Scores,
    steps: int,
    k: int = 1,
    wanted: float = 0.9,
    looks: Mapping[str, int] | None = None,
    finish: float = 0.0,
    propose: bool = True,
    branches: int | Sequence[int] = 2,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Study a pilot of P prompts and M candidates.

    Args:
        running: {score: {number of steps taken: [P, M]}}; the entry at ``steps`` is the score's own final value.
        target: [P, M] the final score whose best must survive.
        k: how many of the best.
        wanted: share of them that a proposal shall keep, on average over prompts.
        looks: network rows that a look at one candidate takes, by score; none for the free ones.
        finish: network rows a candidate that ``target`` takes.
        propose: whether schedules may be chosen by this target (not by an oracle, that only judges).
        branches: network rows of one candidate's steps, of all or of each, as of ``rows_of``.

    Gives ``{"prompts", "candidates", "steps", "k", "recall", "finish", "survivors": [m, …], "scores": {name: {"look",
    "at": [{"step", "tau_own", "tau_target", "recall_own", "recall_target"}]}}, "proposals": {name: proposal or None},
    "best": name or None}``. Every figure is ``{"mean", "ci95"}`` over prompts (bootstrap), τ over those it is defined
    for; recalls are lists, an entry for each m of "survivors": top ``k`` of the final score in the top m of the running
    one. "own" holds a running score against its own final value, "target" against ``target``.
    """
    prompts, candidates = target.shape
    sizes = sorted(
        {m for m in (k, candidates // 8, candidates // 4, candidates // 2, 3 * candidates // 4) if m >= k}
    )
    everyone = np.ones_like(target, dtype=bool)

    mean = functools.partial(cell, seed=seed, n=resamples)
    scores: dict[str, Any] = {}
    proposals: dict[str, Any] = {}
    for name, by_step in running.items():
        rows = []
        for step, values in sorted(by_step.items()):
            kept = [keep_best(values, everyone, m) for m in sizes]
            row: dict[str, Any] = {"step": step}
            for what, final in (("own", by_step[steps]), ("target", target)):
                row[f"tau_{what}"] = mean([tau(one, other) for one, other in zip(values, final, strict=True)])
                row[f"recall_{what}"] = [mean(recall(final, alive, k)) for alive in kept]
            rows.append(row)
        look = (looks or {}).get(name, 0)
        scores[name] = {"look": look, "at": rows}
        early = {step: values for step, values in by_step.items() if step < steps}
        proposals[name] = (
            _propose(early, target, steps, k, wanted, look, finish, branches, mean)
            if propose and early
            else None
        )
    able = [name for name, proposal in proposals.items() if proposal is not None]
    return {
        "schema": SCHEMA,
        "prompts": prompts,
        "candidates": candidates,
        "steps": steps,
        "k": k,
        "recall": wanted,
        "finish": finish,
        "survivors": sizes,
        "scores": scores,
        "proposals": proposals,
        "best": min(able, key=lambda name: proposals[name]["rows"], default=None),
    }


def schedules(at: Sequence[int], candidates: int, k: int) -> list[list[Cut]]:
    """One cut after any of the steps ``at`` to any number of survivors, or two after some of them by halves."""
    single = [[Cut(step, left)] for step in at for left in range(k, candidates)]
    few = sorted({at[round(place)] for place in np.linspace(0, len(at) - 1, min(len(at), PAIR_STEPS))})
    halves = sorted({max(k, round(candidates * 2 ** (-power / 2))) for power in range(1, 12)} - {candidates})
    double = [
        [Cut(first, more), Cut(second, left)]
        for first, second in itertools.combinations(few, 2)
        for left, more in itertools.combinations(halves, 2)
    ]
    return single + double


def _propose(
    running: Mapping[int, Scores],
    target: Scores,
    steps: int,
    k: int,
    wanted: float,
    look: int,
    finish: float,
    branches: int | Sequence[int],
    mean: Any,
) -> dict[str, Any] | None:
    """The schedule that takes the fewest rows, scores of the finished included, at the recall wanted; or None.

    It was chosen on the prompts that its recall is measured on, among many; ``recall_held_out`` is that of schedules
    chosen in the same way on four fifths of the prompts, on the others.
    """
    prompts, candidates = target.shape

    def rows(cuts: Sequence[Cut], finish: float) -> float:
        drawing = rows_of(cuts, candidates, steps, look, branches=branches)
        return drawing + finish * (cuts[-1].survivors if cuts else candidates)

    plans = sorted(
        schedules(sorted(running), candidates, k), key=lambda cuts: (rows(cuts, finish), len(cuts))
    )
    whole = rows([], finish)
    plans = [cuts for cuts in plans if rows(cuts, finish) < whole]
    if not plans:
        return None
    recalls = np.stack([recall(target, race(running, cuts), k) for cuts in plans])  # [schedules, P]

    def cheapest(chosen: NDArray[np.bool_]) -> int | None:
        good = np.flatnonzero(recalls[:, chosen].mean(1) >= wanted - 1e-12)
        return int(good[0]) if len(good) else None

    best = cheapest(np.ones(prompts, dtype=bool))
    if best is None:
        return None
    folds = np.arange(prompts) % min(FOLDS, prompts)
    held_out = np.ones(prompts)  # where no schedule is good enough nobody is dropped
    for fold in range(int(folds.max()) + 1):
        number = cheapest(folds != fold)
        if number is not None:
            held_out[folds == fold] = recalls[number][folds == fold]
    cuts = plans[best]
    alive, everyone = race(running, cuts), np.ones_like(target, dtype=bool)
    loss = winners_mean(target, everyone, k) - winners_mean(target, alive, k)
    return {
        "cuts": [{"step": cut.step, "survivors": cut.survivors} for cut in cuts],
        "recall": mean(recalls[best]),
        "recall_held_out": mean(held_out),
        "loss": mean(loss),
        "rows": rows(cuts, finish),
        "saving": whole / rows(cuts, finish),
        "saving_drawing": rows_of([], candidates, steps, branches=branches) / rows(cuts, 0.0),
    }


# -- for people --------------------------------------------------------------------------------------------------------


def summary(result: Mapping[str, Any]) -> str:
    """Write what was measured and what is proposed as Markdown."""
    target, k, candidates = result["target"], result["k"], result["candidates"]
    best = f"the best {k}" if k > 1 else "the best one"
    lines = [
        f"{result['prompts']} prompts, {candidates} candidates each, {result['steps']} steps. Whose survival counts:"
        f" {best} of each prompt by the finished pictures' `{target}` ({result['finish']:.4g} forwards a candidate).",
        "",
    ]
    if result["measured_only"]:
        lines += [
            f"No schedule is proposed: `{target}` only judges. Give calibrate.target= a score that may choose.",
            "",
        ]
    elif result["best"] is None:
        lines += [f"No schedule keeps {result['recall']:.2f} of them and saves forwards.", ""]
    else:
        lines += [
            f"Schedules that keep {result['recall']:.2f} of them on this pilot; held out: chosen on other prompts in"
            " the same way. Last, how many times fewer forwards: of drawing, looks included; and with the scores of the"
            " finished pictures.",
            "",
            f"| running score | after step → left | recall | held out | loss of {target} | drawing | with scores |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, plan in result["proposals"].items():
            if plan is None:
                lines.append(f"| `{name}` | none | | | | | |")
                continue
            cuts = ", ".join(f"{cut['step']} → {cut['survivors']}" for cut in plan["cuts"])
            lines.append(
                f"| `{name}` | {cuts} | {in_words(plan['recall'], '.2f')} | {in_words(plan['recall_held_out'], '.2f')}"
                f" | {in_words(plan['loss'], '.2f')} | {plan['saving_drawing']:.2f} × | {plan['saving']:.2f} × |"
            )
        lines += ["", f"The cheapest: `{result['command']}`", ""]
    return "\n".join(lines)


def markdown(result: Mapping[str, Any]) -> str:
    """Write the study as Markdown: what is proposed, then a table for each running score."""
    target, k, candidates = result["target"], result["k"], result["candidates"]
    said = in_markdown(result.get("judged_by") or {}, result.get("prompts"))
    lines = [summary(result), *said]
    for name, score in result["scores"].items():
        cost = "free" if not score["look"] else f"{score['look']} forwards a look"
        own = name if not score["look"] else f"{name} of the finished picture, by as cheap a look"
        heads = [f"top {k} in {m}" for m in result["survivors"]]
        lines += [
            f"Running `{name}` ({cost}). Its own final value: {own}. Dropped by lot, the recalls would be"
            f" {', '.join(f'{m / candidates:.2f}' for m in result['survivors'])}.",
            "",
            f"| after step | τ with {target} | " + " | ".join(f"{head} by {target}" for head in heads)
            + " | τ with its own final | " + " | ".join(f"{head} by its own" for head in heads) + " |",
            "|---" * (3 + 2 * len(heads)) + "|",
        ]  # fmt: skip
        for row in score["at"]:
            cells = [in_words(row["tau_target"]), *(in_words(one, ".2f") for one in row["recall_target"])]
            cells += [in_words(row["tau_own"]), *(in_words(one, ".2f") for one in row["recall_own"])]
            lines.append(f"| {row['step']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(result: Mapping[str, Any]) -> bytes:
    """Draw τ of each running score with the target (dotted: its own final value), and its recall, as PNG."""
    import matplotlib

    figure, (left, right) = panels(11, 4.8, 2)
    half = max(m for m in result["survivors"] if m <= max(result["candidates"] // 2, result["k"]))
    place = result["survivors"].index(half)
    colours = itertools.cycle(matplotlib.colormaps["tab10"].colors)
    for (name, score), colour in zip(result["scores"].items(), colours, strict=False):
        steps = [row["step"] for row in score["at"]]
        for what, line in (("target", "-"), ("own", ":")):
            values = [row[f"tau_{what}"]["mean"] for row in score["at"]]
            values = [np.nan if value is None else value for value in values]
            left.plot(
                steps,
                values,
                line,
                marker="o",
                markersize=3,
                color=colour,
                label=name if what == "target" else None,
            )
        values = [row["recall_target"][place]["mean"] for row in score["at"]]
        right.plot(steps, values, marker="o", markersize=3, color=colour, label=name)
    left.axhline(0.0, color="grey", linewidth=0.8, linestyle="--")
    left.set_ylabel("Kendall's τ")
    left.set_title("agreement with the final score")
    right.axhline(half / result["candidates"], color="grey", linewidth=0.8, linestyle="--")
    right.set_ylabel("recall")
    right.set_title(f"top {result['k']} among the best {half} so far")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=8, frameon=False
    )
    explain(
        figure,
        f"Left: how alike a running score, read after so many steps, and the final {result['target']} rank a prompt's"
        f" candidates (1 the same, 0 not at all); dotted: the same with its own final value. Right: the share"
        f" of the top {result['k']} by the final {result['target']} that would still be there if only the best {half}"
        " so far went on; dashed: if they were drawn by chance."
        f" {sentence(result.get('judged_by') or {}, result['prompts'])}",
    )
    for axes in (left, right):
        axes.set_xlabel(f"steps taken, of {result['steps']}")
    return as_png(figure)
