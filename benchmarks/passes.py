"""What scoring in passes saves on the embedded world, and what it loses: ``python -m benchmarks.passes``.

Sixteen candidates of every prompt are drawn once and get ``contrast`` and ``elbo`` in full, with the preset's times and
with twice as many. From what was measured each race is then run as ``generate.passes`` runs it, so that its top three
are held against those of the full scores; the oracle only judges. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from mitune.config import compose
from mitune.data.store import plan_units
from mitune.evaluate.bootstrap import cell
from mitune.families import load_denoiser
from mitune.information.in_passes import Contest, Unfinished, in_passes
from mitune.scores import sums, terms
from mitune.stages.candidates import Drawing, draw_unit
from mitune.stages.inputs import candidate_sampler, prompt_pool, scoring_of, training_prompts

BY, K, LEVELS = "z(contrast)+z(elbo)", 3, (0.01, 0.05, 0.1, 0.25)
TIMES = {"7 and 8 times": (7, 8), "14 and 16 times": (14, 16)}


class Replay(Unfinished):
    """Measures again what is measured: it costs nothing but is counted."""

    @staticmethod
    def of(whole: Unfinished) -> Replay:
        again = copy.copy(whole)
        again.__class__ = Replay
        again.there, again.forwards = np.zeros_like(whole.there), 0
        return again  # type: ignore[return-value]

    def measure(self, turn: int, among: NDArray[np.bool_]) -> None:
        if turn < len(self.turns):
            at = self.turns[turn]
            self.there[np.ix_(np.flatnonzero(among), np.asarray(at))] = True
            self.forwards += sum(
                len(at) * error.shape[1] for error in self._of(np.flatnonzero(among).tolist())
            )


def measured(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """{"times, level": what each prompt came to}."""
    base = [
        "experiment=shapes",
        f"generate.candidates={options.candidates}",
        "prompts.limit=100000",
        *options.set,
    ]
    config = compose(base)
    denoiser = load_denoiser("shapes", device=options.device)
    every = training_prompts(config)
    tasks = every[:: max(1, len(every) // options.prompts)][: options.prompts]
    drawing = Drawing(
        candidate_sampler(config, denoiser),
        scoring_of(config, denoiser, ["oracle"], lambda: prompt_pool(config.prompts)),
        config.seed,
        config.generate.batch_size,
    )
    found: dict[str, list[dict[str, float]]] = {}
    for unit in plan_units(tasks, options.candidates, config.generate.rows_per_unit):
        table, latents = draw_unit(unit, drawing)
        oracle = np.asarray(table["oracle"])
        owners = [task for task, _ in unit.candidates()]
        for name, (contrast, elbo) in TIMES.items():
            own = compose([*base, f"scorer.contrast.times={contrast}", f"scorer.elbo.times={elbo}"])
            scoring = scoring_of(own, denoiser, ["contrast", "elbo"], lambda: prompt_pool(config.prompts))
            contest = Contest(BY, terms(BY), K, 0, 0.0)
            whole = scoring.opened(latents.to(denoiser.device), owners, table["seed"], contest)
            for one in whole.values():
                for turn in range(len(one.turns)):
                    one.measure(turn, np.ones(len(owners), dtype=bool))
            for level in LEVELS:
                races = {score: Replay.of(one) for score, one in whole.items()}
                rows = _compare(whole, races, table["prompt_id"], oracle, level)
                found.setdefault(f"{name}, level {level:g}", []).extend(rows)
        print(f"{len(next(iter(found.values())))} of {len(tasks)} prompts", flush=True)
    return found


def _compare(
    whole: dict[str, Unfinished],
    races: dict[str, Replay],
    prompts: Sequence[str],
    oracle: NDArray[np.float64],
    level: float,
) -> list[dict[str, float]]:
    """What one race of a unit came to, a prompt each."""
    passed = in_passes(races, {}, prompts, Contest(BY, terms(BY), K, 0, level))
    full = {name: one.scores(range(len(prompts))).numpy() for name, one in whole.items()}
    want = sums(full, [BY], "", prompts)[BY]
    have = sums({name: values.numpy() for name, values in passed.scores.items()}, [BY], "", prompts)[BY]
    left = np.asarray(passed.left_after) > 0
    share = sum(passed.forwards.values()) / sum(passed.whole.values())
    rows = []
    for prompt in dict.fromkeys(prompts):
        own = np.flatnonzero(np.asarray(prompts) == prompt)
        stayed = own[~left[own]]
        best = own[np.argsort(-want[own], kind="stable")[:K]]
        chosen = stayed[np.argsort(-have[stayed], kind="stable")[:K]]
        rows.append(
            {
                "evaluations": share,
                "lost": float(left[best].mean()),
                "wrong": float(left[best].sum()),
                "left": float(left[own].sum()),
                "same": len({*best} & {*chosen}) / K,
                "oracle": float(oracle[chosen].mean() - oracle[best].mean()),
                "pool": float(oracle[chosen].mean() - oracle[own].mean()),
            }
        )
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    figures, outcomes = [], {}
    for name, rows in measured(options).items():
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        low, high = cell([row["oracle"] for row in rows])["ci95"]
        wrong = sum(row["wrong"] for row in rows) / max(1.0, sum(row["left"] for row in rows))
        outcomes[name] = mean | {"wrong_of_those_that_left": wrong, "oracle_ci95": [low, high]}
        figures += [
            common.figure(f"{name}: evaluations", 1 / mean["evaluations"], "times fewer", 2.0),
            common.figure(f"{name}: of the top {K} lost", mean["lost"], "share"),
            common.figure(f"{name}: wrong, of those that left", wrong, "share"),
            common.figure(
                f"{name}: oracle of the chosen less that of the full scores' choice", mean["oracle"], "",
                -0.005, note=f"95 % interval {low:+.4f} to {high:+.4f}",
            ),
        ]  # fmt: skip
    settings = {"prompts": options.prompts, "candidates": options.candidates, "k": K, "by": BY}
    return {"settings": settings, "comparisons": [], "figures": figures, "more": {"outcomes": outcomes}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/passes.json`` and its table."""
    parser = common.parser(
        "passes", __doc__, "passes", prompts=180, candidates=16, threads=torch.get_num_threads()
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the preset shapes"
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
