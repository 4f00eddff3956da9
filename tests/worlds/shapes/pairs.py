"""Pictures of the shapes world with a caption each, for tests."""

from __future__ import annotations

import numpy as np

from mitune.worlds.shapes.corpus import build_corpus


def training_batch(rng: np.random.Generator, n: int, wrong_share: float) -> tuple[np.ndarray, list[str]]:
    """Draw `n` pictures, uint8 [n, 64, 64, 3], and a caption of each, wrong with probability `wrong_share`."""
    corpus = build_corpus(n, 1, wrong_share, seed=int(rng.integers(2**31)))
    return corpus.pictures, [texts[0] for texts in corpus.texts]
