"""What racing saves on the embedded world, and what it loses: ``python -m benchmarks.racing``.

Sixteen candidates of every prompt are drawn to the end once, with the score that chooses (the target) and the oracle,
which only judges; what each race looks at is noted on the way. So the survivors of every race are known, and its
winner is held against the winner of all sixteen. Then the races themselves are run and timed against drawing and
scoring them all, in turns, once the survivors have been found to be those that were foretold.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from benchmarks import common
from mitune.config import compose
from mitune.data.store import Unit, plan_units
from mitune.evaluate.bootstrap import mean_ci
from mitune.evaluate.calibration import race, recall, winners_mean
from mitune.families import load_denoiser
from mitune.information.scoring import Scoring
from mitune.sampling.racing import Cut, rows_of
from mitune.scores import PATH_SCORERS, RACERS
from mitune.stages.candidates import Drawing, draw_unit
from mitune.stages.inputs import quiet, read_prompts, sampler_of, scoring_of, whole_pool
from mitune.stages.racing import PilotRace, Race, column, look_cost, look_scoring
from mitune.tasks import Task

RACES = ("llr@8=6", "elbo:2@8=6", "elbo:4@8=5", "contrast:2x3@8=5", "elbo:2@6=11,12=4")
SPEEDUP, RECALL, LOSS, SLACK = 1.9, 0.9, 0.01, 1.1
LOTS = 200  # draws of the control, in which survivors are chosen by lot

_RACE = re.compile(r"(?P<by>\w+)(:(?P<times>\d+)(x(?P<edits>\d+))?)?@(?P<cuts>\d+=\d+(,\d+=\d+)*)")


@dataclass(frozen=True)
class Arm:
    """A race: ``by[:times[xedits]]@step=survivors[,…]``."""

    name: str
    by: str
    times: int | None
    edits: int
    cuts: tuple[Cut, ...]

    @staticmethod
    def read(text: str) -> Arm:
        """Raises argparse's error for what is no race."""
        match = _RACE.fullmatch(text)
        if (
            not match
            or match["by"] not in RACERS
            or (match["by"] in PATH_SCORERS) != (match["times"] is None)
        ):
            raise argparse.ArgumentTypeError(
                f"{text}: a race is SCORE@STEP=SURVIVORS, such as llr@8=6, elbo:2@8=6 (2 times a look),"
                f" contrast:2x3@8=5 (2 times, 3 edits) or elbo:2@6=11,12=4; scores are {', '.join(RACERS)}"
            )
        pairs = [pair.split("=") for pair in match["cuts"].split(",")]
        cuts = tuple(Cut(int(step), int(left)) for step, left in pairs)
        return Arm(
            text, match["by"], int(match["times"]) if match["times"] else None, int(match["edits"] or 3), cuts
        )

    def scoring(self, config: DictConfig, denoiser: Any) -> Scoring:
        return look_scoring(config, denoiser, self.by, self.times, self.edits)

    def look(self, config: DictConfig) -> int:
        return look_cost(self.by, config.scorer, self.times, self.edits)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write ``results/racing.json`` and its table."""
    parser = common.parser(
        "racing",
        __doc__,
        prompts=(100, "that recall and loss are measured on"),
        candidates=16,
        timed=(6, "prompts a timed round"),
        repeats=7,
        batch=(96, "candidates a forward"),
        threads=torch.get_num_threads(),
    )
    parser.add_argument("--target", default="contrast", help="the score that chooses the winner")
    parser.add_argument(
        "--race", type=Arm.read, action="append", help=f"may be repeated (default: {', '.join(RACES)})"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the preset shapes"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    options = parser.parse_args(arguments)
    quiet()
    torch.set_num_threads(options.threads)
    load = common.machine()["load_average"]
    common.warn_if_busy()
    arms: list[Arm] = options.race or [Arm.read(text) for text in RACES]
    config = compose(
        [
            "experiment=shapes",
            "sampler=ddim",  # with noise, which llr needs
            "sampler.steps=20",
            f"generate.candidates={options.candidates}",
            f"prompts.limit={options.prompts}",
            *options.set,
        ]
    )
    denoiser = load_denoiser("shapes", device="cpu")
    prompts = read_prompts(config.prompts)
    steps, candidates = config.sampler.steps, options.candidates
    scores = study(config, denoiser, prompts, options.target, arms, options.batch)
    finish = scores["finish"]
    comparisons, figures = [], []
    seconds = timed(
        config, denoiser, prompts[: options.timed], options.target, arms, options, scores["alive"]
    )
    for arm in arms:
        own, found = measured(arm, config, scores, seconds, options.target)
        comparisons.append(own)
        figures += found
    figures += by_lot(scores["target"], scores["oracle"], sorted({arm.cuts[-1].survivors for arm in arms}))
    common.write(
        "racing",
        {
            "prompts": len(prompts),
            "candidates": candidates,
            "steps": steps,
            "guidance": config.sampler.guidance,
            "target": options.target,
            "forwards a candidate: drawing": 2 * steps,
            "forwards a candidate: target": finish,
            "prompts a timed round": min(options.timed, len(prompts)),
            "batch": options.batch,
        },
        comparisons,
        figures,
        folder=options.out,
        load_before=load,
    )
    print((options.out / "racing.md").read_text())


def measured(
    arm: Arm,
    config: DictConfig,
    scores: Mapping[str, Any],
    seconds: Mapping[str, Sequence[float]],
    target: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare one race with doing it all.

    Args:
        arm: the race.
        config: of the preset; ``target``: the score that chooses the winner.
        scores: what :func:`study` gave.
        seconds: what :func:`timed` gave.
    """
    steps, candidates, finish = config.sampler.steps, config.generate.candidates, scores["finish"]
    drawing = rows_of(arm.cuts, candidates, steps, arm.look(config))
    whole, raced = (
        rows_of([], candidates, steps) + candidates * finish,
        drawing + arm.cuts[-1].survivors * finish,
    )
    comparison = common.comparison(
        f"{arm.name}: drawing, looking and scoring against doing it for all",
        seconds,
        arm.name,
        "all",
        at_most=SLACK * raced / whole,
        note=f"{raced / whole:.3f} of the forwards; the target is that times {SLACK}",
    )
    return comparison, [
        common.figure(f"{arm.name}: forwards, scores included", whole / raced, "times fewer", SPEEDUP),
        common.figure(
            f"{arm.name}: forwards of drawing and looks",
            rows_of([], candidates, steps) / drawing,
            "times fewer",
        ),
        *outcome(arm.name, scores["alive"][arm.name], scores["target"], scores["oracle"], target),
    ]


