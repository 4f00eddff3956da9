"""Masks of heatmaps, and where their threshold is from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mitune.errors import UserError
from mitune.pixels.masks import GRID, agreement, fitted, fixed, masks

MAPS = torch.tensor([[[0.9, 0.6, 0.2]], [[0.1, 0.6, 0.3]]])


def test_a_pixel_is_the_hottest_phrases_the_first_of_equal_ones_and_the_background_below_the_threshold():
    assert masks(MAPS, 0.5).tolist() == [[1, 1, 0]]
    assert masks(MAPS, 0.25).tolist() == [[1, 1, 2]]
    assert masks(MAPS.flip(0), 0.5).tolist() == [[2, 1, 0]]
    assert masks(MAPS, 0.5).dtype == torch.int64


def test_the_threshold_itself_is_hot_enough():
    assert masks(torch.tensor([[[0.5]]]), 0.5).tolist() == [[1]]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_heat_is_refused(threshold):
    with pytest.raises(UserError, match=r"^threshold="):
        masks(MAPS, threshold)


@pytest.mark.parametrize("maps", [torch.zeros(3, 3), torch.zeros(0, 3, 3), torch.full((1, 2, 2), torch.nan)])
def test_maps_that_make_no_mask_are_refused(maps):
    with pytest.raises(UserError):
        masks(maps, 0.5)


def test_the_threshold_is_fitted_where_the_labels_agree_best_and_says_on_what():
    # The object's heat is 0.6, what else is warm 0.4: any threshold in (0.4, 0.6] is right, the middle one is taken.
    maps = torch.tensor([[[0.6, 0.4, 0.0]]])
    found = fitted(agreement([maps], [np.array([[1, 0, 0]])], [["cat"]]), on="60 dev scenes")
    assert found == (0.5, "fitted on 60 dev scenes", False)


def test_a_threshold_of_the_labels_it_is_judged_by_is_called_an_oracle():
    assert fitted(lambda value: -value, on="the test labels", oracle=True).origin.startswith("oracle: ")
    assert not fixed(0.4).oracle


def test_a_set_of_which_nothing_was_judged_fits_no_threshold():
    with pytest.raises(UserError, match="no labelled pixels"):
        fitted(agreement([MAPS], [np.full((1, 3), 255)], [["cat", "dog"]]), on="nothing")
    assert len(GRID) == 99
