"""Our preprocessing in torch is the processor's on PIL pictures."""

from __future__ import annotations

import pytest
import torch

from mitune.errors import UserError
from mitune.referees.preprocess import Preprocess, read_preprocess, to_images
from tests.referees.conftest import pictures

SIZES = [(32, 32), (64, 64), (97, 64), (50, 83), (20, 31), (224, 160)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("resample", [2, 3])
def test_it_is_the_processor_s_up_to_rounding(height: int, width: int, resample: int) -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=resample
    )
    shown = pictures(2, height, width)
    theirs = processor(to_images(shown), return_tensors="pt")["pixel_values"]
    ours = read_preprocess(processor.to_dict(), "test")(shown)
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    assert ours.shape == theirs.shape
    # Two roundings of half a level each, the first spread by a filter whose weights sum to at most 1.6 in size.
    assert ((ours - theirs) * std).abs().max() <= 2.0 / 255 + 1e-6


def test_a_size_of_two_sides_and_no_crop() -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"height": 24, "width": 40}, do_center_crop=False)
    shown = pictures(1, 60, 50)
    theirs = processor(to_images(shown), return_tensors="pt")["pixel_values"]
    ours = read_preprocess(processor.to_dict(), "test")(shown)
    assert ours.shape == theirs.shape == (1, 3, 24, 40)
    assert (ours - theirs).abs().max() * 0.28 <= 2.0 / 255


def test_a_crop_larger_than_the_picture_gets_a_black_border() -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(do_resize=False, crop_size={"height": 41, "width": 38})
    shown = pictures(1, 30, 45)
    theirs = processor(to_images(shown), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(read_preprocess(processor.to_dict(), "t")(shown), theirs, atol=1e-5, rtol=0)


def test_old_configurations_give_plain_numbers() -> None:
    """As openai/clip-vit-base-patch32 still has them."""
    steps = read_preprocess({"size": 224, "crop_size": 224, "do_normalize": True, "resample": 3}, "t")
    assert steps == Preprocess(224, (224, 224))


@pytest.mark.parametrize("wrong", [{"resample": 1}, {"rescale_factor": 1.0}])
def test_what_cannot_be_followed_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=r"scorer\.clip\.path=x: preprocessor_config\.json"):
        read_preprocess(wrong, "scorer.clip.path=x")
