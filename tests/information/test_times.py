"""Times and weights: what they integrate exactly, what they integrate on average, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.information.catalogue import STRATEGIES, WEIGHTINGS
from mitune.information.times import Profile, Weighting, time_grid
from mitune.noise import NoiseSchedule

VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()
HILL = Profile((50.0, 300.0, 600.0, 900.0), (0.1, 2.0, 0.5, 0.2))


def span(schedule: NoiseSchedule, low: float, high: float) -> float:
    return 0.5 * float(schedule.log_snr(low) - schedule.log_snr(high))


def test_even_times_share_out_the_whole_integral():
    for n in (1, 4, 37, 440):
        t, weights = time_grid(VP, n, 560, 1000)
        assert len(t) == len(weights) == n
        assert t.dtype == torch.int64
        assert (t.diff() > 0).all()
        assert t[0] >= 560
        assert t[-1] <= 999
        assert (weights > 0).all() or n == 440  # λ is flat beyond the last index
        assert float(weights.sum()) == pytest.approx(span(VP, 560, 999), rel=1e-12)
    assert time_grid(VP, 4, 0, 1000).t.tolist() == [125, 375, 625, 875]
    assert time_grid(FLOW, 4, 100, 900).t.tolist() == [200, 400, 600, 800]


def test_the_papers_weights_are_its_kappa_over_the_number_of_times():
    t, weights = time_grid(VP, 30, 50, 1000, weighting="paper")
    torch.testing.assert_close(weights, VP.kappa(t) / 30)


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("weighting", ["continuous", "uniform", "profile"])
@pytest.mark.parametrize("strategy", ["even", "stratified"])
def test_stretches_weigh_what_the_likelihood_does_in_all(schedule, weighting, strategy):
    for seed in (None, 3):
        t, weights = time_grid(schedule, 25, 100, 900, weighting, strategy, HILL, seed)
        assert len(t) == 25
        assert (t.diff() >= 0).all()
        assert t[0] >= 100
        assert t[-1] <= 900
        assert (weights > 0).all()
        assert float(weights.sum()) == pytest.approx(span(schedule, 100, 900), rel=1e-9)


def test_uniform_and_profile_weigh_as_they_say():
    for weight in time_grid(VP, 10, 100, 900, "uniform").weights:
        assert float(weight) == pytest.approx(span(VP, 100, 900) / 10, rel=1e-12)
    t, weights = time_grid(FLOW, 400, 100, 900, "profile", profile=HILL)
    curve = HILL(t.numpy())
    np.testing.assert_allclose(weights / weights.sum(), curve / curve.sum(), rtol=2e-3)


def test_thirds_are_the_thirds_of_the_range():
    for number, strategy in enumerate(("small", "middle", "large")):
        low = 100 + 300 * number
        grid = time_grid(VP, 6, 100, 1000, strategy=strategy)
        expected = time_grid(VP, 6, low, low + 300)
        assert torch.equal(grid.t, expected.t)
        torch.testing.assert_close(grid.weights, expected.weights)


def test_importance_puts_equal_shares_of_the_profile_between_times():
    t, weights = time_grid(FLOW, 200, 100, 900, strategy="importance", profile=HILL)
    ends = HILL.cumulative(np.array([100.0, 900.0]))
    share = (HILL.cumulative(t.numpy()) - ends[0]) / (ends[1] - ends[0])
    share = (share + 0.1 * (t.numpy() - 100) / 800) / 1.1  # a tenth is spread evenly
    np.testing.assert_allclose(share, (np.arange(200) + 0.5) / 200, atol=1e-6)
    # What is proportional to that density is integrated without error.
    density = torch.as_tensor(HILL(t.numpy())) + 0.1 * (ends[1] - ends[0]) / 800
    torch.testing.assert_close(
        weights * density / FLOW.kappa_continuous(t) * 1000,
        torch.full_like(t, 1.1 * (ends[1] - ends[0]) / 200),
    )


def test_a_profile_is_integrated_exactly():
    t = np.linspace(0, 1000, 21)
    fine = np.linspace(0, 1000, 200_001)
    heights = HILL(fine)
    sums = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2 * np.diff(fine))])
    np.testing.assert_allclose(HILL.cumulative(t), sums[::10_000], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("weighting", ["continuous", "uniform", "paper"])
@pytest.mark.parametrize("strategy", ["random", "stratified", "importance"])
def test_what_is_drawn_is_right_on_average(schedule, weighting, strategy):
    # f is known at the network's own times, so the integral is a sum over whole steps (VP) or a fine grid (flow).
    def f(t):
        return torch.sin(t.double() / 150).square() + 0.1

    draws = torch.stack(
        [
            (weights * f(t)).sum()
            for t, weights in (
                time_grid(schedule, 8, 40, 960, weighting, strategy, HILL, seed) for seed in range(400)
            )
        ]
    )
    if schedule is VP:
        t, weights = time_grid(schedule, 920, 40, 960, weighting)
    else:
        fine = torch.linspace(40, 960, 92_001, dtype=torch.float64)
        t = (fine[1:] + fine[:-1]) / 2
        weights = Weighting(schedule, weighting, 40, 960).shares(fine, t)
    exact = (weights * f(t)).sum()
    # Within a stretch "paper" weighs what is drawn by its own value, the others by the stretch: unbiased both.
    assert abs(draws.mean() - exact) <= 3.5 * draws.std() / 400**0.5


def test_stratified_scatters_least_and_importance_less_than_random():
    profile = Profile(
        tuple(range(0, 1001, 10)), tuple(1e-6 + np.exp(-(((np.arange(0, 1001, 10) - 700) / 40) ** 2)))
    )

    def f(t):  # what the profile is of, over the likelihood's weight
        return torch.as_tensor(profile(t.numpy())) / FLOW.kappa_continuous(t)

    scatter = {}
    for strategy in ("random", "stratified", "importance"):
        grids = [time_grid(FLOW, 10, 20, 980, "continuous", strategy, profile, seed) for seed in range(200)]
        scatter[strategy] = float(torch.stack([(g.weights * f(g.t)).sum() for g in grids]).std())
    assert scatter["importance"] < 0.3 * scatter["stratified"] < 0.3 * scatter["random"]


def test_emphasis_is_the_weight_against_the_likelihoods_own():
    for weighting in ("paper", "uniform", "profile"):
        weight = Weighting(FLOW, weighting, 100, 900, HILL)
        t = torch.linspace(150, 850, 8, dtype=torch.float64)
        natural = FLOW.kappa_continuous(t) / 1000
        torch.testing.assert_close(weight.emphasis(t) * natural, weight.density(t))
    assert Weighting(VP).emphasis([5, 500]).tolist() == [1, 1]
    # On the paper's dense grid κ is the likelihood's weight, averaged instead of added up.
    t = torch.arange(100, 900)
    ratio = Weighting(VP, "paper", 100, 900).emphasis(t) * 0.8
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.02, atol=0)


def test_the_same_seed_gives_the_same_times_and_another_gives_others():
    for strategy in ("random", "stratified"):
        first, again, other = (time_grid(VP, 9, 0, 1000, strategy=strategy, seed=s) for s in (1, 1, 2))
        assert torch.equal(first.t, again.t)
        assert torch.equal(first.weights, again.weights)
        assert not torch.equal(first.t, other.t)
        default = time_grid(VP, 9, 0, 1000, strategy=strategy)
        assert torch.equal(default.t, time_grid(VP, 9, 0, 1000, strategy=strategy, seed=0).t)


@given(
    times=st.integers(1, 30),
    low=st.floats(0, 900),
    width=st.floats(95, 1000),
    weighting=st.sampled_from([*WEIGHTINGS]),
    strategy=st.sampled_from([*STRATEGIES]),
    flow=st.booleans(),
    seed=st.none() | st.integers(0, 2**40),
)
@settings(max_examples=80, deadline=None)
def test_any_grid_is_finite_rising_and_inside(times, low, width, weighting, strategy, flow, seed):
    schedule = FLOW if flow else VP
    high = min(low + width, 1000)
    t, weights = time_grid(schedule, times, low, high, weighting, strategy, HILL, seed)
    assert len(t) == len(weights) == times
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (t.diff() >= 0).all()
    assert t.min() >= int(low)
    assert t.max() <= high


@pytest.mark.parametrize("bad", [(4, 500, 500), (4, -1, 500), (4, 0, 1001), (0, 0, 1000), (20, 500, 510)])
@pytest.mark.parametrize("strategy", ["even", "random", "large"])
def test_ranges_that_are_refused(bad, strategy):
    with pytest.raises(UserError, match=r"t_min|times="):
        time_grid(VP, *bad, strategy=strategy)


def test_names_that_are_refused():
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        time_grid(VP, 4, 0, 1000, weighting="uniforme")
    with pytest.raises(UserError, match="did you mean 'stratified'"):
        time_grid(VP, 4, 0, 1000, strategy="stratify")
    with pytest.raises(UserError, match="profile"):
        time_grid(VP, 4, 0, 1000, weighting="profile")
    with pytest.raises(UserError, match="profile"):
        time_grid(VP, 4, 0, 1000, strategy="importance")
    empty = Profile((0.0, 100.0, 200.0), (1.0, 0.0, 0.0))
    for choice in ({"weighting": "profile"}, {"strategy": "importance"}):
        with pytest.raises(UserError, match="profile is 0"):
            time_grid(VP, 4, 300, 1000, profile=empty, **choice)
    for points in (
        ((0.0,), (1.0,)),
        ((1.0, 0.0), (1.0, 1.0)),
        ((0.0, 1.0), (0.0, 0.0)),
        ((0.0, 1.0), (-1.0, 1.0)),
    ):
        with pytest.raises(ValueError, match="profile"):
            Profile(*points)
