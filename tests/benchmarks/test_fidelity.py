"""The kernel distance against its definition and on average, the truncated entropy against its closed form."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fidelity import kernel_distance, truncated_entropy


def test_it_is_its_definition() -> None:
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)

    def mean(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        values = [
            (float(p @ q) / 4 + 1) ** 3
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_it_is_unbiased() -> None:
    """Over 400 pairs of sets its mean is 0 within 6 standard errors; sets of another mean are told apart."""
    near = torch.tensor([kernel_distance(torch.randn(20, 3), torch.randn(20, 3)) for _ in range(400)])
    assert abs(float(near.mean())) < 6 * float(near.std()) / 20
    far = kernel_distance(torch.randn(4000, 3) + 1, torch.randn(4000, 3))
    assert far > 1


def test_what_cannot_be_compared() -> None:
    for x, y in ((torch.randn(1, 3), torch.randn(5, 3)), (torch.randn(5, 3), torch.randn(5, 4))):
        with pytest.raises(ValueError, match="cannot be compared"):
            kernel_distance(x, y)


def test_entropy_of_a_gaussian_is_its_closed_form_and_prompts_do_not_count():
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    spread = torch.tensor([3.0, 2.0, 1.0, 0.5])
    features = torch.randn(40_000, 4, generator=generator) * spread
    exact = 0.5 * (2 * torch.pi * torch.e * spread[:2].square()).log().sum()
    groups = ["a", "b"] * 20_000
    # Each log λ has deviation √(2/n); two of them halved: 0.005 in all.
    assert abs(truncated_entropy(features, groups, rank=2) - exact) < 6 * 0.005
    moved = features + torch.tensor([0.0, 50.0]).repeat(20_000)[:, None]
    assert truncated_entropy(moved, groups, rank=2) == pytest.approx(
        truncated_entropy(features, groups, rank=2), abs=1e-3
    )
    assert truncated_entropy(0.5 * features, groups, rank=2) < truncated_entropy(features, groups, rank=2)


def test_entropy_needs_as_many_pictures_as_directions():
    with pytest.raises(ValueError, match="do not span 4 directions"):
        truncated_entropy(torch.randn(5, 8), ["a", "a", "b", "b", "b"], rank=4)
