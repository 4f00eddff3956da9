"""The training corpus of the shapes world: pictures with several captions each, some of them wrong."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from mitune.worlds.shapes.captions import corrupt, describe
from mitune.worlds.shapes.grammar import is_test_prompt
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import random_scene

_CHUNK = 1000


@dataclass(frozen=True)
class Corpus:
    """A corpus holds `pictures` uint8 [n, 64, 64, 3] and `texts`, n tuples of captions of equal length."""

    pictures: np.ndarray
    texts: list[tuple[str, ...]]


def _chunk(seed: int, index: int, n: int, captions: int, wrong_share: float) -> Corpus:
    rng = np.random.default_rng([seed, index])
    pictures: list[np.ndarray] = []
    texts: list[tuple[str, ...]] = []
    while len(texts) < n:
        scene = random_scene(rng)
        drawn = []
        for _ in range(10 * captions):
            spec = describe(scene, rng)
            text = str(corrupt(spec, scene, rng) if rng.random() < wrong_share else spec)
            if not is_test_prompt(text):
                drawn.append(text)
            if len(drawn) == captions:
                # A scene whose few descriptions are all test prompts is left out of the corpus.
                pictures.append(render(scene)[0])
                texts.append(tuple(drawn))
                break
    return Corpus(np.stack(pictures), texts)


def build_corpus(n: int, captions: int, wrong_share: float, seed: int, workers: int = 1) -> Corpus:
    """Draw scenes with captions, none of them a test prompt.

    Args:
        n: scenes, with `captions` captions each; a caption is wrong with probability `wrong_share`.
        seed: the corpus depends on it and on `n` alone, not on the number of `workers`, the processes.
    """
    sizes = [min(_CHUNK, n - start) for start in range(0, n, _CHUNK)]
    jobs = [(seed, index, size, captions, wrong_share) for index, size in enumerate(sizes)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            chunks = list(pool.map(_chunk, *zip(*jobs, strict=True)))
    else:
        chunks = [_chunk(*job) for job in jobs]
    return Corpus(np.concatenate([c.pictures for c in chunks]), [t for c in chunks for t in c.texts])
