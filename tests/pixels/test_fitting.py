"""The threshold that fits: the one that is best when every threshold is tried, and said where it is from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mitune.errors import UserError
from mitune.pixels.fitting import Fit
from mitune.pixels.iou import Tally, counts
from mitune.pixels.masks import masks

CLASSES = [("cat", "dog"), ("dog", "car"), ("cat", "cat")]


def drawn(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Heatmaps of two phrases that know something of a label, some of which nobody judged."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (9, 11))
    heat = [np.clip((label == number) * 90 + rng.integers(0, 170, label.shape), 0, 255) for number in (1, 2)]
    label[rng.random(label.shape) < 0.1] = 255
    return [one.astype(np.uint8) for one in heat], label


def test_the_curve_is_the_mean_iou_of_masks_at_every_threshold() -> None:
    fit = Fit()
    for seed, classes in enumerate(CLASSES):
        fit.add(*drawn(seed), classes)
    found = fit.curve()
    for level in range(1, 256, 7):
        tally = Tally()
        for seed, classes in enumerate(CLASSES):
            grey, label = drawn(seed)
            mask = masks(torch.from_numpy(np.stack(grey)).double() / 255, (level - 0.5) / 255)
            tally.add(counts(mask.numpy(), label, classes))
        assert found[level] == pytest.approx(tally.mean(), abs=1e-12)
    chosen = fit.best("three pictures")
    level = round(chosen.value * 255 + 0.5)
    assert found[level] == found[1:].max()
    assert (chosen.origin, chosen.oracle) == ("fitted on three pictures", False)
    assert fit.best("them", oracle=True).origin == "oracle: fitted on them"


def test_of_thresholds_that_are_as_good_the_middle_one_is_taken() -> None:
    fit = Fit()
    grey = np.array([[50, 50, 200, 200]], dtype=np.uint8)
    fit.add([grey], np.array([[0, 0, 1, 1]]), ("cat",))
    # All of the levels 51 to 200 are right.
    assert fit.best("one").value == pytest.approx((125 - 0.5) / 255, abs=1e-6)


def test_without_a_labelled_picture_there_is_nothing_to_fit() -> None:
    with pytest.raises(UserError, match="no threshold can be fitted on no pictures"):
        Fit().best("no pictures")


def test_labels_of_which_nothing_was_judged_fit_no_threshold() -> None:
    fit = Fit()
    fit.add([np.zeros((2, 2), np.uint8)], np.full((2, 2), 255), ("cat",))
    with pytest.raises(UserError, match="no threshold can be fitted on one: every pixel"):
        fit.best("one")
