"""Schedules end at 1, and the adaptive one stops exactly where the effective sample size says."""

from __future__ import annotations

import math
import secrets

import pytest
import torch

from mitune.errors import UserError
from mitune.search.resampling import effective_sample_size
from mitune.search.tempering import SCHEDULES, Tempering, largest_temper

pytestmark = pytest.mark.fresh_draws


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_tables_rise_to_one(name, steps):
    table = Tempering(name, gamma=0.05).table(steps)
    assert table.shape == (steps + 1,)
    assert (table.diff() >= 0).all()
    assert float(table[-1]) == 1.0
    assert float(table[0]) == (1.0 if name == "constant" else 0.0)


def test_the_published_schedule():
    table = Tempering("gamma", 0.008).table(100)
    assert float(table[50]) == pytest.approx(1.008**50 - 1)
    assert float(table[90]) == 1.0
    ratio = Tempering("exponential", 0.1).table(40)
    assert float(ratio[10]) == pytest.approx((1.1**10 - 1) / (1.1**40 - 1))


def test_adaptive_tempering_is_the_root():
    from scipy.optimize import brentq

    generator = torch.Generator().manual_seed(secrets.randbits(62))
    slope = 6 * torch.randn(20, 50, generator=generator, dtype=torch.float64)
    low = torch.rand(20, generator=generator, dtype=torch.float64) * 0.01
    found = largest_temper(torch.zeros_like(slope), slope, low, torch.ones_like(low), 0.5)
    for row in range(20):

        def gap(temper: float, row: int = row) -> float:
            return float(effective_sample_size(temper * slope[row : row + 1])) - 25

        assert float(found[row]) == pytest.approx(brentq(gap, float(low[row]), 1.0, xtol=1e-12), abs=1e-6)


def test_adaptive_tempering_at_its_ends():
    slope = torch.tensor([[0.1, 0.2, 0.0], [900.0, 0.0, 0.0], [2.0, 1.0, 500.0]], dtype=torch.float64)
    base = torch.tensor([[0, 0, 0], [0, 9, 0], [0, 0, -math.inf]], dtype=torch.float64)
    low = torch.tensor([0.2, 0.3, 0.1], dtype=torch.float64)
    found = largest_temper(base, slope, low, torch.tensor([1.0, 1.0, 0.9]), 0.6)
    assert float(found[0]) == 1.0  # even the whole reward leaves enough
    assert float(found[1]) == 0.3  # already too few: no step
    assert float(found[2]) == pytest.approx(0.9)  # the dead do not count
    steep = torch.tensor([[0.0, 0.0, 1e12]])
    tempers = largest_temper(torch.zeros(1, 3), steep, torch.zeros(1), torch.ones(1), 0.5)
    assert 0 <= float(tempers) < 1e-6


def test_bad_schedules_are_refused():
    with pytest.raises(UserError, match="did you mean 'linear'"):
        Tempering("linaer")
    for gamma in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match=r"search\.gamma"):
            Tempering("gamma", gamma)
