"""Heatmaps and masks as files: what is read back is what was written, in the colours of label pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mitune.data.labelled.labels import decode_label
from mitune.pixels import drawings


def test_heat_is_the_nearest_grey_level_and_comes_back() -> None:
    heat = np.array([[0.0, 0.5, 1.0], [1.2, -0.1, 0.25]])
    grey = drawings.levels(heat)
    assert grey.tolist() == [[0, 128, 255], [255, 0, 64]]
    assert (drawings.read_grey(drawings.grey_png(grey)) == grey).all()


def test_a_mask_is_a_palette_file_whose_pixels_are_its_numbers() -> None:
    mask = np.array([[0, 1, 2], [20, 255, 0]])
    data = drawings.mask_png(mask)
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "P"
    assert (decode_label(data, "it") == mask).all()
    # The published colours of VOC's classes 1, 2 and 20, and of its border.
    colours = [(128, 0, 0), (0, 128, 0), (0, 64, 128), (224, 224, 192)]
    assert [drawings.palette()[number] for number in (1, 2, 20, 255)] == colours
    assert picture.convert("RGB").getpixel((1, 0)) == (128, 0, 0)


def test_only_what_a_mask_has_is_coloured() -> None:
    picture = Image.new("RGB", (2, 1), (100, 100, 100))
    shown = np.asarray(drawings.mask_over(picture, [[0, 1]]))
    assert shown[0, 0].tolist() == [100, 100, 100]
    assert shown[0, 1, 0] > shown[0, 1, 1]


def test_heatmaps_are_brought_to_a_picture_of_any_shape() -> None:
    (found,) = drawings.resized([np.eye(4)], (6, 10))
    assert found.shape == (6, 10)
    assert found.min() >= 0
    assert found.max() <= 1
