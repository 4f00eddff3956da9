from __future__ import annotations

import pytest
import torch

from mitune.evaluate.diversity import by_prompt, compare_diversity, pairwise_distance


def test_distance_is_the_root_mean_square_over_pixels() -> None:
    pictures = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.5), torch.ones(3, 4, 4)])
    assert pairwise_distance(pictures) == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert pairwise_distance((pictures[[0, 2]] * 255).to(torch.uint8)) == pytest.approx(1.0)
    assert pairwise_distance(pictures[[1, 1]]) == 0.0


def test_distance_does_not_depend_on_the_picture_size() -> None:
    small = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert pairwise_distance(large) == pytest.approx(pairwise_distance(small))


def test_a_single_picture_has_no_distance() -> None:
    with pytest.raises(ValueError, match="two pictures"):
        pairwise_distance(torch.zeros(1, 3, 2, 2))


def test_prompts_are_not_mixed() -> None:
    pictures = torch.stack(
        [torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]
    )
    assert by_prompt(pictures, ["a", "b", "a", "b"]) == {"a": 0.0, "b": 0.0}
    assert by_prompt(pictures, ["a", "a", "b", "c"]) == pytest.approx({"a": 1.0})
    with pytest.raises(ValueError, match="4 pictures but 3 groups"):
        by_prompt(pictures, ["a", "b", "c"])


def test_ratio_of_tuned_to_base() -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(12, 3, 4, 4, generator=generator)
    groups = [number // 3 for number in range(12)]
    shrunk = torch.cat([part.mean(0) + 0.8 * (part - part.mean(0)) for part in base.split(3)])
    result = compare_diversity(base, list(shrunk), groups)
    assert result["ratio"] == pytest.approx(0.8, rel=1e-5)
    assert result["ratio_ci95"] == pytest.approx([0.8, 0.8], rel=1e-5)
    assert result["after"] == pytest.approx(0.8 * result["before"], rel=1e-5)
    assert result["prompts"] == 4


def test_nothing_to_compare_is_null() -> None:
    pictures = torch.rand(3, 3, 2, 2)
    assert compare_diversity(pictures, pictures, ["a", "b", "c"])["ratio"] is None
    same = torch.zeros(4, 3, 2, 2)
    collapsed = compare_diversity(same, torch.rand(4, 3, 2, 2), ["a", "a", "b", "b"])
    assert collapsed["ratio"] is None
    assert collapsed["before"] == 0.0
    half = compare_diversity(
        torch.cat([same[:2], torch.rand(2, 3, 2, 2)]), torch.rand(4, 3, 2, 2), [0, 0, 1, 1]
    )
    assert half["ratio"] > 0
    assert half["ratio_ci95"] is None
