"""Steering against targets known in closed form: ``python -m benchmarks.steering``.

Gaussian mixtures under linear and quadratic rewards, whose tilt p · exp(r/α) is again a mixture, in 2 and 16
dimensions: how the error falls with the particles, whether log Ẑ is unbiased, how far the drawn pictures are from the
target at equal forwards (DAS, gradient guidance, best of N), and what one solution for the adaptive temper costs.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.closed_form import LatentPotential, LatentReward, quadratic, tilted
from mitune.analytic import AnalyticDenoiser
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.search.catalogue import SearchConfig
from mitune.search.resampling import effective_sample_size
from mitune.search.smc import Steered, steer
from mitune.search.tempering import largest_temper

Row = dict[str, Any]
SCHEDULE = NoiseSchedule.ddpm(rescale_zero_terminal_snr=True)
KINDS = ("linear", "quadratic")
STRENGTHS = (1.0, 2.0)  # 1/α in the table of distances


class CommonNoise:
    """All rows' noise [n, …] from one generator: quick for very large populations of a very small model.

    A particle then cannot be drawn again alone, as it can with a stream of its own.
    """

    def __init__(self, n: int, shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape, self._dtype = (n, *shape), dtype

    seeds: Sequence[int] = ()

    def next(self) -> Tensor:
        """The next map of every row."""
        return torch.randn(self._shape, generator=self._generator, dtype=self._dtype)

    def select(self, rows: Sequence[int]) -> None:
        """Nothing to do: rows are fresh at every step."""


def draw(steered: Steered, count: int, seed: int = 0) -> Tensor:
    """Indices [P, count] of particles drawn by their weights, with replacement."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(steered.log_weights.exp(), count, replacement=True, generator=generator)


def mixture(dimensions: int) -> AnalyticDenoiser:
    """Three clouds of unit variance at distance 2.5 from the middle."""
    generator = torch.Generator().manual_seed(dimensions)
    means = torch.randn(3, dimensions, generator=generator, dtype=torch.float64)
    means = 2.5 * means / means.norm(dim=1, keepdim=True)
    return AnalyticDenoiser(means, [1.0] * 3, {"a": [1, 2, 3]}, {"a": 1.0}, SCHEDULE, "v_prediction")


