"""Every estimator of i(z; c) against the exact one, per forward spent: ``python -m benchmarks.estimators``.

Gaussian mixtures whose denoiser, likelihoods and divergences are known in closed form stand in for the model, so all
error is the estimator's. Three tables: single pictures (correlation, slope, RMSE), averages over pictures (20 seeds)
and strategies of time. With ``--model`` also the time of ``mi`` and ``elbo`` in one pass against ``elbo`` alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from mitune.analytic import AnalyticDenoiser
from mitune.information.catalogue import LLRImageConfig
from mitune.information.elbo import elbo, mi_and_elbo
from mitune.information.llr import PathLLR, llr_image
from mitune.information.mi import PathMI, measure_profile
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample

Row = dict[str, Any]
SCHEDULES = {"ddpm": NoiseSchedule.ddpm(), "flow": NoiseSchedule.rectified_flow()}
LABELS = ("a", "b", "c", "d")
T_MIN = 20  # of pictures; of 1000 times all are visited
ROWS = 4000  # of a forward


def mixture(dimensions: int, strength: float, schedule: NoiseSchedule) -> AnalyticDenoiser:
    """Eight clouds of unequal covariance and four labels, which own two of them each to the degree ``strength``."""
    generator = torch.Generator().manual_seed(dimensions)
    means = torch.randn(8, dimensions, generator=generator, dtype=torch.float64) * 1.4 / dimensions**0.5
    variances = 0.2 + 0.2 * torch.rand(8, dimensions, generator=generator, dtype=torch.float64)
    common_weights = torch.rand(8, generator=generator, dtype=torch.float64)
    own = torch.eye(4, dtype=torch.float64).repeat_interleave(2, 1) / 2
    weights = {
        label: strength * own[k] + (1 - strength) * common_weights / common_weights.sum()
        for k, label in enumerate(LABELS)
    }
    return AnalyticDenoiser(means, variances, weights, dict.fromkeys(LABELS, 0.25), schedule)


def labels_of(n: int) -> list[str]:
    """The four labels in turn."""
    return [LABELS[row % 4] for row in range(n)]


def quality(estimate: Tensor, exact: Tensor) -> dict[str, float]:
    """Pearson r, slope of the estimate on the exact value, root mean squared error in nats."""
    estimate = estimate.double()
    one, other = estimate - estimate.mean(), exact - exact.mean()
    return {
        "r": float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()),
        "slope": float((one * other).sum() / other.square().sum()),
        "rmse": float((estimate - exact).square().mean().sqrt()),
    }


# -- single pictures -------------------------------------------------------------------------------------------


def observers(schedule: NoiseSchedule) -> dict[str, Any]:
    """What watches the sampler, by its name in the table."""
    found = {
        "mi, path": PathMI(schedule),
        "mi (continuous), path": PathMI(schedule, "continuous", t_min=0),
        "llr, path": PathLLR(),
        "llr (narrow kernel), path": PathLLR("path"),
        "llr with tail, path": PathLLR(tail=True),
    }
    for name, observer in found.items():
        observer.name = name
    return found


def on_pictures(
    denoiser: AnalyticDenoiser, z0: Tensor, labels: Sequence[str], times: int
) -> dict[str, Tensor]:
    """Estimates on forward noise, each for 2 · times forwards a picture."""
    schedule, n = denoiser.schedule, len(z0)
    low = T_MIN if times < 900 else 0
    condition, seeds = denoiser.encode_prompts(list(labels)), range(n)
    t, weights = time_grid(schedule, times, low, 1000)
    mi, bound = mi_and_elbo(denoiser, z0, condition, Noising(t, weights, seeds, ROWS))
    found = {"mi, image": mi, "elbo, independent": bound}
    found["mi (orthogonal), image"] = mi_and_elbo(
        denoiser, z0, condition, Noising(t, weights, seeds, ROWS), form="orthogonal"
    )[0]
    found["elbo, antithetic"] = elbo(denoiser, z0, condition, Noising(t, weights, seeds, ROWS, "antithetic"))
    found["elbo, coupled = llr, image, 1 path"] = elbo(
        denoiser, z0, condition, Noising(t, weights, seeds, ROWS, "coupled")
    )
    half = time_grid(schedule, times // 2, low, 1000).t
    found["llr, image, 2 paths of half the times"] = llr_image(
        denoiser, z0, condition, Noising(half, torch.ones_like(half), seeds, ROWS), LLRImageConfig(paths=2)
    )
    return found


def single_pictures(
    schedules: Iterable[str],
    cases: Sequence[tuple[int, float]],
    steps: Sequence[int],
    guidances: Sequence[float],
    n: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Rows (schedule, guidance, T, case, estimator) with ``quality`` and the forwards spent on a picture."""
    rows = []
    labels = labels_of(n)
    for name in schedules:
        for dimensions, strength in cases:
            denoiser = mixture(dimensions, strength, SCHEDULES[name])
            condition = denoiser.encode_prompts(labels)
            for guidance in guidances:
                where: Row = {
                    "schedule": name, "guidance": guidance, "dimensions": dimensions, "strength": strength,
                }  # fmt: skip
                pool: Tensor | None = None  # the pictures of the finest path, for every T
                for count in sorted(steps, reverse=True):
                    say(f"{name}, guidance {guidance:g}, {dimensions} dimensions, T = {count}")
                    watching = observers(denoiser.schedule)
                    sampler = SamplerConfig("ddpm", count, guidance=guidance, spacing="trailing")
                    z = sample(denoiser, condition, range(n), sampler, list(watching.values()))
                    pool = z if pool is None else pool
                    exact = denoiser.information(z, labels)
                    for label, observer in watching.items():
                        rows.append(
                            where | {"T": count, "estimator": label, "forwards": 2 * count, "extra": 0}
                            | {"std_exact": float(exact.std())} | quality(observer.result(), exact)
                        )  # fmt: skip
                    exact = denoiser.information(pool, labels)
                    for label, values in on_pictures(denoiser, pool, labels, count).items():
                        rows.append(
                            where | {"T": count, "estimator": label, "forwards": 2 * count, "extra": 2 * count}
                            | {"std_exact": float(exact.std())} | quality(values, exact)
                        )  # fmt: skip
    return rows


