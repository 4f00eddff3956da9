"""CAS: what batching saves on the embedded model, and what a forward buys on mixtures whose densities are known.

    python -m benchmarks.cas                   everything, two to three minutes on two cores
    python -m benchmarks.cas --only accuracy   the tables alone: no clock in them, any machine will do

``cas.json`` and ``cas.md`` hold the times and the three tables: finite difference against exact derivative at equal
forwards, the path's settings, and the quadrature rules.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from mitune.analytic import AnalyticDenoiser
from mitune.data.prompts import load_prompts
from mitune.denoiser import Condition, Denoiser
from mitune.families import load_denoiser
from mitune.information.cas import CAS, cas
from mitune.information.catalogue import RULES, CASConfig
from mitune.noise import NoiseSchedule, Time
from mitune.sampling.seeds import candidate_seed

FASTER_AT_LEAST = 5.0
# Float32 rounds a row differently in another batch; a finite difference divides that by a hundredth. The noise of the
# probes themselves is nats.
SAME_NATS = 0.1
_BATCH = 1024  # rows of a forward on a mixture: what fits the processor's cache
_ENOUGH = 96  # probes beyond which the path is what is left to be seen

Row = dict[str, Any]


# -- mixtures whose densities are known ------------------------------------------------------------------------


class Rounded(AnalyticDenoiser):
    """An exact denoiser that reads and answers in its ``dtype``, as a network of that type would at best."""

    def predict(self, z: Tensor, t: Time, condition: Condition) -> Tensor:
        """The exact output, rounded on both sides."""
        return super().predict(z.to(self.dtype).to(z.dtype), t, condition).to(self.dtype).to(z.dtype)


@dataclass(frozen=True, eq=False)
class Case:
    """Pictures of a mixture with everything known about them."""

    name: str
    model: Rounded
    z0: Tensor
    condition: Condition
    information: Tensor
    density: Tensor

    def errors(self, **options: Any) -> Row:
        """How far ``cas`` with ``options`` is from the truth: r, slope and RMSE of the information, RMSE of the
        density, and the forwards a picture.
        """
        n = len(self.z0)
        self.model.forwards = 0
        found = cas(
            self.model, self.z0, self.condition, [candidate_seed(1, self.name, i) for i in range(n)],
            CASConfig(**options), _BATCH,
        )  # fmt: skip
        covariance = torch.cov(torch.stack([found.total, self.information]))
        return {
            "mixture": self.name,
            "forwards": self.model.forwards // n,
            "r": float(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()),
            "slope": float(covariance[0, 1] / covariance[1, 1]),
            "rmse": _rms(found.total - self.information),
            "bias": float((found.total - self.information).mean()),
            "probes' share": _rms(found.standard_error),
            "rmse of the density": _rms(found.conditional - self.density),
        }


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def case(
    dimensions: int,
    kind: str,
    pictures: int,
    strength: float = 2.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Four clouds in two overlapping labels, their centres ``strength`` from the origin; ``kind``: ddpm or flow."""
    generator = torch.Generator().manual_seed(candidate_seed(seed, f"{kind} {dimensions}", 0))
    means = torch.randn(4, dimensions, generator=generator, dtype=torch.float64)
    means *= strength / means.norm(dim=1, keepdim=True)
    variances = 0.5 + 0.3 * torch.rand(4, generator=generator, dtype=torch.float64) / dimensions**0.5
    schedule = NoiseSchedule.ddpm() if kind == "ddpm" else NoiseSchedule.rectified_flow()
    weights = {"a": [1, 1, 0.1, 0.1], "b": [0.1, 0.1, 1, 1]}
    model = Rounded(means, variances, weights, {"a": 0.5, "b": 0.5}, schedule)
    labels = [model.labels[i % 2] for i in range(pictures)]
    z0 = model.sample(labels, generator)
    exact = model.information(z0, labels), model.log_prob(z0, labels)
    model.dtype = dtype
    name = f"{kind}, d = {dimensions}" + (
        f", {str(dtype).removeprefix('torch.')}" if dtype != torch.float64 else ""
    )
    return Case(name, model, z0, model.encode_prompts(labels), *exact)


