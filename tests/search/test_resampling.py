"""Every scheme is unbiased, the even ones scatter less than the plain one, and no scheme revives the dead."""

from __future__ import annotations

import math
import secrets

import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.search.resampling import SCHEMES, ancestors, capped, effective_sample_size, resample

pytestmark = pytest.mark.fresh_draws

WEIGHTS = torch.tensor([0.31, 0.02, 0.11, 0.17, 0.05, 0.23, 0.11], dtype=torch.float64)
FALSE_ALARM = 1e-5


def fresh() -> torch.Generator:
    return torch.Generator().manual_seed(secrets.randbits(62))


def offspring(found: Tensor) -> Tensor:
    """Counts [P, N] of ancestor indices [P, N]."""
    return torch.zeros(found.shape, dtype=torch.float64).scatter_add(
        1, found, torch.ones_like(found).double()
    )


def p_value(counts: Tensor, expected: Tensor) -> float:
    """Of Hotelling's statistic: mean counts against ``expected``, in the counts' own covariance (χ², its rank)."""
    from scipy.stats import chi2

    off = counts.mean(0) - expected
    scale, axes = torch.linalg.eigh(torch.cov(counts.T))
    real = scale > 1e-9
    assert (axes.T @ off)[~real].abs().max() < 1e-9  # what never varies is exact: above all, the sum
    statistic = ((axes.T @ off)[real].square() / scale[real]).sum() * len(counts)
    return float(chi2.sf(float(statistic), int(real.sum())))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mean_offspring_is_the_weight(scheme):
    found = resample(WEIGHTS.log().repeat(20_000, 1), scheme, fresh())
    counts = offspring(found)
    assert p_value(counts, 7 * WEIGHTS) > FALSE_ALARM
    # The test can tell: a hundredth moved from one particle to another is found.
    moved = WEIGHTS + 0.01 * torch.tensor([1, 0, 0, -1, 0, 0, 0])
    assert p_value(counts, 7 * moved) < FALSE_ALARM


def test_even_schemes_scatter_less():
    log_weights = torch.randn(1, 33, generator=fresh(), dtype=torch.float64).expand(3000, -1)
    scatter = {
        scheme: float(offspring(resample(log_weights, scheme, fresh())).var(0).sum()) for scheme in SCHEMES
    }
    # Σ_i N w_i (1 − w_i) is known; 3000 draws of 33 counts place it within 2 %.
    weights = log_weights[0].softmax(0)
    assert scatter["multinomial"] == pytest.approx(float((33 * weights * (1 - weights)).sum()), rel=0.1)
    fraction = 33 * weights - (33 * weights).floor()
    least = float((fraction * (1 - fraction)).sum())  # of any unbiased scheme
    for scheme in ("systematic", "ssp"):
        assert scatter[scheme] == pytest.approx(least, rel=0.1)
        assert scatter[scheme] < 0.5 * scatter["multinomial"]
    for scheme in ("residual", "stratified"):
        assert scatter[scheme] < 0.9 * scatter["multinomial"]


@pytest.mark.parametrize("scheme", ["systematic", "ssp"])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_offspring_is_the_weight_rounded(scheme, n):
    log_weights = 2 * torch.randn(50, n, generator=fresh(), dtype=torch.float64)
    counts = offspring(resample(log_weights, scheme, fresh()))
    expected = n * log_weights.softmax(1)
    assert ((counts - expected).abs() < 1 + 1e-6).all()
    assert (counts.sum(1) == n).all()


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "multinomial"])
@pytest.mark.parametrize("n", [3, 10, 49, 128])
def test_even_weights_change_nothing(scheme, n):
    found = resample(torch.full((5, n), -3.7), scheme, fresh())
    assert torch.equal(found, torch.arange(n).expand(5, n))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_dead_stay_dead(scheme):
    log_weights = torch.full((4, 6), -math.inf, dtype=torch.float64)
    log_weights[0, 3] = 0.0
    log_weights[1, [1, 4]] = torch.tensor([-700.0, -701.0], dtype=torch.float64)
    log_weights[2, [0, 5]] = 1e4
    log_weights[3, 2:4] = 0.0
    for extreme in (0.0, 1 - 2**-53, 0.5):
        found = ancestors(log_weights, scheme, torch.full((4, 6), extreme, dtype=torch.float64))
        assert (log_weights.gather(1, found) > -math.inf).all()
        assert found[0].tolist() == [3] * 6
        assert (found.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_prompts_do_not_touch_each_other(scheme):
    log_weights = torch.randn(6, 11, generator=fresh(), dtype=torch.float64)
    uniforms = torch.rand(6, 11, generator=fresh(), dtype=torch.float64)
    together = ancestors(log_weights, scheme, uniforms)
    for row in range(6):
        apart = ancestors(log_weights[row : row + 1], scheme, uniforms[row : row + 1])
        assert torch.equal(apart[0], together[row])


def test_effective_sample_size():
    log_weights = torch.tensor(
        [[0.0, 0, 0, 0], [5, -math.inf, -math.inf, -math.inf], [math.log(3), 0, 0, -math.inf]]
    )
    expected = torch.tensor([4.0, 1.0, 25 / 11])
    torch.testing.assert_close(effective_sample_size(log_weights), expected)
    torch.testing.assert_close(effective_sample_size(log_weights + 1e3), expected, rtol=1e-4, atol=1e-4)
    assert effective_sample_size(torch.full((1, 3), -math.inf)).tolist() == [0.0]


def test_a_cap_holds_and_spares_the_rest():
    weights = torch.tensor(
        [[0.5, 0.2, 0.1, 0.08, 0.07, 0.05], [0.4, 0.4, 0.2, 0.0, 0.0, 0.0]], dtype=torch.float64
    )
    families = torch.tensor([[0, 0, 2, 3, 3, 5], [1, 1, 4, 5, 5, 5]])
    shares = capped(weights.log(), families, 0.4).exp()
    torch.testing.assert_close(shares.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(shares[0, :2].sum()) == pytest.approx(0.4)
    torch.testing.assert_close(shares[0, 2:], 2 * weights[0, 2:])  # 0.3 grew to 0.6, ratios kept
    torch.testing.assert_close(shares[0, 0] / shares[0, 1], torch.tensor(2.5, dtype=torch.float64))
    # Two living families cannot share less than a half each.
    torch.testing.assert_close(shares[1, :3], torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))
    assert (shares[1, 3:] == 0).all()
    torch.testing.assert_close(capped(weights.log(), families, 0.9).exp(), weights)


def test_bad_weights_are_refused():
    with pytest.raises(UserError, match="prompt number 1"):
        resample(torch.tensor([[0.0, 0.0], [-math.inf, -math.inf]]))
    for bad in (math.nan, math.inf):
        with pytest.raises(UserError, match="NaN"):
            resample(torch.tensor([[0.0, bad]]))
    with pytest.raises(UserError, match="did you mean 'systematic'"):
        resample(torch.zeros(1, 2), "sytematic")