# -- averages --------------------------------------------------------------------------------------------------


def information(denoiser: AnalyticDenoiser, n: int) -> Tensor:
    """Exact i(z; c) of n fresh pictures [n], a few at a time."""
    generator = torch.Generator().manual_seed(1)
    labels = labels_of(ROWS)
    parts = [denoiser.information(denoiser.sample(labels, generator), labels) for _ in range(0, n, ROWS)]
    return torch.cat(parts)


def averages(cases: Sequence[tuple[int, float]], seeds: int, n: int, say: Callable[[str], None]) -> list[Row]:
    """Means over n pictures z ~ p(z|c) against the exact divergence, for ``seeds`` fresh draws of everything.

    Pictures above 100 dimensions are a tenth as many. "within 3 errors" counts the seeds whose mean lies within three
    standard errors (of the mean, and of the divergence where that is itself an average of exact values).
    """
    rows = []
    for name, schedule in SCHEDULES.items():
        for dimensions, strength in cases:
            denoiser = mixture(dimensions, strength, schedule)
            wide = dimensions > 100
            exact = information(denoiser, 20_000 if wide else 200_000)
            divergence, doubt = float(exact.mean()), float(exact.std()) / len(exact) ** 0.5
            count = n // 10 if wide else n
            labels = labels_of(count)
            condition = denoiser.encode_prompts(labels)
            collected: dict[str, list[tuple[float, float]]] = {}
            for seed in range(seeds):
                say(f"averages: {name}, {dimensions} dimensions, strength {strength:g}, seed {seed}")
                z0 = denoiser.sample(labels, torch.Generator().manual_seed(1000 + seed))
                own = [10_000 * seed + row for row in range(count)]
                t, weights = time_grid(schedule, 40, 5, 1000, strategy="stratified", seed=seed)
                mi, bound = mi_and_elbo(denoiser, z0, condition, Noising(t, weights, own, ROWS, "antithetic"))
                path_mi, path_llr = PathMI(schedule, "continuous", t_min=0), PathLLR()
                sampler = SamplerConfig("ddpm", 100, guidance=1.0, spacing="trailing")
                sample(denoiser, condition, own, sampler, [path_mi, path_llr])
                for label, values in (
                    ("mi, image", mi), ("elbo", bound),
                    ("mi, path", path_mi.result()), ("llr, path", path_llr.result()),
                ):  # fmt: skip
                    error = float(values.double().std()) / count**0.5
                    collected.setdefault(label, []).append((float(values.double().mean()), error))
            for label, results in collected.items():
                means = torch.tensor([mean for mean, _ in results], dtype=torch.float64)
                inside = [
                    abs(mean - divergence) <= 3 * (error**2 + doubt**2) ** 0.5 for mean, error in results
                ]
                rows.append(
                    {
                        "schedule": name, "dimensions": dimensions, "strength": strength, "estimator": label,
                        "pictures": count, "divergence": divergence, "mean": float(means.mean()),
                        "relative_error": float(means.mean()) / divergence - 1, "within_3_errors": sum(inside),
                        "relative_scatter": float(means.std(correction=0)) / divergence,
                        "seeds": seeds,
                    }
                )  # fmt: skip
    return rows


