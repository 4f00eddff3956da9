"""Compressibility counts the bytes that PIL writes."""

from __future__ import annotations

import io

import torch
from PIL import Image

from mitune.referees.catalogue import JpegConfig
from mitune.referees.jpeg import JpegReward


def test_it_is_minus_the_kilobytes_of_the_file() -> None:
    shown = torch.rand(2, 3, 40, 56)
    levels = (shown * 255).round().to(torch.uint8)
    sizes = []
    for one in levels:
        buffer = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95)
        sizes.append(len(buffer.getvalue()))
    score = JpegReward(JpegConfig(), "cpu").score(shown, ["a", "b"])
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, -torch.tensor(sizes) / 1000.0)


def test_a_flat_picture_and_a_lower_quality_score_higher() -> None:
    noise, flat = torch.rand(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.5)
    score = JpegReward(JpegConfig(), "cpu").score(torch.cat([noise, flat]), ["a", "b"])
    assert score[1] > score[0]
    assert JpegReward(JpegConfig(quality=20), "cpu").score(noise, ["a"]) > score[0]
    assert not JpegReward.differentiable
