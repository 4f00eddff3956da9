"""Referee Can Play on the embedded world: ``python -m benchmarks.inversion``.

Its small CLIP is the referee, the oracle judges; every arm draws the same pictures of held-out prompts, paired by prompt
and seed with plain sampling at guidance 4, of which best-of-N by the same CLIP takes as much processor time as the arm.
``--levers`` tries settings on training prompts instead. Finished arms are kept in ``--kept`` and not drawn again.
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
        views=ViewsConfig(size=None, **part("views.")),
        distill=DistillConfig(**part("distill.")),
        restart=RestartConfig(every=None, **part("restart.")),
        **{name: value for name, value in values.items() if "." not in name},
    )


CHOSEN: dict[str, Any] = {
    "start": "sample",
    "referee_weight": 1.0,
    "noise": 0.05,
    "end_noise": 0.0,
    "distill.weight": [0.2, 0.1],
    "distill.guidance": 4.0,
    "distill.times": [0.05, 0.948],
    "views.number": 4,
}
# Tried on training prompts, one change at a time.
LEVERS: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "weight 0.3": {"referee_weight": 0.3},
    "weight 2": {"referee_weight": 2.0},
    "distill 0.4": {"distill.weight": [0.4, 0.2]},
    "distill 0.1": {"distill.weight": [0.1, 0.05]},
    "noise 0": {"noise": 0.0},
    "noise 0.2": {"noise": 0.2, "end_noise": 0.01},
    "guidance 7.5": {"distill.guidance": 7.5},
    "late times": {"distill.times": [0.02, 0.6]},
    "early times": {"distill.times": [0.4, 0.948]},
    "from noise": {"start": "noise", "distill.weight": [0.4, 0.2]},
    "distillation alone": {"referee_weight": 0.0},
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
        parts.append(plain(world, [texts[row] for row in rows.tolist()], [seeds[row] for row in rows.tolist()]))
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


def levers(world: World, kept: Kept, steps: int) -> None:
    """Try settings on training prompts: say how far each is from plain sampling."""
    base = kept.get("guidance 4", lambda: guided(world, GUIDANCE))
    groups = [prompt.id for prompt in world.prompts for _ in range(world.pictures)]
    for name, own in LEVERS.items():
        found = kept.get(name, lambda own=own: arm(world, setting(steps, own)))  # type: ignore[misc]
        gain = paired_difference(base["oracle"], found["oracle"], groups)
        print(
            f"    {gain.mean:+.3f} ({gain.low:+.3f}…{gain.high:+.3f}), distillation's move"
            f" {found['took']['distilled']:.3f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler-steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=80)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--kept", type=Path, default=Path("/tmp/rcp-kept.json"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    world = world_of(args)
    kept = Kept(args.kept, {"limit": args.limit, "pictures": args.pictures, "steps": args.steps, "seed": args.seed})
    levers(world, kept, args.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
