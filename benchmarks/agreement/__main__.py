"""Run ``mitune agree`` on the embedded world with the presets of the study: ``python -m benchmarks.agreement``.

Every preset draws 100 prompts x 32 candidates, gives each every score at about equal cost, and holds the scores to the
world's oracle. ``results/<preset>.json``, ``.md`` and ``.png`` are what is committed; the candidates stay in
``--runs``: a killed study goes on, and ``mitune score`` can look at the same pictures again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from mitune.cli import main as mitune
from mitune.evaluate.agreement import markdown
from mitune.files import read_json, write_bytes, write_json, write_text

RESULTS = Path(__file__).resolve().parent / "results"
PROMPTS, CANDIDATES = 100, 32

# 16 to 22 network rows a candidate for every score that is not free.
EQUAL_COST = (
    "experiment=shapes",
    "sampler=ddim",
    "sampler.steps=20",
    "agree.scorers=[mi,mi_continuous,llr,mi_image,elbo,llr_image,contrast,cas,z(contrast)+z(elbo),oracle]",
    *(f"scorer.{name}.times=8" for name in ("mi_image", "elbo", "llr_image")),
    *("scorer.contrast.edits=8", "scorer.contrast.times=2"),
    *("scorer.cas.steps=4", "scorer.cas.probes=1", "scorer.cas.recursion=1"),
)
# What the attention tells, beside the scores that the network's errors give: on prompts that nothing was chosen on.
GROUNDED = (
    "experiment=shapes",
    "prompts.split=test",
    "sampler.steps=20",
    "agree.scorers=[mi,llr,elbo,contrast,grounding,grounding_image,z(contrast)+z(elbo),z(contrast)+z(grounding),"
    "z(contrast)+z(elbo)+z(grounding),oracle]",
)
PRESETS: dict[str, tuple[str, ...]] = {
    "guided": EQUAL_COST,
    "unguided": (*EQUAL_COST, "sampler.guidance=1"),
    "strongly-guided": (*EQUAL_COST, "sampler.guidance=5"),
    # The whole range of noise instead of the semantic stage, t >= 400 of 1000.
    "all-times": (
        *EQUAL_COST,
        *(f"scorer.{name}.t_min=20" for name in ("mi_image", "elbo", "llr_image", "contrast")),
    ),
    "grounding-1.5": (*GROUNDED, "sampler.guidance=1.5"),
    "grounding-3": (*GROUNDED, "sampler.guidance=3"),
}


def study(
    preset: str, runs: Path, results: Path, prompts: int, candidates: int, extra: Sequence[str]
) -> dict[str, Any]:
    """One preset: ``mitune agree`` in its run folder, then its figures with the record of where they were measured.

    Raises SystemExit with the command's exit code where it fails.
    """
    folder = runs / preset
    arguments = [
        *("agree", f"run={folder}", f"agree.prompts={prompts}", f"agree.candidates={candidates}"),
        *PRESETS[preset],
        *extra,
    ]
    started = time.perf_counter()
    code = mitune(arguments)
    if code:
        raise SystemExit(code)
    figures = read_json(folder / "agree" / "agreement.json")
    record = {
        "benchmark": f"agreement-{preset}",
        "command": " ".join(["mitune", *arguments]),
        "wall_seconds": round(time.perf_counter() - started, 1),
        **common.origin(),
        **figures,
    }
    write_json(results / f"{preset}.json", record)
    write_bytes(results / f"{preset}.png", (folder / "agree" / "agreement.png").read_bytes())
    origin = f"`{record['command']}`, commit {common.commit_of(record['git'])}."
    text = f"# agreement, {preset}\n\n{markdown(figures)}\n{origin}\n"
    write_text(results / f"{preset}.md", text)
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the presets one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("presets", nargs="*", help=f"of {', '.join(PRESETS)} (default: guided unguided)")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--runs", type=Path, default=Path("runs/agreement"), help="where the candidates lie")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--fresh", action="store_true", help="throw away the candidates of an earlier study")
    options = parser.parse_intermixed_args(arguments)
    extra = [word for word in options.presets if "=" in word]
    presets = [word for word in options.presets if "=" not in word] or ["guided", "unguided"]
    for preset in presets:
        if preset not in PRESETS:
            parser.error(f"there is no preset {preset}; choose among {', '.join(PRESETS)}")
    common.warn_if_busy()
    for preset in presets:
        if options.fresh:
            shutil.rmtree(options.runs / preset, ignore_errors=True)
        study(preset, options.runs, options.out, options.prompts, options.candidates, extra)


if __name__ == "__main__":
    main(sys.argv[1:])