def tilt(kind: str, dimensions: int, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """(slope, curvature) of ``strength`` times the reward: |slope| = 1.2, or a well of depth 1.5 in every second
    dimension.
    """
    number = torch.arange(dimensions, dtype=torch.float64)
    slope = strength * (-1.0) ** number * 1.2 / dimensions**0.5
    if kind == "linear":
        return slope, torch.zeros(dimensions, dtype=torch.float64)
    return slope, strength * (number % 2) * 3.0 / dimensions


def sampler(steps: int) -> SamplerConfig:
    """The ancestral one with the wide variance: exact for each cloud alone, so little but Monte-Carlo error is left."""
    return SamplerConfig("ddpm", steps, variance="large", guidance=1.0, spacing="trailing")


def population(
    dimensions: int,
    kind: str,
    repeats: int,
    particles: int,
    steps: int,
    seed: int,
    strength: float = 1.0,
    **settings: Any,
) -> Steered:
    """``repeats`` independent populations of ``particles``."""
    denoiser = mixture(dimensions)
    slope, curvature = tilt(kind, dimensions, strength)
    reward = LatentReward(kind, lambda z, _: quadratic(z, slope, curvature))
    n = repeats * particles
    return steer(
        denoiser, ["a"] * repeats, range(seed, seed + n), sampler(steps), LatentPotential(reward, denoiser),
        SearchConfig(**settings), noise=CommonNoise(n, (dimensions,), seed), batch_size=8192,
    )  # fmt: skip


# -- convergence -----------------------------------------------------------------------------------------------


def moments(z: Tensor, weights: Tensor, centres: Tensor) -> dict[str, Tensor]:
    """Weighted mean [R, d], covariance [R, d·d], share of points nearest to each centre [R, K] of z [R, N, d]."""
    mean = torch.einsum("rn,rnd->rd", weights, z)
    off = z - mean.unsqueeze(1)
    covariance = ((off * weights.unsqueeze(2)).transpose(1, 2) @ off).flatten(1)
    nearest = torch.cdist(z, centres.expand(len(z), -1, -1)).argmin(-1)
    masses = torch.stack([(weights * (nearest == k)).sum(1) for k in range(len(centres))], 1)
    return {"mean": mean, "covariance": covariance, "masses": masses}


def exact(target: AnalyticDenoiser, draws: int, seed: int) -> dict[str, Tensor]:
    """The moments of the closed-form target; only the masses, with their tails, are counted from ``draws``."""
    weights = target.encode_prompts(["a"]).tensors["log_weights"][0].exp()
    mean = weights @ target.means
    off = target.means - mean
    covariance = torch.diag(weights @ target.variances) + torch.einsum("k,kd,ke->de", weights, off, off)
    z = target.sample(["a"] * draws, torch.Generator().manual_seed(seed))
    counted = moments(z.unsqueeze(0), torch.full((1, draws), 1 / draws, dtype=torch.float64), target.means)
    return {"mean": mean, "covariance": covariance.flatten(), "masses": counted["masses"][0]}


def slope_of(sizes: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of log error on log N."""
    x, y = (torch.tensor([math.log(value) for value in values]) for values in (sizes, errors))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def convergence(
    cases: Sequence[tuple[int, str]],
    sizes: Sequence[int],
    rows: int,
    reference: int,
    steps: int,
    say: Callable[[str], None],
) -> tuple[list[Row], list[Row]]:
    """(a row for each case and N, a row of slopes for each case).

    Errors are root mean squares over repeats and entries, against the sampler's own tilted distribution (one population
    of ``reference`` particles, other noise) and against the closed form, which a sampler of finitely many steps misses.
    """
    table, slopes = [], []
    for dimensions, kind in cases:
        log_z, target = tilted(mixture(dimensions), "a", *tilt(kind, dimensions))
        say(f"{kind}, {dimensions} dimensions: reference of {reference} particles")
        big = population(dimensions, kind, 1, reference, steps, 77, tempering="linear")
        own = {
            name: values[0]
            for name, values in moments(big.latents, big.log_weights.exp(), target.means).items()
        }
        limit = exact(target, 4 * reference, 5)
        ours = []
        for particles in sizes:
            repeats = max(2, min(256, rows // particles))
            say(f"{kind}, {dimensions} dimensions: {repeats} populations of {particles}")
            out = population(
                dimensions, kind, repeats, particles, steps, 1000 + particles, tempering="linear"
            )
            found = moments(out.latents, out.log_weights.exp(), target.means)
            ratio = (out.log_evidence - big.log_evidence).exp()
            row: Row = {
                "dimensions": dimensions, "reward": kind, "particles": particles, "repeats": repeats,
                "evidence": float(ratio.mean()), "evidence_error": float(ratio.std()) / repeats**0.5,
            }  # fmt: skip
            for name, values in found.items():
                row[name] = float((values - own[name]).square().mean().sqrt())
                row[f"{name}_closed_form"] = float((values - limit[name]).square().mean().sqrt())
            ours.append(row)
        table += ours
        slopes.append(
            {
                "dimensions": dimensions, "reward": kind,
                "evidence_of_the_sampler": float((big.log_evidence[0] - log_z).exp()),
                **{
                    name: slope_of(sizes, [row[name] for row in ours])
                    for name in (*own, *(f"{name}_closed_form" for name in own))
                },
                "bias": {name: float((own[name] - limit[name]).square().mean().sqrt()) for name in own},
            }
        )  # fmt: skip
    return table, slopes


def evidence_figure(table: Sequence[Row]) -> dict[str, Any]:
    """How far the mean of Ẑ is off at worst, in standard errors; of few repeats these are no measure, and set apart."""
    off: dict[bool, list[float]] = {True: [], False: []}
    for row in table:
        off[row["repeats"] >= 30].append(abs(row["evidence"] - 1) / row["evidence_error"])
    note = f"over the {len(off[True])} cases of 30 repeats and more; the reference has an error of its own, not counted"
    if off[False]:
        note += f"; over the {len(off[False])} of fewer (down to 2) it is {max(off[False]):.1f} of theirs"
    return common.figure(
        "largest deviation of the mean of Ẑ", max(off[True], default=None), "standard errors", note=note
    )


# -- distance at equal forwards --------------------------------------------------------------------------------


def sliced_wasserstein(one: Tensor, other: Tensor, directions: int = 200) -> float:
    """Root mean square over directions of the 2-Wasserstein distance of the projections of two sets [n, d]."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.randn(one.shape[1], directions, generator=generator, dtype=torch.float64)
    axes = axes / axes.norm(dim=0)
    gaps = (one @ axes).sort(0).values - (other @ axes).sort(0).values
    return float(gaps.square().mean().sqrt())


def distances(
    cases: Sequence[tuple[int, str]], repeats: int, budget: int, steps: int, say: Callable[[str], None]
) -> list[Row]:
    """One picture a population of ``budget`` paths, drawn ``repeats`` times: distance to the target, and its reward."""
    table = []
    for (dimensions, kind), strength in itertools.product(cases, STRENGTHS):
        well = tilt(kind, dimensions, strength)
        _, target = tilted(mixture(dimensions), "a", *well)
        truth, again = (
            target.sample(["a"] * repeats, torch.Generator().manual_seed(seed)) for seed in (11, 12)
        )

        go = functools.partial(
            population, dimensions, kind, repeats, budget, steps, strength=strength
        )  # with a seed and how it is steered
        say(f"distances: {kind}, {dimensions} dimensions, strength {strength:g}")
        linear = {"tempering": "linear"}
        runs = {
            "DAS, gradient proposals": go(1, ess=0.5, **linear),
            "DAS, adaptive tempering": go(2, ess=0.5),
            "DAS, bootstrap proposals": go(3, ess=0.5, proposal="bootstrap", **linear),
            "plain": go(4, ess=0.0, proposal="bootstrap", **linear),
            "guided": go(5, ess=0.0, tempering="constant"),
        }
        each = torch.arange(repeats)

        def best(out: Steered, each: Tensor = each) -> Tensor:
            return out.latents[each, out.potential.argmax(1)]

        methods = {
            name: out.latents[each, draw(out, 1, 9)[:, 0]] for name, out in runs.items() if "DAS" in name
        } | {
            "gradient guidance (same drift, no weights)": runs["guided"].latents[:, 0],
            f"gradient guidance, best of {budget}": best(runs["guided"]),
            f"best of {budget}": best(runs["plain"]),
            "no steering": runs["plain"].latents[:, 0],
            "exact draws": again,
        }
        for name, z in methods.items():
            table.append(
                {
                    "dimensions": dimensions, "reward": kind, "strength": strength, "method": name,
                    "distance": sliced_wasserstein(z, truth),
                    "mean_reward": float(quadratic(z, *well).mean()),
                    "target_reward": float(quadratic(truth, *well).mean()),
                }
            )  # fmt: skip
    return table


# -- one temper ------------------------------------------------------------------------------------------------


def adam_temper(
    base: Tensor, slope: Tensor, low: Tensor, high: Tensor, share: float, iterations: int = 3000
) -> Tensor:
    """The temper by gradient descent: Adam on the squared gap of the ESS, all prompts at once, until all are met."""
    temper = ((low + high) / 2).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([temper], lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.998)
    for _ in range(iterations):
        optimizer.zero_grad()
        gap = effective_sample_size(base + temper.unsqueeze(1) * slope) / slope.shape[1] - share
        if float(gap.detach().abs().max()) < 1e-6:
            break
        gap.square().sum().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            temper.clamp_(low, high)
    return temper.detach()


def one_temper(prompts: int, particles: int, repeats: int) -> Row:
    """Seconds of our solver against Adam's on the same weights, and how far their solutions are apart."""
    generator = torch.Generator().manual_seed(8)
    slope = 5 * torch.randn(prompts, particles, generator=generator, dtype=torch.float64)
    base = torch.zeros_like(slope)
    low, high = torch.zeros(prompts, dtype=torch.float64), torch.ones(prompts, dtype=torch.float64)
    ours, theirs = (solve(base, slope, low, high, 0.5) for solve in (largest_temper, adam_temper))
    apart = common.agree("tempers", float((ours - theirs).abs().max()), 1e-3)
    seconds = common.interleave(
        {
            "bisection": lambda: largest_temper(base, slope, low, high, 0.5),
            "Adam": lambda: adam_temper(base, slope, low, high, 0.5),
        },
        repeats,
    )
    return common.comparison(
        "adaptive tempering", seconds, "bisection", "Adam", at_most=1 / 50,
        agreement={"largest difference of λ": apart},
        note=f"{prompts} prompts x {particles} particles at once, both vectorised over prompts",
    )  # fmt: skip


# -- the record ------------------------------------------------------------------------------------------------


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    settings = record["settings"]
    lines = [
        "# Steering against closed forms", "",
        "## Convergence", "",
        f"Root-mean-square error of the weighted mean, covariance and mode masses of DAS (gradient proposals, linear"
        f" tempering, SSP) at {settings['steps']} steps, against the sampler's own tilted distribution (a population of"
        f" {settings['reference']}); Ẑ relative to that of the same population, with its standard error.", "",
        "| dimensions | reward | particles | repeats | mean | covariance | masses | Ẑ |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {row['dimensions']} | {row['reward']} | {row['particles']} | {row['repeats']} | {row['mean']:.4f} "
        f"| {row['covariance']:.4f} | {row['masses']:.4f} | {row['evidence']:.4f} ± {row['evidence_error']:.4f} |"
        for row in record["convergence"]
    ]
    lines += [
        "", "Slopes of log error on log N; in brackets against the closed form, which the sampler's finitely many steps"
        " miss by the bias in the last column (mean / covariance / masses).", "",
        "| dimensions | reward | mean | covariance | masses | sampler's Z / closed form | bias |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["slopes"]:
        cells = [
            f"{row[name]:.3f} ({row[name + '_closed_form']:.3f})" for name in ("mean", "covariance", "masses")
        ]
        bias = " / ".join(f"{row['bias'][name]:.4f}" for name in ("mean", "covariance", "masses"))
        lines.append(
            f"| {row['dimensions']} | {row['reward']} | {' | '.join(cells)} "
            f"| {row['evidence_of_the_sampler']:.4f} | {bias} |"
        )
    lines += [
        "", "## Distance to the target at equal forwards", "",
        f"One picture from {settings['budget']} paths of {settings['distance_steps']} steps, {settings['draws']} times:"
        " sliced 2-Wasserstein distance to as many exact draws of the target, and mean reward (its own: in brackets);"
        " other exact draws are the least distance that so many pictures can show. Strength: a factor on the reward."
        " Gradients also cost a backward pass.", "",
        "| dimensions | reward | strength | method | distance | mean reward |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {row['dimensions']} | {row['reward']} | {row['strength']:g} | {row['method']} | {row['distance']:.3f} "
        f"| {row['mean_reward']:.3f} ({row['target_reward']:.3f}) |"
        for row in record["distances"]
    ]
    return "\n".join(lines) + "\n\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = common.parser(
        "steering",
        __doc__,
        rows=(32768, "particles of all repeats at one N"),
        reference=(131072, "particles of the reference population"),
        steps=(25, "of the sampler, in the table of convergence"),
        draws=(4000, "pictures of each method, in the table of distances"),
        budget=(16, "paths a picture"),
        distance_steps=(100, "of the sampler, in the table of distances"),
        repeats=(7, "of the timing"),
    )
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--particles", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--out", type=Path, default=common.RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``steering.json`` and ``steering.md``, print the page."""
    args = arguments(argv)
    load_before = common.machine()["load_average"]

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    cases = [(dimensions, kind) for dimensions in args.dimensions for kind in KINDS]
    timing = one_temper(8, 64, args.repeats)
    table, slopes = convergence(cases, args.particles, args.rows, args.reference, args.steps, say)
    distance = distances(cases, args.draws, args.budget, args.distance_steps, say)
    figures = [
        common.figure(f"slope of the {name}, {row['dimensions']} dimensions, {row['reward']}", row[name], "")
        for row in slopes
        for name in ("mean", "covariance", "masses")
    ]
    figures.append(evidence_figure(table))
    more = {"convergence": table, "slopes": slopes, "distances": distance}
    record = common.write(
        "steering",
        common.settings_of(args, "repeats"),
        [timing],
        figures,
        args.out,
        load_before=load_before,
        more=more,
        page=page,
    )
    print(page(record))


if __name__ == "__main__":
    main()
