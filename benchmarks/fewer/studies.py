"""The parts of the record: what each draws and what it says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.fewer import closed
from benchmarks.fewer.figures import BY, SCORES, chosen, difference, of_prompts, ranks
from benchmarks.fewer.pools import Pools, Setting, Tables, Where

LIMIT, EQUAL, LOSS, WALL, CLOSED = 0.45, -0.02, -0.005, 0.5, 0.9  # the targets
Row = dict[str, Any]


def say(what: str) -> None:
    """Tell how far it is, beside the results."""
    print(what, file=sys.stderr, flush=True)


Places = Mapping[Where, Sequence[Setting]]


def _pools(
    places: Places, scorers: Sequence[str], options: argparse.Namespace
) -> Iterator[tuple[Pools, Tables]]:
    """Give what is drawn in each place, one model after another."""
    for where, settings in places.items():
        pools = Pools(where, scorers, options.work)
        yield pools, pools.tables(settings, options.rounds, say)


def candidates(places: Places, options: argparse.Namespace) -> list[Row]:
    """One row a place and setting: its evaluations, its pool by the oracle, both against the first setting's."""
    found = []
    for pools, tables in _pools(places, ["oracle"], options):
        base, rows_base, _ = next(iter(tables.values()))
        for name, (table, rows, _) in tables.items():
            own = difference(table, base)
            fewer = rows / rows_base
            found.append(
                {
                    **pools.where.said, "setting": name, "prompts": table["prompt_id"].nunique(),
                    "evaluations": rows, "ratio": fewer, "oracle": float(of_prompts(table).mean()),
                    "exact": float((table["oracle"] > 0.999).mean()), "difference": own,
                    "equal": bool(own["ci95"][0] > EQUAL), "reached": bool(own["ci95"][0] > EQUAL and fewer <= LIMIT),
                }
            )  # fmt: skip
    return found


def winners(places: Places, options: argparse.Namespace) -> list[Row]:
    """One row a place and setting: the three best of each prompt by contrast and elbo as the oracle sees them, against
    the first setting's; and Kendall's τ of every score with the oracle.
    """
    found = []
    for pools, tables in _pools(places, [*SCORES, "oracle"], options):
        base = chosen(next(iter(tables.values()))[0], BY, options.k)
        for name, (table, rows, scored) in tables.items():
            best = chosen(table, BY, options.k)
            own = difference(best, base)
            found.append(
                {
                    **pools.where.said, "setting": name, "prompts": table["prompt_id"].nunique(),
                    "evaluations": rows, "ratio": rows / next(iter(tables.values()))[1], "scoring": scored,
                    "pool": float(of_prompts(table).mean()),
                    "winners": float(of_prompts(best).mean()), "difference": own, "reached": own["mean"] >= LOSS,
                    "tau": ranks(table, [score for score in SCORES if score in table]),
                }
            )  # fmt: skip
    return found


def seconds(places: Places, options: argparse.Namespace) -> list[Row]:
    """Wall clock of drawing (with the oracle's look) and of drawing with the preset's scores, against the first
    setting's, interleaved.
    """
    found = []
    for where, settings in places.items():
        pools = Pools(where, [], options.work)
        found += _timed(pools, "drawn", ["oracle"], settings, options.repeats)
        found += _timed(pools, "drawn and scored", [*SCORES, "oracle"], settings, options.repeats)
    return found


def _timed(
    pools: Pools, what: str, scorers: Sequence[str], settings: Sequence[Setting], repeats: int
) -> list[Row]:
    def arm(setting: Setting) -> Callable[[], Any]:
        return lambda: pools.draw(pools.units[0], setting, scorers)

    place = pools.where.title
    say(f"{place}: seconds, {what}")
    base, *others = (setting.text for setting in settings)
    seconds = common.interleave({one.text: arm(one) for one in settings}, repeats, warmup=0)
    return [
        common.comparison(f"{place}: {other}, {what}", seconds, other, base, at_most=WALL) for other in others
    ]


def llr(places: Places, options: argparse.Namespace) -> list[Row]:
    """``llr`` against the closed form; the places do not matter."""
    return closed.study(["ddpm", "flow"], [1.0, 4.0], options.pictures, say)


def figures(parts: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The figures that have a target."""
    found = []
    for row in parts.get("candidates", ()):
        if row["ratio"] <= LIMIT + 1e-9:
            low, high = row["difference"]["ci95"]
            found.append(
                common.figure(
                    f"{_place(row)}: pool by the oracle less that of old, lower end", low, "", EQUAL,
                    note=f"{row['difference']['mean']:+.3f} ({low:+.3f} … {high:+.3f}) at {row['ratio']:.2f} of the"
                    " evaluations",
                )
            )  # fmt: skip
    for row in parts.get("winners", ()):
        if row["ratio"] < 1:
            low, high = row["difference"]["ci95"]
            found.append(
                common.figure(
                    f"{_place(row)}: winners by the oracle less those of old", row["difference"]["mean"], "", LOSS,
                    note=f"95 % interval {low:+.3f} … {high:+.3f}",
                )
            )  # fmt: skip
    for row in parts.get("llr", ()):
        if (row["sampler"], row["steps"], row["kernel"], row["guidance"]) == (
            "dpmpp_2m_sde",
            10,
            "wide",
            1.0,
        ):
            name = f"llr against the closed form, {row['schedule']}, unguided, ten steps of dpmpp_2m_sde: r"
            found.append(common.figure(name, row["r"], "", CLOSED, note=f"slope {row['slope']:.2f}"))
    return found


def _place(row: Row) -> str:
    return f"{row['model']}, guidance {row['guidance']:g}, `{row['setting']}`"
