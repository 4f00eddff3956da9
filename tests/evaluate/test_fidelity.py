"""The kernel distance against its definition, and its mean where there is nothing to find."""

from __future__ import annotations

import pytest
import torch

from mitune.evaluate.fidelity import kernel_distance


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
