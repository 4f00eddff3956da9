"""Whether a change moved a bit: every sampler, score, objective and way of steering, as one digest each.

    python -m benchmarks.bits FILE             write the digests of this tree (frozen before a change)
    python -m benchmarks.bits FILE --check     compare; exit 1 with the names of the cases that moved (a case that the
                                               file lacks is new, and named)

Digests are of values (score columns, latents, adapter tensors), not of files, and hold on the machine that made them:
other processors round differently. Each case is a command on the embedded models, seconds long.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from mitune.cli import main as mitune

SAMPLERS = {
    "ddpm": ["sampler=ddpm"],
    "ddpm, large, leading": ["sampler=ddpm", "sampler.variance=large", "sampler.spacing=leading"],
    "ddim": ["sampler=ddim"],
    "ddim 0.7": ["sampler=ddim", "sampler.eta=0.7"],
    "ddim 0, linspace": [
        "sampler=ddim",
        "sampler.eta=0",
        "sampler.spacing=linspace",
        "sampler.set_alpha_to_one=true",
    ],
    "lcm": ["sampler=lcm"],
    "dpmpp_2m": ["sampler=dpmpp_2m"],
    "dpmpp_2m_sde": ["sampler=dpmpp_2m_sde"],
    "unipc": ["sampler=unipc"],
    "heun": ["sampler=heun"],
}
QUIET = {"sampler.eta=0", "sampler=euler", "sampler=dpmpp_2m", "sampler=unipc", "sampler=heun"}
FLOWS = SAMPLERS | {"euler": ["sampler=euler"]}
SCORES = {
    name: [f"scorer.{name}.{key}" for key in keys]
    for name, keys in {
        "mi_image": (
            "noise=independent",
            "noise=antithetic",
            "noise=coupled",
            "form=orthogonal",
            "weighting=paper",
        ),
        "elbo": (
            "noise=independent",
            "noise=antithetic",
            "noise=coupled",
            "strategy=stratified",
            "weighting=uniform",
        ),
        "llr_image": ("paths=2", "guidance=2"),
        "contrast": ("noise=coupled", "negatives=words", "negatives=pool"),
        "cas": ("rule=trapezoid", "inversion=ddim", "divergence=jvp", "end=normal"),
    }.items()
}
STEERING = {
    "das, llr": ["sampler=das", "reward=llr"],
    "das, mi, bootstrap": [
        "sampler=das",
        "reward=mi",
        "search.proposal=bootstrap",
        "search.resampling=systematic",
    ],
    "das, contrast": ["sampler=das", "reward=contrast", "search.particles=2"],
    "das, clip": ["sampler=das", "reward=clip", "scorer.clip.path=shapes", "alpha=0.1"],
    "das, jpeg": ["sampler=das", "reward=jpeg", "search.tempering=linear", "search.resampling=stratified"],
    "racing, llr": ["sampler.racing.by=llr", "sampler.racing.survivors=[2]"],
    "racing, elbo": ["sampler.racing.by=elbo", "sampler.racing.times=1", "sampler.racing.survivors=[2]"],
}
OBJECTIVES = ("mse", "weighted", "dpo", "spin", "kto", "nft")
SMALL = [
    "experiment=shapes_attention", "prompts.limit=3", "generate.candidates=4", "generate.guidance=2", "generate.keep=4",
    "select.k=1", "select.losers=1", "sampler.steps=6", "scorers=[mi,mi_continuous,llr]", "select.by=mi",
    "train.steps=6", "train.batch_size=4", "train.checkpoint_every=3", "evaluate.prompts.limit=2",
    "evaluate.candidates=1", "evaluate.scorers=[mi]",
    *(f"scorer.{name}.times=2" for name in ("mi_image", "elbo", "llr_image", "contrast")),
    "scorer.contrast.edits=2", "scorer.cas.steps=4", "scorer.cas.probes=2",
]  # fmt: skip
TRAINING = ("adapter.kind=lora", "train.density=logit_normal", "adapter.targets=[all]")


def commands() -> Iterator[tuple[str, list[list[str]]]]:
    """(case, the words of its commands) of every case; a command's run folder is added."""
    for model, samplers in (("shapes", SAMPLERS), ("shapes_flow", FLOWS)):
        for name, given in samplers.items():
            noisy = not QUIET.intersection(given)
            scorers = "[mi,mi_continuous,llr]" if noisy else "[mi,mi_continuous]"
            yield f"{model}: {name}", [["generate", f"model={model}", *given, f"scorers={scorers}"]]
        for score, keys in SCORES.items():
            for key in ("", *keys):
                own = [key] if key else []
                yield (
                    f"{model}: {score} {key}".strip(),
                    [["generate", f"model={model}", *own, f"scorers=[mi,{score}]"]],
                )
    for name, given in STEERING.items():
        yield f"shapes: {name}", [["generate", *given]]
    for objective in OBJECTIVES:
        words = [f"train.objective={objective}"]
        yield f"shapes: {objective}", [["run", *words]]
        yield f"shapes_flow: {objective}", [["run", "model=shapes_flow", *words]]
    for key in TRAINING:
        yield f"shapes: mse, {key}", [["run", key]]


def digest(folder: Path) -> str:
    """12 hex digits of every number in the tables and tensors of a run folder, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet")):
        for name, column in sorted(pq.read_table(path).to_pandas().items()):
            if column.dtype.kind in "fiub":
                total.update(f"{path.relative_to(folder)} {name}".encode() + column.to_numpy().tobytes())
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            total.update(
                f"{path.relative_to(folder)} {name}".encode() + np.ascontiguousarray(tensor).tobytes()
            )
    return total.hexdigest()[:12]


def measure(case: str, words: list[list[str]], work: Path) -> str:
    """The digest of a case. Raises RuntimeError where a command fails."""
    run = work / hashlib.sha256(case.encode()).hexdigest()[:12]
    for stage, *given in words:
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = mitune([stage, *SMALL, *given, f"run={run}"])
        if code:
            raise RuntimeError(f"{case}: exit code {code}: {told.getvalue().strip().splitlines()[-1:]}")
    return digest(run)


def compared(case: str, digest: str, before: Mapping[str, str]) -> str:
    """What is to be said of a case beside the digests of a file; nothing where it is as there."""
    if case not in before:
        return f"new, not in the file: {case}"
    return "" if before[case] == digest else f"moved: {case}"


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    file = options.file.resolve()
    before: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if options.check else {}
    found, told = {}, []
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        for case, words in commands():
            if options.only not in case:
                continue
            found[case] = measure(case, words, Path(work))
            if options.check and (line := compared(case, found[case], before)):
                told.append(line)
                print(line, flush=True)
    if options.check:
        new = sum(line.startswith("new") for line in told)
        print(f"{len(found) - len(told)} of {len(found) - new} cases equal{f', {new} new' if new else ''}")
        return 1 if len(told) > new else 0
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} digests in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