def divergences(cases: Sequence[Case], budgets: Sequence[int]) -> list[Row]:
    """Finite difference against exact derivative at equal forwards: ``budget`` rows at each node, branch and picture.

    The difference spends one on the middle and one on each probe; the derivative two on each probe.
    """
    rows = []
    for one in cases:
        for budget in budgets:
            for name, probes in (("hutchinson", budget - 1), ("jvp", budget // 2)):
                settings = {"divergence": name, "probes": probes}
                rows.append(settings | one.errors(**settings, steps=16))
    return rows


def against_jvp(rows: Sequence[Row]) -> list[Row]:
    """Geometric means, over mixtures and budgets, of RMSE(finite difference) / RMSE(exact derivative)."""
    ratios: dict[str, list[float]] = {"exact": [], "float32": [], "float16": [], "bfloat16": []}
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        name = str(ours["mixture"]).rpartition(", ")[2]
        ratios[name if name in ratios else "exact"].append(ours["rmse"] / theirs["rmse"])
    return [
        common.figure(
            f"RMSE of finite differences over that of exact derivatives, {name} network",
            math.exp(sum(math.log(ratio) for ratio in found) / len(found)),
            "x",
            note="at equal forwards" + (", the network left at 16 bits" if name.endswith("16") else ""),
        )
        for name, found in ratios.items()
        if found
    ]


def paths(cases: Sequence[Case], steps: Sequence[int]) -> list[Row]:
    """What inversion, recursion, spacing and the density at the end of the path cost in accuracy, a change at a time.

    The first line of each is the default; "as published" changes all four words.
    """
    published = {"inversion": "ddim", "end": "normal", "spacing": "time"}
    changes: dict[str, dict[str, Any]] = {
        "default": {},
        "recursion 0": {"recursion": 0},
        "recursion 1": {"recursion": 1},
        "recursion 4": {"recursion": 4},
        **{f"{word} {value}": {word: value} for word, value in published.items()},
        "as published": published,
    }
    rows = []
    for one in cases:
        for count in steps:
            for name, options in changes.items():
                row = {"settings": name, "steps": count}
                rows.append(row | one.errors(**options, steps=count, probes=_ENOUGH))
    return rows


def rules(cases: Sequence[Case], steps: Sequence[int]) -> list[Row]:
    """The quadrature rules on the default path."""
    return [
        {"rule": rule, "steps": count} | one.errors(rule=rule, steps=count, probes=_ENOUGH)
        for one in cases
        for count in steps
        for rule in RULES
    ]


# -- the embedded model ----------------------------------------------------------------------------------------


def timing(
    denoiser: Denoiser, pictures: int, steps: int, probes: int, batch_size: int, repeats: int
) -> tuple[list[Row], list[Row]]:
    """All pictures, branches and probes in batches against one picture and one probe at a time (one row a forward), and
    exact derivatives against finite differences with the same probes. Text is encoded before.
    """
    texts = [prompt.text for prompt in load_prompts("shapes", split="test", limit=pictures)]
    seeds = [candidate_seed(0, text, index) for index, text in enumerate(texts)]
    condition, null = denoiser.encode_prompts(texts), denoiser.null(pictures)
    z0 = torch.randn(pictures, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))

    def batched(divergence: str = "hutchinson") -> CAS:
        settings = CASConfig(steps, probes, divergence=divergence)
        return cas(denoiser, z0, condition, seeds, settings, batch_size, null=null)

    def single() -> CAS:
        parts = [
            cas(
                denoiser,
                z0[i : i + 1],
                condition[i],
                seeds[i : i + 1],
                CASConfig(steps, probes),
                1,
                null=null[i],
            )
            for i in range(pictures)
        ]
        return CAS(*(torch.cat([getattr(part, name) for part in parts]) for name in CAS.__dataclass_fields__))

    denoiser.forwards = 0
    ours = batched()
    rows = denoiser.forwards
    theirs = single()
    if denoiser.forwards != 2 * rows:
        raise RuntimeError(
            f"{rows} rows in batches, {denoiser.forwards - rows} one at a time: not the same work"
        )
    agreement = {
        name: common.agree(name, float((getattr(ours, name) - getattr(theirs, name)).abs().max()), SAME_NATS)
        for name in ("total", "conditional", "unconditional")
    }
    exact = batched("jvp")
    arms = {"batched": batched, "one at a time": single, "exact derivative": lambda: batched("jvp")}
    seconds = common.interleave(arms, repeats, warmup=0, device=denoiser.device)
    faster = common.comparison(
        "batched against one picture and one probe at a time",
        seconds,
        "batched",
        "one at a time",
        1 / FASTER_AT_LEAST,
        agreement,
        f"{rows} rows each; greatest difference of a total {agreement['total']:.2g} nats",
    )
    noise = _rms(ours.standard_error)
    apart = float((exact.total - ours.total).abs().max())
    derivative = common.comparison(
        "finite difference against exact derivative, the same probes",
        seconds,
        "batched",
        "exact derivative",
        None,
        {"total": apart},
        f"greatest difference of a total {apart:.2g} nats; standard error of the probes {noise:.2g} nats",
    )
    times = common.spread(
        [there / here for here, there in zip(seconds["batched"], seconds["one at a time"], strict=True)]
    )
    median = faster["seconds"]["batched"]["median"]
    figures = [
        common.figure("times faster than one at a time", times["median"], "x", FASTER_AT_LEAST),
        common.figure("network forwards, batched", rows / median, "rows/s"),
        common.figure(
            "pictures, batched", pictures / median, "pictures/s", note=f"{rows // pictures} rows each"
        ),
    ]
    return [faster, derivative], figures


# -- the command -----------------------------------------------------------------------------------------------


def table(title: str, rows: Sequence[Row]) -> str:
    """Rows of one kind as a Markdown table."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [f"## {title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def accuracy(pictures: int, dimensions: Sequence[int]) -> dict[str, list[Row]]:
    """The three tables under their titles."""
    low, high = dimensions[0], dimensions[-1]
    precise = [case(d, kind, pictures) for kind in ("ddpm", "flow") for d in dimensions]
    coarse = [
        case(high, "ddpm", pictures, dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    middle = [case(dimensions[len(dimensions) // 2], kind, pictures) for kind in ("ddpm", "flow")]
    strong = case(low, "ddpm", pictures, strength=4.0)
    return {
        "Finite difference against exact derivative, 16 steps": divergences([*precise, *coarse], (4, 16, 64)),
        f"Path, {_ENOUGH} probes": paths([*middle, strong], (10, 31)),
        f"Rules, {_ENOUGH} probes": rules(middle, (4, 7, 10, 19, 40)),
    }


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown, its tables at the end."""
    tables = [table(title, rows) for title, rows in record["tables"].items()]
    return "\n".join([common.markdown(record), *tables])


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cas", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", default="shapes", help="a Stable Diffusion folder (default: the packaged one)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--only", choices=["accuracy", "timing"], default=None, help="one half (default: both)"
    )
    parser.add_argument("--pictures", type=int, default=2, help="timed together")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--probes", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=60, help="pictures of each mixture")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 16, 64])
    common.add_output(parser, "cas")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the record, print it. Exit code 2 for what the user can mend."""
    options = arguments(argv)

    def found() -> dict[str, Any]:
        settings = common.settings_of(options, "only")
        comparisons: list[Row] = []
        figures: list[Row] = []
        tables: Mapping[str, list[Row]] = {}
        if options.only != "accuracy":
            common.warn_if_busy()
            denoiser = load_denoiser({"path": options.model, "device": options.device, "dtype": "float32"})
            settings["identity"] = denoiser.identity
            comparisons, figures = timing(
                denoiser, options.pictures, options.steps, options.probes, options.batch_size, options.repeats
            )
        if options.only != "timing":
            tables = accuracy(options.samples, options.dimensions)
            figures += against_jvp(next(iter(tables.values())))
        return {
            "settings": settings,
            "comparisons": comparisons,
            "figures": figures,
            "more": {"tables": tables},
            "page": page,
        }

    return common.run(options, found)


if __name__ == "__main__":
    sys.exit(main())