def study(
    config: DictConfig, denoiser: Any, prompts: Sequence[Task], target: str, arms: Sequence[Arm], batch: int
) -> dict[str, Any]:
    """Target and oracle scores [P, M] of all candidates, who each race would leave [P, M], and the target's forwards a
    candidate."""
    candidates = config.generate.candidates
    scoring = scoring_of(config, denoiser, [target, "oracle"], lambda: whole_pool(config))
    pilot = PilotRace(
        {arm.name: arm.scoring(config, denoiser) for arm in arms},
        {arm.name: [cut.step for cut in arm.cuts] for arm in arms},
        config.sampler.steps,
    )
    columns: dict[str, list[float]] = {}
    for unit in plan_units(prompts, candidates, batch):
        table, _ = _draw(config, denoiser, unit, scoring, batch, pilot)
        for name, values in table.items():
            columns.setdefault(name, []).extend(values)
        print(f"{len(columns['seed']) // candidates} of {len(prompts)} prompts drawn", flush=True)

    def wide(name: str) -> NDArray[np.float64]:
        return np.array(columns[name], dtype=np.float64).reshape(len(prompts), candidates)

    running = {
        arm.name: {cut.step: wide(column(arm.name, cut.step)) for cut in arm.cuts} for arm in arms
    }  # fmt: skip
    return {
        "target": wide(target),
        "oracle": wide("oracle"),
        "alive": {arm.name: race(running[arm.name], arm.cuts) for arm in arms},
        "finish": sum(scoring.forwards.values()) / len(columns["seed"]),
    }