# -- strategies ------------------------------------------------------------------------------------------------


def strategies(dimensions: int, strength: float, times: int, n: int, draws: int) -> list[Row]:
    """Error of ``mi`` and ``elbo`` by the strategy of the times, noise drawn anew ``draws`` times.

    For ``mi`` the truth is its own value at 1000 even times, averaged over the draws; for ``elbo`` the exact i.
    """
    rows = []
    for name, schedule in SCHEDULES.items():
        denoiser = mixture(dimensions, strength, schedule)
        labels = labels_of(n)
        z0 = denoiser.sample(labels, torch.Generator().manual_seed(7))
        condition = denoiser.encode_prompts(labels)
        exact = denoiser.information(z0, labels)
        profile = measure_profile(
            denoiser, z0, condition, [9_000_000 + row for row in range(n)], 25, 5, 1000, ROWS
        )
        t, weights = time_grid(schedule, 900, 5, 1000)
        truth = torch.stack(
            [
                mi_and_elbo(
                    denoiser, z0, condition, Noising(t, weights, [50_000 * k + row for row in range(n)], ROWS)
                )[0]
                for k in range(2)
            ]
        ).mean(0)
        for strategy in ("even", "stratified", "random", "importance", "small", "middle", "large"):
            for noise in ("independent", "antithetic"):
                squares = {"mi": 0.0, "elbo": 0.0}
                for draw in range(draws):
                    t, weights = time_grid(
                        schedule, times, 5, 1000, strategy=strategy, profile=profile, seed=draw
                    )
                    seeds = [1_000_000 + 10_000 * draw + row for row in range(n)]
                    mi, bound = mi_and_elbo(denoiser, z0, condition, Noising(t, weights, seeds, ROWS, noise))
                    squares["mi"] += float((mi - truth).square().mean()) / draws
                    squares["elbo"] += float((bound.double() - exact).square().mean()) / draws
                rows.append(
                    {"schedule": name, "strategy": strategy, "noise": noise, "forwards": 2 * times}
                    | {f"{key}_rmse": value**0.5 for key, value in squares.items()}
                )
    return rows


# -- one pass for two ------------------------------------------------------------------------------------------


