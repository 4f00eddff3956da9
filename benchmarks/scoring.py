"""What ``mitune score`` adds to the network forwards that it needs: ``python -m benchmarks.scoring``.

The embedded world's own pictures get ``elbo`` and ``mi_image`` from one pass, through the code of the stage: pictures
are decoded from their files, encoded, noised, scored, and the tables written. Held against the bare forwards of the
same rows, in batches of the same size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks import common
from mitune.config import compose
from mitune.data.decoding import decode_picture
from mitune.data.pictures.loading import load_pictures
from mitune.families import load_denoiser
from mitune.information.scoring import Scoring
from mitune.stages.picture_scores import ScoredPictures

SCORES = ("elbo", "mi_image")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all arms in turns; gives what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    common.warn_if_busy()
    denoiser = load_denoiser("shapes", device="cpu")
    source = load_pictures("shapes", limit=options.pictures)
    settings: Any = OmegaConf.to_container(compose(["experiment=shapes"]).scorer)
    assert source.read is not None
    read, size = source.read, denoiser.picture_size
    pictures = torch.stack([decode_picture(read(row), size, "")[0] for row in range(len(source))])
    spent = {}

    def score(*names: str) -> None:
        scoring = Scoring(names, settings, denoiser, batch_size=options.batch)
        with tempfile.TemporaryDirectory() as folder:
            work = ScoredPictures(Path(folder) / "work", source, options.batch)
            work.score(lambda: (denoiser, scoring), 0, options.batch)
            spent[names] = work.cost().forwards

    @torch.no_grad()
    def network() -> None:
        condition = denoiser.encode_prompts([""])[[0] * options.batch]
        for start in range(0, spent[SCORES], options.batch):
            rows = min(options.batch, spent[SCORES] - start)
            denoiser.predict(
                torch.zeros(rows, *denoiser.latent_shape), torch.full((rows,), 500), condition[:rows]
            )

    @torch.no_grad()
    def encoders_too() -> None:
        for start in range(0, len(source), options.batch):
            part = slice(start, start + options.batch)
            denoiser.encode_image(pictures[part])
            denoiser.encode_prompts(list(dict.fromkeys(source.texts[part])))
        network()

    score(*SCORES)  # says how many rows the others must make
    arms = {
        "score": lambda: score(*SCORES),
        "network and encoders": encoders_too,
        "network alone": network,
        "elbo alone": lambda: score("elbo"),
    }
    seconds = common.interleave(arms, options.repeats, warmup=0)
    rate = len(source) / common.spread(seconds["score"])["median"]
    return {
        "settings": {
            "pictures": len(source),
            "scores": "+".join(SCORES),
            "rows a picture": spent[SCORES] / len(source),
            "batch": options.batch,
        },
        "comparisons": [
            common.comparison(
                "score against the forwards of network, picture encoder and text encoder",
                seconds,
                "score",
                "network and encoders",
                at_most=1.1,
            ),
            common.comparison(
                "score against the forwards of the denoising network alone",
                seconds,
                "score",
                "network alone",
                note="the encoders' forwards are in the numerator only: the more times, the less they weigh",
            ),
            common.comparison(
                "elbo and mi_image against elbo alone",
                seconds,
                "score",
                "elbo alone",
                at_most=1.02,
                note="one pass gives both",
            ),
        ],
        "figures": [common.figure("pictures scored", rate, "a second")],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/scoring.json`` and its table."""
    parser = common.parser(
        "scoring",
        __doc__,
        "scoring",
        pictures=1000,
        repeats=5,
        batch=(192, "rows a forward, and pictures a unit"),
        threads=torch.get_num_threads(),
    )
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
