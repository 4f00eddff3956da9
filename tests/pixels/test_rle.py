"""Masks as COCO writes them: runs counted by hand, and letters as its own tools write them."""

from __future__ import annotations

import numpy as np
import pytest

from mitune.errors import UserError
from mitune.pixels import rle

HAND = [
    # A mask, and its runs down the columns, counted by hand.
    ([[0, 0], [0, 0]], [4]),
    ([[1, 1], [1, 1]], [0, 4]),
    ([[1, 0], [0, 0]], [0, 1, 3]),
    ([[0, 1, 0], [1, 1, 0]], [1, 3, 2]),
    ([[0, 0, 1], [1, 0, 1], [0, 0, 0]], [1, 1, 4, 2, 1]),
]


@pytest.mark.parametrize(("mask", "counts"), HAND)
def test_runs_are_counted_down_the_columns_and_begin_outside(
    mask: list[list[int]], counts: list[int]
) -> None:
    assert rle.runs(mask) == counts
    assert rle.numbers(rle.letters(counts)) == counts


def test_letters_are_those_of_cocos_tools() -> None:
    # What pycocotools 2.0.11 wrote: mask.encode of a square of 15 x 27 pixels in 30 x 40.
    square = np.zeros((30, 40), bool)
    square[5:20, 3:30] = True
    assert rle.encode(square) == {"size": [30, 40], "counts": "o2??" + 51 * "0" + "W9"}
    assert rle.letters([0, 1, 3]) == "013"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_a_mask_comes_back_to_the_pixel(share: float) -> None:
    mask = np.random.default_rng(0).random((37, 211)) < share
    assert (rle.decode(rle.encode(mask)) == mask).all()


def test_counts_that_do_not_fit_their_size_are_refused() -> None:
    with pytest.raises(UserError, match="add up to 4, not to its 3 x 2 pixels"):
        rle.decode({"size": [3, 2], "counts": rle.letters([1, 3])})
