"""The corpus: reproducible, the same for any number of workers, no test prompts, as wrong as asked for."""

from __future__ import annotations

import numpy as np

from mitune.worlds.shapes import is_test_prompt, oracle_scores
from mitune.worlds.shapes.corpus import build_corpus


def test_the_corpus_depends_on_its_seed_alone() -> None:
    one, again = (build_corpus(12, 2, 0.5, seed=3) for _ in range(2))
    other = build_corpus(12, 2, 0.5, seed=4)
    assert np.array_equal(one.pictures, again.pictures)
    assert one.texts == again.texts
    assert not np.array_equal(one.pictures, other.pictures)


def test_workers_do_not_change_the_corpus() -> None:
    one, two = build_corpus(1002, 1, 0.3, seed=5), build_corpus(1002, 1, 0.3, seed=5, workers=2)
    assert np.array_equal(one.pictures, two.pictures)
    assert one.texts == two.texts


def test_captions_are_right_or_wrong_as_asked_and_never_test_prompts() -> None:
    right, wrong = build_corpus(60, 2, 0.0, seed=6), build_corpus(60, 2, 1.0, seed=6)
    for corpus, share in ((right, 1.0), (wrong, 0.0)):
        texts = [text for captions in corpus.texts for text in captions]
        assert not any(map(is_test_prompt, texts))
        scores = oracle_scores(np.repeat(corpus.pictures, 2, axis=0), texts)
        # The oracle itself is right on 99 % of clean renders; 120 captions leave room for four of its errors.
        assert abs(float(np.mean(scores == 1.0)) - share) <= 4 / 120
