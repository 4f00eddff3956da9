"""Referee Can Play on the embedded world: ``python -m benchmarks.inversion``.

Its small CLIP is the referee, the oracle judges; every arm draws the same pictures of held-out prompts, paired by
prompt and seed with plain sampling at guidance 4, and with the best by the same CLIP of as many plain ones as the arm's
processor time would draw. About half an hour of a free core.
``--levers --limit 40 --pictures 2 --seed 5 --name inversion-levers`` tries settings on training prompts. Finished arms
are kept in ``--kept`` and not drawn again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks import common
from mitune.config import compose
from mitune.evaluate.bootstrap import mean_ci, paired_difference
from mitune.families import load_denoiser
from mitune.files import write_json
from mitune.referees.weighted import load_reward
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.search.catalogue import DistillConfig, RefereeConfig, RestartConfig, ViewsConfig
from mitune.search.referee import Effort, climb
from mitune.stages.inputs import read_prompts, sampler_of, scoring_of, whole_pool
from mitune.tasks import Task

GUIDANCE = 4.0
VIEWS = (0, 10, 30)
ARM = "referee and distillation, 10 views"  # of which the targets are asked
SCORES = ("clip", "oracle", "exact")


@dataclass(frozen=True)
class World:
    """What all arms share."""

    denoiser: Any
    sampler: SamplerConfig
    referee: Any
    scoring: Any
    prompts: Sequence[Task]
    pictures: int
    seed: int
    batch_size: int

    @property
    def texts(self) -> list[str]:
        """One of each picture."""
        return [prompt.text for prompt in self.prompts for _ in range(self.pictures)]

    @property
    def seeds(self) -> list[int]:
        """One of each picture."""
        return [
            candidate_seed(self.seed, prompt.key, number)
            for prompt in self.prompts
            for number in range(self.pictures)
        ]


def plain(world: World, texts: Sequence[str], seeds: Sequence[int], guidance: float = GUIDANCE) -> Tensor:
    """Latents of the sampler."""
    condition = world.denoiser.encode_prompts(list(texts))
    return sample(world.denoiser, condition, seeds, dataclasses.replace(world.sampler, guidance=guidance))


def setting(steps: int, own: Mapping[str, Any] | None = None) -> RefereeConfig:
    """Settings of an arm: those chosen, with ``own`` in place of some: flat, ``views.number`` and so on."""
    values: dict[str, Any] = {**CHOSEN, **(own or {})}

    def part(prefix: str) -> dict[str, Any]:
        return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}

    return RefereeConfig(
        steps=steps,
        referee_steps=steps - max(1, steps // 10),
        warmup=2,
        views=ViewsConfig(**{**part("views."), "size": None}),
        distill=DistillConfig(**part("distill.")),
        restart=RestartConfig(every=None, **part("restart.")),
        **{name: value for name, value in values.items() if "." not in name},
    )


CHOSEN: dict[str, Any] = {
    "start": "sample",
    "referee_weight": 1.0,
    "noise": 0.0,
    "end_noise": 0.0,
    "distill.weight": [0.2, 0.1],
    "distill.guidance": 4.0,
    "distill.times": [0.02, 0.6],
    "views.number": 4,
    "views.rotate": 10.0,
    "views.shift": 0.05,
    "views.perspective": 0.1,
    "views.erase": [0.0, 0.05],
    "views.noise": 0.0,
    "views.more_noise": 0.05,
}
ALONE = 0.04  # root mean square of distillation's move a cell at these settings
# What differs where the latents start from noise.
NOISE: dict[str, Any] = {
    "start": "noise",
    "noise": 0.1,
    "distill.weight": [0.4, 0.2],
    "distill.times": [0.05, 0.948],
}
PUBLISHED: dict[str, Any] = {f"views.{name}": value for name, value in vars(ViewsConfig(number=4)).items()}
# Tried on training prompts, one change at a time.
LEVERS: dict[str, dict[str, Any]] = {
    "distillation alone": {"referee_weight": 0.0},
    "distillation alone, early times": {"referee_weight": 0.0, "distill.times": [0.4, 0.948]},
    "distillation alone, guidance 1.5": {"referee_weight": 0.0, "distill.guidance": 1.5},
    "as chosen": {},
    "weight 2": {"referee_weight": 2.0},
    "no views": {"views.number": 0},
    "distill 0.5": {"distill.weight": [0.5, 0.25]},
    "published views": PUBLISHED,
    "distill 0.1": {"distill.weight": [0.1, 0.05]},
    "weight 0.5": {"referee_weight": 0.5},
}


def drawn(world: World, settings: RefereeConfig) -> tuple[Tensor, dict[str, float]]:
    """Latents of an arm, and what a picture took: network rows, what the referee saw, decodes, processor seconds."""
    before, began, effort, parts = world.denoiser.forwards, time.process_time(), Effort(), []
    texts, seeds = world.texts, world.seeds
    for rows in torch.arange(len(seeds)).split(world.batch_size):
        own, of = [texts[row] for row in rows.tolist()], [seeds[row] for row in rows.tolist()]
        start = plain(world, own, of) if settings.start == "sample" else None
        parts.append(
            climb(
                world.denoiser, own, of, world.referee, settings, start, batch_size=96, effort=effort
            )
        )  # fmt: skip
    return torch.cat(parts), _took(world, before, began, effort)


def _took(world: World, before: int, began: float, effort: Effort) -> dict[str, float]:
    n = len(world.seeds)
    return {
        "rows": (world.denoiser.forwards - before) / n,
        "judged": effort.judged / n,
        "decoded": effort.decoded / n,
        "seconds": (time.process_time() - began) / n,
        "distilled": effort.distilled / max(effort.moves, 1),
    }


def judged(world: World, latents: Tensor, texts: Sequence[str]) -> dict[str, list[float]]:
    """The scores of pictures."""
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    with torch.no_grad():
        for rows in torch.arange(len(latents)).split(world.batch_size):
            own = [texts[row] for row in rows.tolist()]
            scores = world.scoring.on_pictures(world.denoiser.decode(latents[rows]), own)
            for name in SCORES:
                found[name] += scores[name].double().cpu().tolist()
    return found


def arm(world: World, settings: RefereeConfig) -> dict[str, Any]:
    """One arm: scores of its pictures and what they took."""
    latents, took = drawn(world, settings)
    return {"took": took, "settings": dataclasses.asdict(settings), **judged(world, latents, world.texts)}


def guided(world: World, guidance: float) -> dict[str, Any]:
    """Plain sampling."""
    before, began, parts = world.denoiser.forwards, time.process_time(), []
    for rows in torch.arange(len(world.seeds)).split(world.batch_size):
        texts = [world.texts[row] for row in rows.tolist()]
        parts.append(plain(world, texts, [world.seeds[row] for row in rows.tolist()], guidance))
    took = _took(world, before, began, Effort())
    return {"took": took, **judged(world, torch.cat(parts), world.texts)}


def pool(world: World, most: int) -> dict[str, Any]:
    """``most`` candidates of each picture, the first of which is the plain one: their scores, picture by picture."""
    texts = [text for text in world.texts for _ in range(most)]
    seeds = [
        candidate_seed(seed, "pool", number) if number else seed
        for seed in world.seeds
        for number in range(most)
    ]
    before, began, parts = world.denoiser.forwards, time.process_time(), []
    for rows in torch.arange(len(seeds)).split(world.batch_size):
        parts.append(
            plain(world, [texts[row] for row in rows.tolist()], [seeds[row] for row in rows.tolist()])
        )
    latents = torch.cat(parts)
    with torch.no_grad():  # what choosing takes: a decode and a look at each
        for rows in torch.arange(len(seeds)).split(world.batch_size):
            world.referee.score(world.denoiser.decode(latents[rows]), [texts[row] for row in rows.tolist()])
    took = _took(world, before, began, Effort()) | {"candidates": most}
    return {"took": took, **judged(world, latents, texts)}


def best_of(found: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The best of the first ``n`` of each picture's pool by the CLIP, with its share of what the pool took."""
    most = int(found["took"]["candidates"])
    tables = {name: np.asarray(found[name]).reshape(-1, most)[:, :n] for name in SCORES}
    chosen = tables["clip"].argmax(1)
    took = {name: value * n / most for name, value in found["took"].items()}
    return {"took": took} | {
        name: table[np.arange(len(table)), chosen].tolist() for name, table in tables.items()
    }


