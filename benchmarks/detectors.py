"""What judges on detectors add to the bare forwards of their networks: ``python -m benchmarks.detectors``.

As ``benchmarks.judges``: the same pictures of 512 px, what the networks were called with made again without anything
around it, in turns with the judge. The networks are random, of the sizes that the configurations of transformers have
by themselves, which are about those of the published base models; the vocabularies are small. What is beyond 1 is the
judge's own: preparing pictures and texts, reading boxes and masks, the benchmark's rule.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks import common
from benchmarks.judges import against_forwards
from mitune.config import compose
from mitune.referees.weighted import load_reward
from tests.referees.conftest import build_clip
from tests.referees.small_detectors import build_published

SPATIAL, COUNTED = "a red circle above a square", "two dogs and a cat"
# judge: (its detector, a prompt)
JUDGES = {
    "spatial_owlv2": ("owlv2", SPATIAL),
    "spatial_grounding_dino": ("grounding-dino", SPATIAL),
    "numeracy_detr": ("rt_detr_v2", COUNTED),
    "geneval": ("mask2former", "a photo of a red dog and a blue cat"),
}


def opened(name: str, place: Path, batch: int, device: str) -> Any:
    """Open the judge ``name`` on a detector of a published size."""
    section: Any = OmegaConf.to_container(compose(["experiment=shapes"]).scorer)
    folder = build_published(place / name, JUDGES[name][0])
    if name == "geneval":
        section[name] |= {"detector": str(folder), "clip": str(build_clip(place / "clip"))}
    else:
        section[name]["path"] = str(folder)
    section[name]["batch_size"] = batch
    return load_reward(name, section, device)


@torch.no_grad()
def throughput(options: argparse.Namespace, place: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give, for every judge, its ratio to the bare forwards, and its pictures a second."""
    pictures = torch.rand(options.pictures, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    for name in options.judges or JUDGES:
        judge = opened(name, place, options.batch, options.device)
        prompts = [JUDGES[name][1]] * options.pictures

        def score(judge: Any = judge, prompts: list[str] = prompts) -> Tensor:
            return judge.score(pictures, prompts)

        score()  # opens it
        yield against_forwards(name, "detector's", judge.detector.model, score, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="detectors") as folder:
        pairs = list(throughput(options, Path(folder)))
    return {
        "settings": common.settings_of(options),
        "comparisons": [ratio for ratio, _ in pairs],
        "figures": [figure for _, figure in pairs],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/detectors.json`` and its table."""
    parser = common.parser(
        "detectors",
        __doc__,
        "detectors",
        device="cpu",
        pictures=(4, "scored a round"),
        batch=(2, "pictures a forward"),
        repeats=3,
        threads=torch.get_num_threads(),
    )
    parser.add_argument("--judges", nargs="+", choices=sorted(JUDGES), help="only these")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
