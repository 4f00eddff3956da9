"""Views of pictures against cases written out by hand, and their gradients against differences."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch

from mitune.search.catalogue import ViewsConfig
from mitune.search.views import (
    draw,
    homography,
    hue_turned,
    looked_up,
    pooled,
    rectangles,
    size_of,
    tilted,
    tinted,
    turned,
    views,
)

PLAIN = ViewsConfig(
    number=1, size=None, rotate=0, shift=0, perspective=0, colour=0, erase=[0.0, 0.0], noise=0, more_noise=0
)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.rand(
        count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def shown(pictures: torch.Tensor, seeds: tuple[int, ...], **settings) -> torch.Tensor:
    own = ViewsConfig(**{**vars(PLAIN), **settings})
    return views(pictures, draw(generators(*seeds), own, size_of(own, pictures.shape[-2:])), own)


def test_a_quarter_turn_and_a_shift_move_each_point_where_it_is_written_by_hand():
    # x to the right, y down: clockwise by a quarter, the top left of 3 x 3 goes to the top right.
    one = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3).expand(1, 3, 3, 3)
    quarter = torch.tensor([math.pi / 2], dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.float64)
    found = looked_up(one, turned(quarter, none, none, (3, 3)))
    by_hand = torch.tensor([[6.0, 3, 0], [7, 4, 1], [8, 5, 2]], dtype=torch.float64)
    torch.testing.assert_close(found[0, 0], by_hand)
    # One to the right, half a point down: black comes in, and rows mix by halves.
    found = looked_up(one, turned(none, none + 1, none + 0.5, (3, 3)))
    by_hand = torch.tensor([[0.0, 0, 0.5], [0, 1.5, 2.5], [0, 4.5, 5.5]], dtype=torch.float64)
    torch.testing.assert_close(found[0, 0], by_hand)


def test_any_turn_and_shift_is_the_bilinear_sum_written_out_point_by_point():
    height, width = 5, 7
    one = picture(height, width)
    angle, across, down = 0.4, 1.3, -0.6
    back = turned(
        *(torch.tensor([each], dtype=torch.float64) for each in (angle, across, down)), (height, width)
    )
    found = looked_up(one, back)
    for row in range(height):
        for column in range(width):
            # Undo the shift, then the clockwise turn about the middle.
            x, y = column + 0.5 - width / 2 - across, row + 0.5 - height / 2 - down
            u = math.cos(angle) * x + math.sin(angle) * y + width / 2 - 0.5
            v = -math.sin(angle) * x + math.cos(angle) * y + height / 2 - 0.5
            total = torch.zeros(3, dtype=torch.float64)
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        total += (1 - abs(v - i)) * (1 - abs(u - j)) * one[0, :, i, j]
            torch.testing.assert_close(found[0, :, row, column], total)


def test_a_homography_takes_four_points_to_four_points():
    source = torch.tensor([[[0.0, 0], [4, 0], [4, 2], [0, 2]]], dtype=torch.float64)
    target = torch.tensor([[[1.0, 0.5], [3.5, 0], [4, 2.5], [-1, 2]]], dtype=torch.float64)
    found = homography(source, target)
    ends = torch.cat([source, torch.ones(1, 4, 1)], -1) @ found.transpose(1, 2)
    torch.testing.assert_close(ends[..., :2] / ends[..., 2:], target)


def test_corners_that_move_inwards_show_the_whole_picture_between_them():
    # Half of what half the side allows: the picture is drawn at half its size in the middle, black around.
    one = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    moves = torch.full((1, 4, 2), 0.25, dtype=torch.float64)
    found = looked_up(one, tilted(moves, (8, 8)))
    by_hand = torch.zeros(8, 8, dtype=torch.float64)
    by_hand[2:6, 2:6] = 1
    torch.testing.assert_close(found[0, 0], by_hand)
    # Each corner of the picture is where it was moved to.
    moves = torch.tensor([[[0.1, 0.0], [0.0, 0.2], [0.05, 0.15], [0.2, 0.1]]], dtype=torch.float64)
    back = tilted(moves, (10, 20))
    there = torch.tensor([[2.0, 0, 1], [20, 2, 1], [19, 8.5, 1], [4, 9, 1]], dtype=torch.float64)
    from_there = there @ back[0].T
    corners = torch.tensor([[0.0, 0], [20, 0], [20, 10], [0, 10]], dtype=torch.float64)
    torch.testing.assert_close(from_there[:, :2] / from_there[:, 2:], corners)


def test_hue_is_turned_as_colorsys_turns_it():
    pixels = picture(4, 5)
    for turn in (-0.3, 0.0, 0.1, 0.77):
        found = hue_turned(pixels, torch.full((1, 1, 1, 1), turn, dtype=torch.float64))
        for row in range(4):
            for column in range(5):
                hue, saturation, value = colorsys.rgb_to_hsv(*pixels[0, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
                torch.testing.assert_close(
                    found[0, :, row, column], torch.tensor(expected, dtype=torch.float64)
                )
    grey = torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64)
    assert (hue_turned(grey, torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)) == grey).all()


def test_brightness_contrast_and_saturation_are_as_written_by_hand():
    one = torch.tensor([0.2, 0.5, 0.6, 0.4, 0.1, 0.3], dtype=torch.float64).view(1, 2, 3).transpose(1, 2)
    one = one.reshape(1, 3, 1, 2).contiguous()  # two pixels
    b, c, s = 0.1, -0.2, 0.3
    first, second = ([1.1 * v for v in each] for each in ((0.2, 0.5, 0.6), (0.4, 0.1, 0.3)))
    luma = (0.299, 0.587, 0.114)

    def grey(pixel: list[float]) -> float:
        return sum(weight * value for weight, value in zip(luma, pixel, strict=True))

    mean = (grey(first) + grey(second)) / 2
    expected = []
    for pixel in (first, second):
        flat = [mean + (1 + c) * (value - mean) for value in pixel]
        expected.append([min(1, max(0, grey(flat) + (1 + s) * (value - grey(flat)))) for value in flat])
    found = tinted(one, torch.tensor([[b, c, s, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found[0, :, 0].T, torch.tensor(expected, dtype=torch.float64))
    assert tinted(one, torch.zeros(1, 4, dtype=torch.float64)) is one


def test_a_rectangle_hides_the_share_asked_for_within_the_picture():
    uniforms = torch.rand(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks = rectangles(uniforms, [0.1, 0.4], (32, 32))
    shares = masks.mean((1, 2, 3))
    # Sides are whole points: a side of 6 at least is off by half a point, twice.
    assert ((shares > 0.1 * 0.83) & (shares < 0.4 * 1.17)).all()
    for mask in masks[:, 0]:
        down, across = mask.any(1), mask.any(0)
        assert mask.sum() == down.sum() * across.sum()  # one rectangle
    # A share of 0.25 and a square, in the far corner.
    mask = rectangles(torch.tensor([[0.5, 0.5, 0.999, 0.999]]), [0.0, 0.5], (8, 8))
    assert mask[0, 0].nonzero().tolist() == [[i, j] for i in range(4, 8) for j in range(4, 8)]


def test_pooling_is_half_the_mean_and_half_the_maximum():
    one = torch.tensor([[1.0, 2], [3, 6]]).view(1, 1, 2, 2)
    assert float(pooled(one, (1, 1))) == (3 + 6) / 2
    assert pooled(one, (2, 2)) is one


def test_a_view_that_changes_nothing_is_the_picture():
    pictures = picture(8, 8, 2)
    torch.testing.assert_close(shown(pictures, (1, 2)), pictures)


def test_noise_has_the_size_of_its_own_and_of_all_together():
    pictures = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    own = ViewsConfig(**{**vars(PLAIN), "number": 4, "noise": 0.3, "more_noise": 0.2})
    numbers = draw(generators(3), own, (64, 64))
    found = views(pictures, numbers, own).flatten(1).std(1)
    expected = ((0.3 * numbers.uniforms[0, :, 17].double()).square() + 0.04).sqrt()
    # 12,288 draws: the standard deviation of their standard deviation is 0.64 %; four of them.
    torch.testing.assert_close(found, expected, rtol=0.026, atol=0)


def test_the_rectangle_is_the_same_in_all_views_of_a_picture_and_noise_is_not():
    pictures = torch.ones(2, 3, 16, 16, dtype=torch.float64)
    found = shown(pictures, (1, 2), number=3, erase=[0.2, 0.3]).view(2, 3, 3, 16, 16)
    assert (found == found[:, :1]).all()
    assert not (found[0] == found[1]).all()
    noisy = shown(pictures, (1, 2), number=3, more_noise=0.1).view(2, 3, -1)
    assert not (noisy[0, 0] == noisy[0, 1]).all()


def test_views_of_a_picture_do_not_depend_on_its_batch():
    pictures = picture(16, 16, 3)
    settings = vars(ViewsConfig(number=5, size=12))
    together = shown(pictures, (4, 5, 6), **settings)
    alone = shown(pictures[1:2], (5,), **settings)
    assert (together[5:10] == alone).all()


@pytest.mark.parametrize("size", [None, 4])
def test_gradients_are_those_of_differences(size):
    settings = ViewsConfig(number=2, size=size, perspective_share=1.0, colour_share=1.0)
    numbers = draw(generators(7), settings, size_of(settings, (6, 6)))

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        return views(pixels, numbers, settings)

    # Away from black and white, where colours are cut off.
    pixels = (0.2 + 0.6 * picture(6, 6)).requires_grad_()
    assert torch.autograd.gradcheck(seen, pixels)
