"""The picture of docs/segment.md: the built-in model draws, and says where each phrase is.

python -m benchmarks.segment_pictures docs/segment.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import mitune
from mitune.evaluate.drawings import grid, png
from mitune.files import write_bytes

PROMPTS = (
    "a red circle left of a blue square",
    "a striped green cross above a purple circle",
    "a yellow square and a cyan triangle",
)
SEED = 1


def main(arguments: Sequence[str]) -> int:
    """Write the picture to the place given."""
    (place,) = arguments
    model = mitune.load("shapes", device="cpu")
    drawn = model.draw(PROMPTS, candidates=8, scores=["contrast"], seed=SEED)
    best = drawn.best(by="contrast", k=1)
    found = model.segment(drawn.images(best), best["prompt"].tolist(), seed=SEED)
    images, captions = [], []
    for one in found:
        images += [one.picture, one.overlay(), *(one.overlay(number) for number in (1, 2))]
        captions += [one.prompt, "masks", *one.phrases]
    write_bytes(place, png(grid(images, captions, columns=4)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