def one_pass(model: str, pictures: int, times: int, repeats: int) -> dict[str, Any]:
    """Seconds of ``mi_and_elbo`` against ``elbo`` alone on a real network."""
    from mitune.families import load_denoiser

    denoiser = load_denoiser({"path": model, "device": "cpu", "dtype": "float32"})
    z0 = torch.randn(pictures, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = denoiser.encode_prompts(["a red circle and a blue square"] * pictures)
    t, weights = time_grid(denoiser.schedule, times, 100, 1000)
    arms: dict[str, Callable[[], Any]] = {
        "mi_and_elbo": lambda: mi_and_elbo(denoiser, z0, condition, Noising(t, weights, range(pictures))),
        "elbo": lambda: elbo(denoiser, z0, condition, Noising(t, weights, range(pictures))),
    }
    seconds = common.interleave(arms, repeats)
    return common.comparison(
        "mi and elbo from one pass", seconds, "mi_and_elbo", "elbo", at_most=1.02,
        note=f"{pictures} latents at {times} times on {model}",
    )  # fmt: skip


# -- the record ------------------------------------------------------------------------------------------------


def table_of_singles(rows: Sequence[Row]) -> list[str]:
    """r and RMSE by T, one line an estimator, averaged over the mixtures; a table for each schedule and guidance."""
    lines = []
    steps = sorted({row["T"] for row in rows}, reverse=True)
    for schedule in dict.fromkeys(row["schedule"] for row in rows):
        for guidance in dict.fromkeys(row["guidance"] for row in rows):
            chosen = [row for row in rows if (row["schedule"], row["guidance"]) == (schedule, guidance)]
            lines += [f"### {schedule}, guidance {guidance:g}", ""]
            head = " | ".join(f"T = {count}" for count in steps)
            lines += [f"| estimator | extra forwards | {head} |", "|---|---|" + "---|" * len(steps)]
            for estimator in dict.fromkeys(row["estimator"] for row in chosen):
                cells = []
                for count in steps:
                    ours = [row for row in chosen if row["estimator"] == estimator and row["T"] == count]
                    r, slope, rmse = (
                        sum(row[key] for row in ours) / len(ours) for key in ("r", "slope", "rmse")
                    )
                    cells.append(f"{r:.3f} / {slope:.2f} / {rmse:.3f}")
                free = next(row["extra"] for row in chosen if row["estimator"] == estimator) == 0
                lines.append(f"| {estimator} | {'none' if free else '2 T'} | {' | '.join(cells)} |")
            lines.append("")
    return lines


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "# Estimators of i(z; c) against the exact one",
        "",
        "## Single pictures",
        "",
        "Pearson r / slope / RMSE (nats) against log p(z|c) − log p(z), averaged over the mixtures ("
        + ", ".join(f"{d} dimensions with strength {s:g}" for d, s in record["settings"]["cases"])
        + f'; {record["settings"]["pictures"]} pictures each). "Path" estimators watch the DDPM sampler of T steps that'
        " draws the pictures and cost nothing; the others put noise on the pictures of the finest sampler at T times,"
        " 2 T forwards a picture.",
        "",
        *table_of_singles(record["singles"]),
    ]
    if record["averages"]:
        lines += [
            "## Averages", "",
            "Mean over pictures z ~ p(z|c) against the divergence KL(p(z|c) ‖ p(z)): 40 stratified times with"
            " antithetic noise on pictures, 100 steps on paths.", "",
            "| schedule | dimensions | strength | pictures | KL | estimator | mean over seeds, relative to KL"
            " | scatter of a seed's mean | seeds within 3 errors |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {row['schedule']} | {row['dimensions']} | {row['strength']:g} | {row['pictures']} "
            f"| {row['divergence']:.4f} | {row['estimator']} | {100 * row['relative_error']:+.2f} % "
            f"| {100 * row['relative_scatter']:.1f} % | {row['within_3_errors']} of {row['seeds']} |"
            for row in record["averages"]
        ]
        lines.append("")
    if record["strategies"]:
        settings = record["settings"]
        lines += [
            "## Strategies of time", "",
            f"RMSE (nats) at {settings['strategy_times']} times in {settings['cases'][-1][0]} dimensions: of mi"
            " against its own value at 900 times, of elbo against the exact i. (Small, middle and large look at a third"
            " of the range alone: what they miss is in the error.)", "",
            "| schedule | strategy | noise | mi | elbo |", "|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {row['schedule']} | {row['strategy']} | {row['noise']} | {row['mi_rmse']:.3f} "
            f"| {row['elbo_rmse']:.3f} |"
            for row in record["strategies"]
        ]
        lines.append("")
    return "\n".join(lines) + "\n" + common.markdown(record).partition("\n")[2].lstrip("\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = common.parser(
        "estimators",
        __doc__,
        "estimators",
        pictures=(200, "of each mixture in the first table"),
        seeds=(20, "of the averages; 0 leaves them out"),
        samples=(1000, "pictures of an average"),
        draws=(5, "of the strategies; 0 leaves them out"),
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 50, 20, 10], help="T")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument(
        "--model", help="time one pass on this Stable Diffusion folder (shapes: the packaged one)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure; write JSON and tables."""
    options = arguments(argv)
    load = common.machine()["load_average"]

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    cases = [(2, 0.5), (64, 0.7)]
    comparisons = [one_pass(options.model, 32, 4, 15)] if options.model else []
    rows = single_pictures(SCHEDULES, cases, options.steps, options.guidance, options.pictures, say)
    means, times = [], []
    if options.seeds:
        kinds = [(2, 0.2), (16, 0.9), (256, 0.2), (256, 0.9)]
        means = averages(kinds, options.seeds, options.samples, say)
    if options.draws:
        say("strategies of time")
        times = strategies(*cases[-1], 20, min(options.pictures, 100), options.draws)
    settings = {
        "cases": cases,
        "pictures": options.pictures,
        "strategy_times": 20,
        "samples": options.samples,
    }
    tables = {"singles": rows, "averages": means, "strategies": times}
    record = common.write(
        options.name, settings, comparisons, [], options.out, load_before=load, more=tables, page=page
    )
    print(page(record))


if __name__ == "__main__":
    main()