def timed(
    config: DictConfig,
    denoiser: Any,
    prompts: Sequence[Task],
    target: str,
    arms: Sequence[Arm],
    options: argparse.Namespace,
    foretold: dict[str, NDArray[np.bool_]],
) -> dict[str, list[float]]:
    """Seconds of drawing and scoring all candidates, and of each race. RuntimeError where it leaves others than
    foretold: a few may change places, as sums differ in their last digits with the batch."""
    unit = plan_units(prompts, options.candidates, len(prompts) * options.candidates)[0]
    scoring = scoring_of(config, denoiser, [target], lambda: whole_pool(config))
    watches = {arm.name: Race(arm.cuts, arm.scoring(config, denoiser)) for arm in arms}

    def run(watch: Race | None) -> dict[str, list[Any]]:
        return _draw(config, denoiser, unit, scoring, options.batch, watch)[0]

    for arm in arms:
        before = denoiser.forwards
        left = np.array([step is None for step in run(watches[arm.name])["dropped_at"]])
        other = np.mean(left != foretold[arm.name][: len(prompts)].reshape(-1))
        common.agree(f"{arm.name}: survivors of the race and of the study", float(other), 0.05)
        print(f"{arm.name}: {(denoiser.forwards - before) / len(prompts):.1f} forwards a prompt", flush=True)
    runs = {"all": lambda: run(None)} | {
        name: lambda watch=watch: run(watch) for name, watch in watches.items()
    }
    return common.interleave(runs, options.repeats, warmup=0)


def _draw(
    config: DictConfig, denoiser: Any, unit: Unit, scoring: Scoring, batch: int, watch: Any
) -> tuple[dict[str, list[Any]], torch.Tensor]:
    sampler = sampler_of(config, denoiser)
    return draw_unit(unit, Drawing(sampler, scoring, config.seed, batch_size=batch, watch=watch))


def outcome(
    name: str,
    alive: NDArray[np.bool_],
    target: NDArray[np.float64],
    oracle: NDArray[np.float64],
    by: str,
) -> list[dict[str, Any]]:
    """Recall of the winner of all, and what the oracle thinks of the race's winners less those of all."""
    kept = recall(target, alive, 1)
    chosen, best = (np.where(mask, target, -np.inf).argmax(1) for mask in (alive, np.ones_like(alive)))
    prompts = np.arange(len(target))
    change = oracle[prompts, chosen] - oracle[prompts, best]
    share, gain = (mean_ci(values.tolist(), prompts) for values in (kept, change))
    return [
        common.figure(
            f"{name}: recall of the winner by {by}",
            share.mean,
            "",
            RECALL,
            note=f"95 % interval {_interval(share)}",
        ),
        common.figure(
            f"{name}: oracle of its winners less that of the winners of all",
            gain.mean,
            "",
            -LOSS,
            note=f"95 % interval {_interval(gain)}; winners of all {oracle[prompts, best].mean():.3f}, pool"
            f" {oracle.mean():.3f}",
        ),
        common.figure(
            f"{name}: {by} of its winners less that of the winners of all",
            float((winners_mean(target, alive, 1) - target.max(1)).mean()),
            "nats",
        ),
    ]


def by_lot(
    target: NDArray[np.float64], oracle: NDArray[np.float64], lefts: Sequence[int]
) -> list[dict[str, Any]]:
    """The control: as many survivors, chosen by lot; the mean of many draws."""
    rng = np.random.default_rng(0)
    prompts, candidates = target.shape
    every, best = np.arange(prompts), target.argmax(1)
    figures = []
    for left in lefts:
        change = []
        for _ in range(LOTS):
            alive = rng.random(target.shape).argsort(1) < left
            chosen = np.where(alive, target, -np.inf).argmax(1)
            change.append((oracle[every, chosen] - oracle[every, best]).mean())
        figures.append(
            common.figure(
                f"by lot, {left} of {candidates} left: oracle of winners less that of all",
                float(np.mean(change)),
                "",
                note=f"the control; its recall is {left / candidates:.2f}",
            )
        )
    return figures


def _interval(estimate: Any) -> str:
    if estimate.interval is None:
        return "unknown"
    low, high = estimate.interval
    return f"{low:+.3f} … {high:+.3f}"


if __name__ == "__main__":
    main()
