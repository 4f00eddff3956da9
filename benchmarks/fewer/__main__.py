"""Fewer network evaluations for the same pictures and the same choice: ``python -m benchmarks.fewer``.

On the embedded UNet and flow, with the same prompts and seeds on both sides: what the oracle gives pools drawn by the
sampler of old and by others with fewer evaluations, what it gives the winners of either, how scores rank in them, the
wall clock, and ``llr`` against its closed form at few steps. Pools are kept in ``--work`` and not drawn again; of the
parts that ``--only`` leaves out the record keeps what it has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.fewer import studies
from benchmarks.fewer.page import page
from benchmarks.fewer.pools import Setting, Where
from mitune.files import read_json

BASE = "ddim:20"  # the default of the presets before
# By model and guidance: what is compared with it. The first is the one that winners and seconds are asked of.
ARMS = {
    ("shapes", 4.0): (
        "ddim:9^3.5",
        "dpmpp_2m_sde:9^3",
        "ddim:9",
        "dpmpp_2m:8",
        "dpmpp_2m_sde:9",
    ),  # candidates of old
    ("shapes", 1.5): ("ddim:9", "dpmpp_2m_sde:9", "dpmpp_2m:8"),  # what they are judged at
    ("shapes", 1.0): ("dpmpp_2m_sde:9", "dpmpp_2m:9", "ddim:9"),  # shapes_full, mitune
    ("shapes_flow", 1.5): ("dpmpp_2m:9", "ddim:9", "dpmpp_2m_sde:9"),
}
STUDIES = {
    "candidates": studies.candidates, "winners": studies.winners, "seconds": studies.seconds, "llr": studies.llr,
}  # fmt: skip


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = common.parser(
        "fewer",
        __doc__,
        "fewer",
        prompts=180,
        candidates=8,
        k=(3, "winners a prompt"),
        repeats=(7, "timed rounds"),
        pictures=(1000, "of each mixture"),
        rounds=(None, "of one batch: a quick look at so many; 0: at what is there, and nothing is drawn"),
    )
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="parts to measure")
    parser.add_argument(
        "--model", nargs="+", choices=["shapes", "shapes_flow"], help="of the places, these alone"
    )
    parser.add_argument(
        "--guidance", nargs="+", type=float, help="of the places, these alone (or others, with --model)"
    )
    parser.add_argument("--setting", nargs="+", help=f"against {BASE} (default: those of each place)")
    parser.add_argument("--work", type=Path, default=Path("runs/fewer"), help="where what is drawn is kept")
    parser.set_defaults(device="cpu")
    return parser.parse_args(argv)


def places(options: argparse.Namespace, few: bool) -> dict[Where, list[Setting]]:
    """What is drawn where, the setting of old first; ``few``: beside it the first one only."""
    wanted = list(ARMS)
    if options.model and options.guidance:
        wanted = [(model, guidance) for model in options.model for guidance in options.guidance]
    elif options.model or options.guidance:
        wanted = [
            own
            for own in ARMS
            if own[0] in (options.model or [own[0]]) and own[1] in (options.guidance or [own[1]])
        ]
    found = {}
    for own in wanted:
        arms = options.setting or ARMS.get(own, ())
        where = Where(*own, options.prompts, options.candidates)
        found[where] = [Setting.read(text) for text in (BASE, *(arms[:1] if few else arms))]
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for; the others are as the record has them."""
    before = Path(options.out) / f"{options.name}.json"
    kept = read_json(before) if before.exists() else {}
    parts = {name: kept[name] for name in STUDIES if name in kept}
    origins = dict(kept.get("parts", {}))
    for name in options.only:
        few = name in ("winners", "seconds") and not options.setting
        parts[name] = STUDIES[name](places(options, few), options)
        origins[name] = {key: common.origin()[key] for key in ("date", "git")}
    comparisons = parts.pop("seconds", [])
    return {
        "settings": common.settings_of(options, "work", "only", "device") | {"base": BASE},
        "comparisons": comparisons,
        "figures": studies.figures(parts),
        "more": parts | {"seconds": comparisons, "parts": origins},
        "page": page,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; write JSON and tables."""
    options = arguments(argv)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
