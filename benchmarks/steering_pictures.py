"""Steering pictures of the embedded world by its small CLIP: ``python -m benchmarks.steering_pictures``.

Every method makes ``--pictures`` independent pictures of each held-out prompt, each from its own ``N`` paths, so all
spend the same number of network rows a picture. The CLIP is what they climb; the oracle, the model's own ``contrast``
and the JPEG size never see it. How alike the pictures of a prompt become is the price.
"""

from __future__ import annotations

import argparse
import math
import re
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
from benchmarks.fidelity import truncated_entropy
from mitune.config import compose
from mitune.evaluate.bootstrap import mean_ci, paired_difference, paired_ratio
from mitune.evaluate.diversity import by_prompt
from mitune.evaluate.drawings import as_png, panels
from mitune.families import load_denoiser
from mitune.files import write_bytes
from mitune.referees.weighted import load_reward
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.search.catalogue import SearchConfig
from mitune.search.potentials import RewardPotential, path_potential
from mitune.search.smc import steer
from mitune.stages.inputs import read_prompts, sampler_of, scoring_of, whole_pool
from mitune.tasks import Task

METHODS = ("base", "best", "guidance", "das", "bootstrap", "llr")
ARMS = ("base:1", "best:8", "guidance:8@0.1", "das:8@0.1", "bootstrap:8@0.1", "llr:8@4")
SCORES = ("clip", "oracle", "exact", "contrast", "jpeg")
DIVERSITY, RANK = 0.8, 20
_ARM = re.compile(r"(?P<method>[a-z]+):(?P<paths>\d+)(@(?P<alpha>[\d.]+))?")


@dataclass(frozen=True)
class Arm:
    """``method:N[@alpha]``: N paths a picture."""

    name: str
    method: str
    paths: int
    alpha: float | None

    @staticmethod
    def read(text: str) -> Arm:
        """Raises argparse's error for what is no method."""
        match = _ARM.fullmatch(text)
        if (
            not match
            or match["method"] not in METHODS
            or (match["method"] in ("base", "best")) != (match["alpha"] is None)
        ):
            raise argparse.ArgumentTypeError(
                f"{text}: a method is base:1, best:N, or guidance:N@ALPHA, das:N@ALPHA, bootstrap:N@ALPHA, llr:N@ALPHA"
            )
        return Arm(
            text, match["method"], int(match["paths"]), float(match["alpha"]) if match["alpha"] else None
        )


@dataclass(frozen=True)
class World:
    """What all methods share."""

    denoiser: Any
    sampler: SamplerConfig
    reward: Any
    prompts: Sequence[Task]
    pictures: int
    seed: int
    batch_size: int
    at_once: int


@torch.no_grad()
def draw(world: World, arm: Arm) -> tuple[Tensor, dict[str, float]]:
    """Latents [P · pictures, …], prompt by prompt, and network rows, backward rows and seconds of each picture."""
    began, before, parts = time.perf_counter(), world.denoiser.forwards, []
    for start in range(0, len(world.prompts), world.at_once):
        chunk = [prompt.text for prompt in world.prompts[start : start + world.at_once]]
        texts = [text for text in chunk for _ in range(world.pictures)]  # one population a picture
        seeds = [
            candidate_seed(world.seed, text, number)
            for text in chunk
            for number in range(world.pictures * arm.paths)
        ]
        parts.append(_populations(world, arm, texts, seeds))
    made = len(world.prompts) * world.pictures
    rows = (world.denoiser.forwards - before) / made
    uphill = arm.method in ("guidance", "das")
    return torch.cat(parts), {
        "rows": rows,
        "backward": rows if uphill else 0.0,
        "seconds": (time.perf_counter() - began) / made,
    }