def world_of(args: argparse.Namespace) -> World:
    """Open the model, the judges and the prompts."""
    overrides = ["experiment=shapes", f"sampler.steps={args.sampler_steps}", "sampler.name=ddim"]
    overrides += [f"evaluate.prompts.limit={args.limit}", f"prompts.limit={args.limit}"]
    config: DictConfig = compose(overrides)
    denoiser = load_denoiser(config.model)
    return World(
        denoiser=denoiser,
        sampler=sampler_of(config, denoiser, GUIDANCE),
        # The cosine itself: CLIPScore is flat below zero, and has no gradient there.
        referee=load_reward("clip", {"clip": {**config.scorer.clip, "form": "cosine"}}),
        scoring=scoring_of(config, denoiser, ["clip", "oracle"], lambda: whole_pool(config)),
        prompts=read_prompts(config.prompts if args.levers else config.evaluate.prompts),
        pictures=args.pictures,
        seed=args.seed,
        batch_size=args.batch,
    )


class Kept:
    """Arms that are finished, in a file."""

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        self.path, self.said = path, dict(said)
        found = json.loads(path.read_text()) if path.exists() else {}
        self.arms: dict[str, Any] = found["arms"] if found.get("said") == self.said else {}

    def get(self, name: str, make: Any) -> dict[str, Any]:
        """Give an arm: from the file, or made now and kept there."""
        if name not in self.arms:
            self.arms[name] = make()
            write_json(self.path, {"said": self.said, "arms": self.arms})
        found: dict[str, Any] = self.arms[name]
        took = found["took"]
        print(
            f"{time.strftime('%H:%M:%S')} {name}: {took['rows']:.0f} rows, {took['judged']:.0f} judged,"
            f" {took['seconds']:.2f} s a picture; oracle {np.mean(found['oracle']):.3f},"
            f" CLIP {np.mean(found['clip']):.3f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return found


def levers(world: World, kept: Kept, args: argparse.Namespace) -> dict[str, Any]:
    """Try settings on training prompts: how far each is from plain sampling."""
    base = kept.get("guidance 4", lambda: guided(world, GUIDANCE))
    groups = [prompt.id for prompt in world.prompts for _ in range(world.pictures)]
    table = []
    for name, own in LEVERS.items():
        found = kept.get(name, lambda own=own: arm(world, setting(args.steps, own)))  # type: ignore[misc]
        row: dict[str, Any] = {"arm": name, "changed": own, **found["took"]}
        for score in SCORES:
            row[score] = _said(mean_ci(found[score], groups))
            row[f"{score}_over_guidance"] = _said(paired_difference(base[score], found[score], groups))
        table.append(row)
    settings = common.settings_of(args, "levers", "device", "kept") | {"chosen": CHOSEN}
    return {"settings": settings, "comparisons": [], "figures": [], "more": {"arms": table}, "page": tried}


def tried(record: Mapping[str, Any]) -> str:
    """The record of the levers as Markdown."""
    own = record["settings"]
    lines = [
        "# Settings of Referee Can Play, tried on training prompts", "",
        f"{own['limit']} training prompts of the embedded world, {own['pictures']} pictures each, {own['steps']} steps"
        " from the guidance-4 sample; one change at a time of the settings chosen in the end. In brackets: 95 %"
        " interval over prompts of the paired difference to that sample.", "",
        "| arm | s | CLIP | oracle | − guidance 4 |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["arms"]:
        lines.append(
            f"| {row['arm']} | {row['seconds']:.2f} | {row['clip']['mean']:.3f} | {row['oracle']['mean']:.3f}"
            f" | {_shown(row['oracle_over_guidance'])} |"
        )
    return "\n".join(lines) + "\n\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def arms(steps: int) -> dict[str, RefereeConfig]:
    """The study's arms: what keeps pictures honest, and where the latents start. Dear ones last."""
    alone = {"distill.weight": [0.0, 0.0]}
    found = {"distillation alone": setting(steps, {"referee_weight": 0.0})}
    # Without distillation the referee's move is as long as it was beside it.
    size = {"referee_weight": ALONE * CHOSEN["referee_weight"]}
    for number in VIEWS:
        found[f"referee and distillation, {number} views"] = setting(steps, {"views.number": number})
        found[f"referee alone, {number} views"] = setting(steps, {"views.number": number, **alone, **size})
    found["referee and distillation, 10 views, from noise"] = setting(
        2 * steps, {"views.number": 10, **NOISE}
    )
    found["distillation alone, from noise"] = setting(2 * steps, {"referee_weight": 0.0, **NOISE})
    return found


def study(world: World, kept: Kept, args: argparse.Namespace) -> dict[str, Any]:
    """All arms, each against plain sampling, distillation alone, and the best of as many as its time would draw."""
    found = {f"guidance {GUIDANCE:g}": kept.get(f"guidance {GUIDANCE:g}", lambda: guided(world, GUIDANCE))}
    drawn = kept.get("pool", lambda: pool(world, args.most))
    for name, settings in arms(args.steps).items():
        found[name] = kept.get(name, lambda settings=settings: arm(world, settings))  # type: ignore[misc]
    each = drawn["took"]["seconds"] / args.most
    groups = [prompt.id for prompt in world.prompts for _ in range(world.pictures)]
    table = []
    for name, entry in found.items():
        n = max(1, min(args.most, round(entry["took"]["seconds"] / each)))
        best = best_of(drawn, n)
        row: dict[str, Any] = {"arm": name, **entry["took"], "best_of": n}
        row["best_of_seconds"] = best["took"]["seconds"]
        for score in SCORES:
            row[score] = _said(mean_ci(entry[score], groups))
            others = {
                "guidance": found[f"guidance {GUIDANCE:g}"],
                "distillation": found["distillation alone"],
                "best": best,
            }
            for other, values in others.items():
                row[f"{score}_over_{other}"] = _said(paired_difference(values[score], entry[score], groups))
        table.append(row)
    bests = []
    for n in sorted({row["best_of"] for row in table} - {1}):
        best = best_of(drawn, n)
        row = {"arm": f"best of {n} by CLIP", **best["took"]}
        for score in SCORES:
            row[score] = _said(mean_ci(best[score], groups))
            plain_ones = found[f"guidance {GUIDANCE:g}"][score]
            row[f"{score}_over_guidance"] = _said(paired_difference(plain_ones, best[score], groups))
        bests.append(row)
    chosen = next(row for row in table if row["arm"] == ARM)
    return {
        "settings": common.settings_of(args, "levers", "device", "kept") | {"chosen": CHOSEN, "from noise": NOISE},
        "comparisons": [],
        "figures": [
            common.figure(f"{ARM}: oracle over {what}, low end", low(chosen[f"oracle_over_{key}"]), "", 0.0)
            for key, what in (
                ("guidance", "guidance 4"), ("distillation", "distillation alone"), ("best", "best of as many by CLIP"),
            )
        ],
        "more": {"arms": table, "best": bests, "honest": honest(found, groups)},
        "page": page,
    }  # fmt: skip


def honest(found: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    """What keeps pictures honest: the oracle with distillation less without it, and with views less without any."""
    kinds = {"both": "referee and distillation, {} views", "alone": "referee alone, {} views"}
    oracle = {
        (kind, number): found[name.format(number)]["oracle"]
        for kind, name in kinds.items()
        for number in VIEWS
    }
    by_distillation = {
        str(number): _said(paired_difference(oracle["alone", number], oracle["both", number], groups))
        for number in VIEWS
    }
    by_views = {
        kind: {
            str(number): _said(paired_difference(oracle[kind, VIEWS[0]], oracle[kind, number], groups))
            for number in VIEWS[1:]
        }
        for kind in kinds
    }
    return {"by_distillation": by_distillation, "by_views": by_views}


def low(said: Mapping[str, Any]) -> float:
    """The low end of an interval."""
    return float(said["ci95"][0])


def _said(estimate: Any) -> dict[str, Any]:
    return {"mean": estimate.mean, "ci95": estimate.interval}


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    own = record["settings"]
    lines = [
        "# Referee Can Play on the embedded world", "",
        f"{own['limit']} held-out prompts, {own['pictures']} pictures each. Every arm starts from the guidance-4 sample"
        f" of {own['sampler_steps']} steps of the same seed, unless it says from noise, and takes {own['steps']} steps"
        f" (from noise {2 * own['steps']}). The small CLIP is the referee, the oracle judges. In brackets: 95 %"
        " interval over prompts of the paired difference. Best of N: the N guidance-4 samples whose drawing and"
        " judging takes the arm's processor time (at most"
        f" {own['most']}), chosen by the same CLIP.", "",
        "| arm | s | rows | judged | CLIP | oracle | − guidance 4 | − distillation alone | − best of N | N |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["arms"]:
        lines.append(
            f"| {row['arm']} | {row['seconds']:.2f} | {row['rows']:.0f} | {row['judged']:.0f}"
            f" | {row['clip']['mean']:.3f} | {row['oracle']['mean']:.3f} | {_shown(row['oracle_over_guidance'])}"
            f" | {_shown(row['oracle_over_distillation'])} | {_shown(row['oracle_over_best'])} | {row['best_of']} |"
        )
    for row in record["best"]:
        lines.append(
            f"| {row['arm']} | {row['seconds']:.2f} | {row['rows']:.0f} | 0 | {row['clip']['mean']:.3f}"
            f" | {row['oracle']['mean']:.3f} | {_shown(row['oracle_over_guidance'])} | | | |"
        )
    said = record["honest"]
    lines += ["", "| what it adds to the oracle | views | with less without |", "|---|---|---|"]
    lines += [
        f"| distillation | {number} | {_shown(each)} |" for number, each in said["by_distillation"].items()
    ]
    for kind, which in said["by_views"].items():
        name = "views, beside distillation" if kind == "both" else "views, without distillation"
        lines += [f"| {name} | {number} | {_shown(each)} |" for number, each in which.items()]
    return "\n".join(lines) + "\n\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def _shown(said: Mapping[str, Any]) -> str:
    least, most = said["ci95"]
    return f"{said['mean']:+.3f} ({least:+.3f}…{most:+.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw all arms that are not kept yet, and write the record and its page; or try the levers."""
    parser = common.parser(
        "inversion",
        __doc__,
        "inversion",
        limit=(60, "prompts"),
        pictures=(4, "of each prompt"),
        steps=(10, "of an arm"),
        sampler_steps=(20, "of plain sampling"),
        batch=(80, "pictures at once"),
        most=(12, "candidates of best-of-N"),
        seed=22,
    )
    parser.add_argument("--levers", action="store_true", help="try settings on training prompts")
    parser.add_argument("--kept", type=Path, default=Path("runs/inversion-kept.json"), help="finished arms")
    parser.set_defaults(device="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    world = world_of(args)
    said = common.settings_of(args, "levers", "device", "kept") | {
        "chosen": {**CHOSEN},
        "of": LEVERS if args.levers else NOISE,
    }
    kept = Kept(args.kept, json.loads(json.dumps(said)))
    return common.run(args, lambda: (levers if args.levers else study)(world, kept, args))


if __name__ == "__main__":
    sys.exit(main())
