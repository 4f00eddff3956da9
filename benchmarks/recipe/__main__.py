"""Compare recipes on the embedded world: ``python -m benchmarks.recipe STUDY``.

A study is a base (words of ``mitune run``) and arms (more words). Every arm is one Hydra sweep over the seeds and over
who chooses the winners: the arm's own score, chance, and the oracle. Arms that draw alike share their candidates, all
share the base model's held-out pictures; a killed study goes on. ``results/STUDY.json``, ``.md`` and ``.png`` hold the
gains on held-out prompts, in pairs (same prompt, same seed), pooled over the seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.recipe.figures import gather, page, plot
from benchmarks.recipe.studies import STUDIES, Study
from mitune.cli import main as mitune
from mitune.files import write_bytes

RESULTS = Path(__file__).resolve().parent / "results"


def sweep(
    study: Study, arm: str, seeds: Sequence[int], runs: Path, share: Path, extra: Sequence[str]
) -> Path:
    """Run an arm with every chooser and seed that is not done yet; gives its folder.

    Raises SystemExit with the command's exit code where a run fails.
    """
    folder = runs / arm
    choices = ",".join(
        (f"'{study.chooser(arm)}'", *study.controls)
    )  # neither a sum nor a name with a comma is a word to Hydra without quotes
    words = ["run", "-m", *study.base, *study.arms[arm].words, *extra, f"select.by={choices}"]
    words += [f"seed={','.join(map(str, seeds))}", f"run='{folder}'", f"sweep.share={share.resolve()}"]
    print(f"{arm}: mitune {' '.join(words)}", file=sys.stderr, flush=True)
    if code := mitune(words):
        raise SystemExit(code)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the arms of a study, one after another, and write what they reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("overrides", nargs="*", help="further key=value for every run")
    parser.add_argument("--arms", nargs="+", help="of the study (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--launch", help="a file of launch/, such as cpu_2: each run by as many processes")
    parser.add_argument("--only-report", action="store_true", help="of what is there; nothing is run")
    common.add_output(parser)
    parser.set_defaults(device="cpu", out=str(RESULTS))
    options = parser.parse_args(argv)
    study = STUDIES[options.study]
    arms = options.arms or list(study.arms)
    if unknown := [arm for arm in arms if arm not in study.arms]:
        parser.error(f"{unknown[0]} is no arm of {options.study}: {'; '.join(study.arms)}")
    options.name = options.name or options.study
    runs = options.runs / options.study
    extra = [*options.overrides, *([f"launch={options.launch}"] if options.launch else [])]

    def measure() -> dict[str, Any]:
        for arm in arms if not options.only_report else ():
            sweep(study, arm, options.seeds, runs, options.runs / "share", extra)
        rows = gather(study, {arm: runs / arm for arm in arms})
        write_bytes(Path(options.out) / f"{options.name}.png", plot(rows))
        return {
            "settings": common.settings_of(options, "device", "only_report", "runs")
            | {"base": list(study.base)},
            "comparisons": [],
            "figures": [],
            "more": {
                "question": study.question,
                "arms": {arm: list(study.arms[arm].words) for arm in arms},
                "rows": rows,
            },
            "page": page,
        }

    return common.run(options, measure)


if __name__ == "__main__":
    sys.exit(main())
