from __future__ import annotations

import math

import numpy as np
import pytest

from mitune.evaluate.bootstrap import mean_ci, paired_difference, paired_ratio

TRIALS = 400
# Four standard errors of a share of 0.95 seen in TRIALS experiments.
BINOMIAL = 4 * math.sqrt(0.95 * 0.05 / TRIALS)


def clustered(generator: np.random.Generator, clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean 0 whose spread lies mostly between the clusters, as prompts differ more than their pictures."""
    centre = np.repeat(generator.normal(0, 1, clusters), size)
    return centre + generator.normal(0, 0.3, clusters * size), np.repeat(np.arange(clusters), size)


@pytest.mark.parametrize(("clusters", "size"), [(8, 4), (40, 3)])
def test_interval_covers_the_truth_as_often_as_it_says(clusters: int, size: int) -> None:
    generator = np.random.default_rng(clusters)
    hits = 0
    for trial in range(TRIALS):
        values, groups = clustered(generator, clusters, size)
        estimate = mean_ci(values, groups, seed=trial, n=400)
        hits += estimate.low <= 0 <= estimate.high
    assert abs(hits / TRIALS - 0.95) <= BINOMIAL


def test_resampling_pictures_instead_of_prompts_would_not_cover() -> None:
    # The check that the test above can fail: each picture as its own cluster gives intervals far too narrow.
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(TRIALS):
        values, _ = clustered(generator, 40, 3)
        estimate = mean_ci(values, np.arange(len(values)), seed=trial, n=200)
        hits += estimate.low <= 0 <= estimate.high
    assert hits / TRIALS < 0.95 - BINOMIAL


def test_width_agrees_with_the_t_interval_of_cluster_means() -> None:
    from scipy import stats

    values, groups = clustered(np.random.default_rng(3), 60, 4)
    means = values.reshape(60, 4).mean(axis=1)
    half = stats.t.ppf(0.975, 59) * means.std(ddof=1) / math.sqrt(60)
    estimate = mean_ci(values, groups, n=20_000)
    assert estimate.mean == pytest.approx(means.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.08)


def test_unequal_clusters_weigh_by_their_pictures() -> None:
    assert mean_ci([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).mean == 2.0


def test_paired_difference_is_narrower_than_two_separate_intervals() -> None:
    generator = np.random.default_rng(1)
    before, groups = clustered(generator, 30, 4)
    after = before + 0.1 + generator.normal(0, 0.1, len(before))
    paired = paired_difference(before, after, groups)
    alone = mean_ci(after, groups)
    assert paired.mean == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(120))
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_paired_difference_covers_zero_when_nothing_changed() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(TRIALS):
        before, groups = clustered(generator, 20, 3)
        shift = np.repeat(generator.normal(0, 0.2, 20), 3)
        estimate = paired_difference(before, before + shift, groups, seed=trial, n=400)
        hits += estimate.low <= 0 <= estimate.high
    assert abs(hits / TRIALS - 0.95) <= BINOMIAL


def test_paired_ratio() -> None:
    before = np.array([1.0, 2.0, 3.0, 4.0])
    estimate = paired_ratio(before, 0.9 * before, [0, 1, 2, 3])
    assert estimate == pytest.approx((0.9, 0.9, 0.9))


def test_same_seed_same_interval_and_row_order_does_not_matter() -> None:
    values, groups = clustered(np.random.default_rng(4), 12, 3)
    order = np.random.default_rng(5).permutation(len(values))
    assert mean_ci(values, groups, seed=7) == mean_ci(values, groups, seed=7)
    assert mean_ci(values, groups, seed=7) == pytest.approx(mean_ci(values[order], groups[order], seed=7))
    assert mean_ci(values, groups, seed=7).low != mean_ci(values, groups, seed=8).low


def test_one_prompt_has_no_interval() -> None:
    estimate = mean_ci([1.0, 2.0], ["a", "a"])
    assert estimate.mean == 1.5
    assert math.isnan(estimate.low)
    assert estimate.interval is None
    assert mean_ci([1.0, 1.0], ["a", "b"]).interval == [1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "groups"), [([], []), ([1.0, math.nan], [0, 1]), ([1.0, 2.0], [0]), ([[1.0]], [[0]])]
)
def test_senseless_input_is_refused(values: list[float], groups: list[int]) -> None:
    with pytest.raises(ValueError, match="value"):
        mean_ci(values, groups)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_difference([1.0], [1.0, 2.0], [0, 1])