def _populations(world: World, arm: Arm, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """One latent of each population [len(texts), …]."""
    n = arm.paths
    if arm.method in ("base", "best"):
        each = [text for text in texts for _ in range(n)]
        parts = []
        for rows in torch.arange(len(seeds)).split(world.batch_size):
            own = [each[row] for row in rows.tolist()]
            condition = world.denoiser.encode_prompts(own)
            parts.append(
                sample(world.denoiser, condition, [seeds[row] for row in rows.tolist()], world.sampler)
            )
        latents = torch.cat(parts)
        rewards = _rewards(world, latents, each) if n > 1 else torch.zeros(len(latents))
        return _pick(latents.unflatten(0, (-1, n)), rewards.view(-1, n).argmax(1))
    potential: Any = RewardPotential(world.reward, world.denoiser)
    if arm.method == "llr":
        potential = path_potential(world.denoiser, texts, n, "llr", batch_size=world.batch_size)
    assert arm.alpha is not None
    guided = arm.method == "guidance"  # the gradient's pull alone: no weights, nobody resampled
    settings = SearchConfig(
        alpha=arm.alpha,
        proposal="gradient" if arm.method in ("guidance", "das") else "bootstrap",
        tempering="constant" if guided else "adaptive",
        ess=0.0 if guided else 0.5,
        max_drift=1.0,
    )
    out = steer(
        world.denoiser,
        list(texts),
        list(seeds),
        world.sampler,
        potential,
        settings,
        batch_size=world.batch_size,
    )
    if guided:  # the best by the reward, as among plain ones
        return _pick(out.latents, out.potential.nan_to_num(nan=-math.inf).argmax(1))
    drawn = torch.multinomial(
        out.log_weights.exp(), 1, generator=torch.Generator().manual_seed(seeds[0] % 2**31)
    )
    return _pick(out.latents, drawn.squeeze(1))


def _pick(latents: Tensor, chosen: Tensor) -> Tensor:
    return latents[torch.arange(len(latents)), chosen.to(latents.device)]


def _rewards(world: World, latents: Tensor, texts: Sequence[str]) -> Tensor:
    parts = [
        world.reward.score(world.denoiser.decode(latents[rows]), [texts[row] for row in rows.tolist()])
        for rows in torch.arange(len(latents)).split(world.batch_size)
    ]
    return torch.cat(parts).cpu()


def judge(world: World, scoring: Any, latents: Tensor) -> tuple[dict[str, np.ndarray], list[Tensor], Tensor]:
    """Scores of the pictures, the pictures on the CPU, and their features in the CLIP's space."""
    texts = [prompt.text for prompt in world.prompts for _ in range(world.pictures)]
    seeds = [candidate_seed(world.seed, text, 10_000 + row) for row, text in enumerate(texts)]
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    pictures, features = [], []
    with torch.no_grad():
        for rows in torch.arange(len(latents)).split(world.batch_size):
            own = [texts[row] for row in rows.tolist()]
            shown = world.denoiser.decode(latents[rows])
            scores = scoring.on_latents(latents[rows], own, [seeds[row] for row in rows.tolist()])
            scores |= scoring.on_pictures(shown, own)
            for name in SCORES:
                found[name].append(scores[name].double().cpu())
            pictures.append(shown.cpu())
            features.append(world.reward.clip.image_features(shown).cpu())
    return (
        {name: torch.cat(each).numpy() for name, each in found.items()},
        list(torch.cat(pictures)),
        torch.cat(features),
    )


def rows_of(world: World, found: Mapping[str, Any], best: str) -> list[dict[str, Any]]:
    """The table: every method's means with intervals, its oracle against ``best``'s, its diversity against base."""
    groups = [prompt.id for prompt in world.prompts for _ in range(world.pictures)]
    prompts = [prompt.id for prompt in world.prompts]
    base = next(name for name in found if name.startswith("base"))
    # Of each prompt, in the order of ``prompts``.
    spread = {
        name: {
            "pixels": list(by_prompt(entry["pictures"], groups).values()),
            "clip": list(_clip_distance(entry["features"], groups).values()),
        }
        for name, entry in found.items()
    }
    rank = min(RANK, len(groups) - len(prompts))
    entropy = {name: truncated_entropy(entry["features"], groups, rank) for name, entry in found.items()}
    table = []
    for name, entry in found.items():
        row: dict[str, Any] = {"method": name, **entry["cost"]}
        for score in SCORES:
            estimate = mean_ci(entry["scores"][score], groups)
            row[score] = {"mean": estimate.mean, "ci95": estimate.interval}
        for score in ("oracle", "clip"):
            estimate = paired_difference(found[best]["scores"][score], entry["scores"][score], groups)
            row[f"{score}_over_best"] = {"mean": estimate.mean, "ci95": estimate.interval}
        for kind in ("pixels", "clip"):
            ratio = paired_ratio(spread[base][kind], spread[name][kind], prompts)
            row[f"diversity_{kind}"] = {"ratio": ratio.mean, "ci95": ratio.interval}
        row["entropy"] = entropy[name] - entropy[base]
        table.append(row)
    return table


def _clip_distance(features: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Mean over a prompt's pairs of 1 − cosine."""
    found = {}
    for group in dict.fromkeys(groups):
        own = features[torch.tensor([each == group for each in groups])].double()
        pairs = own @ own.T
        n = len(own)
        found[group] = float(1 - (pairs.sum() - pairs.diagonal().sum()) / (n * (n - 1)))
    return found


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    settings, best = record["settings"], record["best"]
    lines = [
        "# Steering pictures of the embedded world", "",
        f"{settings['limit']} held-out prompts, {settings['pictures']} pictures each, one from each population of N"
        f" paths of {settings['steps']} steps; reward: the world's small CLIP (CLIPScore). Means, with the 95 %"
        f" interval over prompts of the difference to {best}; diversity: mean distance of the pictures of a prompt over"
        " that of the base, in pixels and in CLIP's space; entropy: truncated CLIP entropy less the base's, in nats."
        " Rows: network rows a picture; where a gradient is taken they are run backwards too, so see the seconds.", "",
        f"| method | rows | s | CLIP | oracle | − {best} | exact | contrast | JPEG | diversity | in CLIP | entropy |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["methods"]:
        low, high = row["oracle_over_best"]["ci95"]
        over = (
            ""
            if row["method"] == best
            else f"{row['oracle_over_best']['mean']:+.3f} ({low:+.3f}…{high:+.3f})"
        )
        lines.append(
            f"| {row['method']} | {row['rows']:.0f} | {row['seconds']:.2f} | {row['clip']['mean']:.3f} "
            f"| {row['oracle']['mean']:.3f} | {over} | {row['exact']['mean']:.2f} | {row['contrast']['mean']:.2f} "
            f"| {row['jpeg']['mean']:.2f} | {row['diversity_pixels']['ratio']:.2f} "
            f"| {row['diversity_clip']['ratio']:.2f} | {row['entropy']:+.1f} |"
        )
    return "\n".join(lines) + "\n\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def figures_of(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was to be reached, by the best of the DAS rows that keep the diversity."""
    steered = [row for row in table if row["method"].startswith(("das", "bootstrap"))]
    kept = [row for row in steered if row["diversity_pixels"]["ratio"] >= DIVERSITY] or steered
    if not kept:
        return []
    top = max(kept, key=lambda row: row["oracle"]["mean"])
    name = top["method"]
    return [
        common.figure(f"{name}: oracle above best-of-N", top["oracle_over_best"]["mean"], "", 0.0),
        common.figure(f"{name}: diversity over the base's", top["diversity_pixels"]["ratio"], "", DIVERSITY),
    ]


def plot(table: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG: the truth reached, and what it cost in diversity."""
    figure, (axes,) = panels(6.4, 3.2)
    for row in table:
        point = row["diversity_pixels"]["ratio"], row["oracle"]["mean"]
        axes.plot(*([value] for value in point), marker="o", color="#d9731a")
        axes.annotate(row["method"], point, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel("diversity of a prompt's pictures, over the base's")
    axes.set_ylabel("oracle")
    return as_png(figure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Draw by every method, judge, compare."""
    if args.threads:
        torch.set_num_threads(args.threads)
    overrides = [
        "experiment=shapes",
        f"evaluate.prompts.limit={args.limit}",
        f"sampler.steps={args.steps}",
        "sampler.name=ddim",
    ]
    config: DictConfig = compose(overrides)
    settings: Any = {"clip": {**config.scorer.clip}}
    denoiser = load_denoiser(config.model)
    world = World(
        denoiser=denoiser,
        sampler=sampler_of(config, denoiser, args.guidance),
        reward=load_reward("clip", settings),
        prompts=read_prompts(config.evaluate.prompts),
        pictures=args.pictures,
        seed=args.seed,
        batch_size=args.batch,
        at_once=args.at_once,
    )
    scoring = scoring_of(
        config, world.denoiser, ["clip", "oracle", "contrast", "jpeg"], lambda: whole_pool(config)
    )
    found: dict[str, Any] = {}
    for arm in args.arms:
        latents, cost = draw(world, arm)
        scores, pictures, features = judge(world, scoring, latents)
        found[arm.name] = {"cost": cost, "scores": scores, "pictures": pictures, "features": features}
        print(
            f"{arm.name}: {cost['rows']:.0f} rows, {cost['seconds']:.2f} s a picture, CLIP {scores['clip'].mean():.3f},"
            f" oracle {scores['oracle'].mean():.3f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    best = next((name for name in found if name.startswith("best")), args.arms[0].name)
    table = rows_of(world, found, best)
    write_bytes(Path(args.out) / f"{args.name}.png", plot(table))
    settings = common.settings_of(args, "arms", "threads", "device") | {
        "arms": [arm.name for arm in args.arms],
        "guidance": world.sampler.guidance,
    }
    return {
        "settings": settings,
        "comparisons": [],
        "figures": figures_of(table),
        "more": {"best": best, "methods": table},
        "page": page,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the record, its page and its plot."""
    parser = common.parser(
        "steering_pictures",
        __doc__,
        "steering_pictures",
        limit=(60, "held-out prompts"),
        pictures=(4, "of each prompt"),
        steps=20,
        batch=(96, "paths a forward"),
        at_once=(6, "prompts whose populations walk together"),
        seed=11,
        threads=0,
    )
    parser.add_argument("--arms", type=Arm.read, nargs="+", default=[Arm.read(text) for text in ARMS])
    parser.add_argument(
        "--guidance", type=float, default=None, help="classifier-free (default: the preset's)"
    )
    parser.set_defaults(device="cpu")
    args = parser.parse_args(argv)
    return common.run(args, lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
