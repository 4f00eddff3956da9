"""Intersection over union, against counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mitune.errors import UserError
from mitune.pixels.iou import (
    IGNORED,
    NOTHING,
    Pixels,
    Tally,
    counts,
    mean_of,
    object_iou,
    objects,
    of_picture,
    paired,
)

# cat (1) above, dog (2) below; one pixel nobody judged, which the mask gives to the dog.
LABEL = np.array([[1, 1, 0], [0, 2, IGNORED]])
MASK = np.array([[1, 0, 0], [2, 2, 2]])
NAMES = ("cat", "dog")


def test_pixels_are_counted_as_by_hand_and_those_that_nobody_judged_are_in_no_set():
    assert counts(MASK, LABEL, NAMES) == {
        NOTHING: Pixels(right=1, predicted=2, true=2),
        "cat": Pixels(right=1, predicted=1, true=2),
        "dog": Pixels(right=1, predicted=2, true=1),
    }


def test_the_mean_of_a_picture_is_over_its_classes_and_the_background():
    assert of_picture(MASK, LABEL, NAMES) == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)


def test_over_a_data_set_pixels_are_summed_before_they_are_divided():
    tally = Tally()
    tally.add(counts(MASK, LABEL, NAMES))
    tally.add(counts([[1, 1], [1, 1]], [[1, 1], [1, 0]], ("dog",)))
    assert tally.classes() == pytest.approx({NOTHING: 1 / 4, "cat": 1 / 2, "dog": 4 / 6})
    assert tally.mean() == pytest.approx((1 / 4 + 1 / 2 + 4 / 6) / 3)


def test_a_class_in_no_label_and_no_mask_is_left_out_and_one_in_masks_alone_counts_nothing():
    tally = Tally()
    tally.add(counts([[1, 0]], [[1, 0]], ("cat", "dog", "bird")))
    assert tally.classes() == {NOTHING: 1.0, "cat": 1.0}
    tally.add(counts([[2, 0]], [[0, 0]], ("cat", "dog", "bird")))
    assert tally.classes()["dog"] == 0.0
    assert "bird" not in tally.classes()


def test_phrases_of_one_class_are_counted_as_one():
    found = counts([[1, 2], [2, 0]], [[2, 1], [2, 0]], ("cat", "cat"))
    assert found["cat"] == Pixels(3, 3, 3)


def test_a_picture_of_which_nothing_was_judged_has_no_figure():
    assert math.isnan(of_picture([[1]], [[IGNORED]], ("cat",)))


def test_an_object_is_a_phrase_that_the_label_has():
    assert objects(MASK, LABEL, 2) == [1 / 2, 1 / 2]
    assert objects([[3, 1]], [[1, 1]], 3) == [1 / 2, None, None]


def test_object_iou_is_the_mean_over_the_objects_and_then_over_the_pictures():
    # (1/2 + 1) / 2 = 3/4 and 1/4; a picture without an object tells nothing.
    found = object_iou([[0.5, 1.0, None], [0.25], [None]])
    assert found == pytest.approx((0.5, 0.25, 2))  # the error of two values is half their difference
    assert found.interval == pytest.approx((0.5 - 1.96 / 4, 0.5 + 1.96 / 4))


def test_a_paired_difference_has_the_error_of_the_differences():
    assert paired([0.5, 0.9], [0.4, 0.8]) == pytest.approx((0.1, 0.0, 2))
    with pytest.raises(ValueError):
        paired([0.5], [0.4, 0.8])


def test_one_picture_alone_has_no_error():
    assert mean_of([0.5]).interval is None


@pytest.mark.parametrize(
    ("mask", "label", "says"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 3), int), "of another size than the mask (3×3 against 3×2)"),
        ([[0, 1]], [[0, 7]], "scene.png holds the value 7, but there are 2 phrases; give 0 … 2, or 255"),
        ([[0, 1]], [[0, -1]], "scene.png holds the value -1"),
        ([[0, 3]], [[0, 1]], "the mask holds the value 3"),
        ([[0, 1]], [[0.0, 0.5]], "scene.png holds float64 and no whole numbers"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_in_one_line(mask, label, says):
    with pytest.raises(UserError) as refused:
        counts(mask, label, NAMES, what="scene.png")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        objects(mask, label, 2)
