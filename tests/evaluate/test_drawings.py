from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mitune.evaluate import drawings
from mitune.evaluate.drawings import curve, grid, histogram, pairs, png, to_image, wrap


def image_of(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def colour(red: float, green: float, blue: float, side: int = 64) -> torch.Tensor:
    return torch.tensor([red, green, blue])[:, None, None].expand(3, side, side)


def test_every_kind_of_picture_becomes_the_same_image() -> None:
    tensor = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = (tensor * 255).round().to(torch.uint8)
    array = tensor.permute(1, 2, 0).numpy()
    kinds: list[Any] = [
        tensor,
        expected,
        array,
        expected.permute(1, 2, 0).numpy(),
        to_image(tensor),
        tensor.double(),
    ]
    for kind in kinds:
        image = to_image(kind)
        assert image.size == (7, 5)
        np.testing.assert_array_equal(np.asarray(image), expected.permute(1, 2, 0).numpy())


def test_values_out_of_range_are_clipped() -> None:
    tensor = torch.tensor([-1.0, 2.0, float("nan")])[:, None, None].expand(3, 1, 1)
    assert to_image(tensor).getpixel((0, 0)) == (0, 255, 0)


def test_png_is_lossless() -> None:
    tensor = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(np.asarray(image_of(png(tensor))), np.asarray(to_image(tensor)))


def test_grid_enlarges_small_pictures_and_reduces_large_ones() -> None:
    small = grid([colour(1, 0, 0), colour(0, 0, 1)], ["red", "blue"], columns=2)
    pixels = np.asarray(small)
    for name, value in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        assert (pixels == value).all(axis=2).sum() == 128 * 128, name
    large = np.asarray(grid([colour(0, 1, 0, side=512)], ["green"]))
    assert (large == (0, 255, 0)).all(axis=2).sum() == 256 * 256
    chosen = np.asarray(grid([colour(0, 1, 0)], ["green"], size=96))
    assert (chosen == (0, 255, 0)).all(axis=2).sum() == 96 * 96


def test_grid_has_rows_of_columns_and_text_below_each_picture() -> None:
    one = grid([colour(1, 0, 0)] * 3, ["a"] * 3, columns=3)
    two = grid([colour(1, 0, 0)] * 3, ["a"] * 3, columns=2)
    assert one.width > two.width
    assert two.height > 1.8 * one.height - 30
    pixels = np.asarray(grid([colour(1, 0, 0)], ["words under it"]))
    red_rows = np.flatnonzero((pixels == (255, 0, 0)).all(axis=2).any(axis=1))
    ink_rows = np.flatnonzero((pixels.max(axis=2) < 100).any(axis=1))
    assert len(ink_rows)
    assert ink_rows.min() > red_rows.max()
    assert ink_rows.max() < len(pixels) - 1


def test_long_captions_make_room_for_themselves() -> None:
    short, long = grid([colour(1, 0, 0)], ["a"]), grid([colour(1, 0, 0)], ["a wrapped caption " * 4])
    assert long.height > short.height
    assert long.width == short.width


def test_pairs_show_before_left_of_after_under_their_headers() -> None:
    sheet = np.asarray(pairs([colour(1, 0, 0)] * 2, [colour(0, 0, 1)] * 2, ["one", "two"], columns=2))
    red = (sheet == (255, 0, 0)).all(axis=2)
    blue = (sheet == (0, 0, 255)).all(axis=2)
    assert red.sum() == blue.sum() == 2 * 128 * 128
    first_red, first_blue = np.flatnonzero(red.any(axis=0))[0], np.flatnonzero(blue.any(axis=0))[0]
    assert first_red < first_blue < first_red + 2 * 128
    above = sheet[: np.flatnonzero(red.any(axis=1))[0] - 2]
    assert (above.max(axis=2) < 160).any(), "headers are drawn above the first row"


def test_pictures_of_many_shapes_share_a_sheet() -> None:
    sheet = grid([torch.rand(3, 32, 64), torch.rand(3, 64, 16)], ["wide", "tall"], columns=2)
    assert sheet.height > 128


def test_senseless_sheets_are_refused() -> None:
    with pytest.raises(ValueError, match="one picture or more"):
        grid([], [])
    with pytest.raises(ValueError, match="1 pictures but 2 captions"):
        grid([colour(1, 0, 0)], ["a", "b"])
    with pytest.raises(ValueError, match="one column"):
        grid([colour(1, 0, 0)], ["a"], columns=0)
    with pytest.raises(ValueError, match="as many of each"):
        pairs([colour(1, 0, 0)], [], ["a"])


@pytest.mark.parametrize(
    "text", ["a red circle left of a blue square with stripes", "x" * 80, "", "ein Ω здравствуй"]
)
def test_wrapped_lines_fit_and_lose_no_letter(text: str) -> None:
    font = drawings._font(12)
    lines = wrap(text, font, 100, lines=50)
    assert all(font.getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_too_many_lines_end_in_an_ellipsis() -> None:
    font = drawings._font(12)
    lines = wrap("word " * 100, font, 100, lines=3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert font.getlength(lines[-1]) <= 100


def test_histogram_draws_both_models() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(0, 1, 200)
    same = histogram(before, before, "mi")
    moved = histogram(before, before + 3, "mi")
    assert image_of(moved).size == image_of(same).size
    assert moved != same
    assert moved == histogram(before, before + 3, "mi"), "the same data give the same bytes"
    assert histogram(before, before + 3, "mi", dark=True) != moved


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 1e9, *[0.5] * 50]])
def test_histogram_takes_single_equal_and_extreme_values(values: list[float]) -> None:
    assert image_of(histogram(values, values, "cost in $ and $")).width > 300


def test_curve_draws_short_long_and_broken_series() -> None:
    steps = np.arange(300)
    loss = np.exp(-steps / 50)
    long = curve({"loss": (steps, loss)}, "step", "loss")
    broken = curve({"loss": (steps, np.where(steps == 100, np.nan, loss))}, "step", "loss")
    short = curve({"loss": ([0], [1.0]), "other": ([0, 1], [1.0, 2.0])}, "step", "loss")
    assert len({long, broken, short}) == 3
    assert image_of(long).size == image_of(short).size


def test_running_mean_leaves_out_what_is_not_finite() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_allclose(drawings._running_mean(values, 3), [1.0, 2.0, 2.0, 4.0, 6.0])
    assert np.isnan(drawings._running_mean(np.array([np.nan, 1.0]), 3)[0])
