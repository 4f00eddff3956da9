"""Kendall's τ between scores, what a referee thinks of each score's favourites, and the tables and plot of it."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.evaluate.agreement import agreement, markdown, places, plot, ranked, tau, top_mean

SCORES = st.lists(st.integers(0, 5).map(float), min_size=2, max_size=8)


def candidates(prompts: int, each: int, seed: int = 0, noise: float = 1.0) -> pd.DataFrame:
    """A table with the truth, a score that follows it with Gaussian noise, and one that knows nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=prompts * each)
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([f"p{n}" for n in range(prompts)], each),
            "candidate": np.tile(np.arange(each), prompts),
            "oracle": truth,
            "elbo": truth + noise * rng.normal(size=len(truth)),
            "mi": rng.normal(size=len(truth)),
        }
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), one=SCORES)
def test_tau_counts_pairs(data: st.DataObject, one: list[float]) -> None:
    other = data.draw(st.lists(st.integers(0, 5).map(float), min_size=len(one), max_size=len(one)))
    agree = disagree = ties_one = ties_other = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        a, b = np.sign(one[i] - one[j]), np.sign(other[i] - other[j])
        agree, disagree = agree + (a * b > 0), disagree + (a * b < 0)
        ties_one, ties_other = ties_one + (a == 0), ties_other + (b == 0)
    pairs = len(one) * (len(one) - 1) / 2
    room = math.sqrt((pairs - ties_one) * (pairs - ties_other))
    found = tau(np.array(one), np.array(other))
    if room == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx((agree - disagree) / room, abs=1e-12)


def test_the_papers_positions() -> None:
    score = np.arange(50, 0, -1.0)
    other = np.zeros(50)
    other[[0, 24, 49]] = [3.0, 1.0, 2.0]
    chosen = ranked(score, (1, 25, 50))
    assert chosen.tolist() == [0, 24, 49]
    assert tau(score[chosen], other[chosen]) == pytest.approx(1 / 3)
    assert places(50, (1, 25, 50)) == [1, 25, 50]
    assert places(32, (1, 25, 50)) == [1, 16, 32]
    assert places(2, (1, 25, 50)) == [1, 2]
    assert places(100, (1, 25, 50)) == [1, 25, 50]


def test_favourites_that_tie_are_drawn_by_lot() -> None:
    score, referee = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.3, 0.6, 9.0])
    assert top_mean(score, referee, 0.25) == pytest.approx(0.3)
    assert top_mean(score, referee, 1.0) == pytest.approx(referee.mean())
    assert top_mean(np.array([3.0, 2.0, 1.0, 0.0]), referee, 0.5) == pytest.approx(0.15)
    # On average over lots: two of the three that tie.
    assert top_mean(score, referee, 0.5) == pytest.approx(0.3)


def test_tau_of_a_noisy_score_is_the_known_one() -> None:
    """Gaussian scores of correlation ρ have E τ = (2/π) asin ρ (Greiner); τ of independent ones has variance
    2(2n + 5) / 9n(n − 1) for n candidates."""
    prompts, each = 400, 16
    result = agreement(
        candidates(prompts, each, seed=np.random.SeedSequence().entropy % 2**32),
        ["elbo", "mi", "oracle"],
        "oracle",
        resamples=200,
    )
    spread = math.sqrt(2 * (2 * each + 5) / (9 * each * (each - 1)) / prompts)
    expected = 2 / math.pi * math.asin(math.sqrt(0.5))
    assert result["scores"]["elbo"]["tau"] == pytest.approx(expected, abs=4 * spread)
    assert result["scores"]["mi"]["tau"] == pytest.approx(0.0, abs=4 * spread)
    low, high = result["scores"]["mi"]["tau_ci95"]
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.4)
    assert result["tau"]["elbo"]["mi"] == result["tau"]["mi"]["elbo"]
    assert result["scores"]["oracle"]["share_of_room"] == pytest.approx(1.0)
    assert result["scores"]["elbo"]["share_of_room"] > 0.3
    # Everything is everybody's favourite at 100 %.
    for curve in result["curves"].values():
        assert curve[-1]["mean"] == pytest.approx(result["pool"])
    best = [point["mean"] for point in result["curves"]["oracle"]]
    assert best == sorted(best, reverse=True)


def test_the_order_of_the_rows_and_scale_of_a_score_do_not_matter() -> None:
    table = candidates(6, 5)
    one = agreement(table, ["elbo", "oracle"], "oracle", resamples=50)
    other = agreement(
        table.sample(frac=1, random_state=0).assign(elbo=lambda rows: 3 * rows["elbo"] - 1),
        ["elbo", "oracle"],
        "oracle",
        resamples=50,
    )
    assert one["tau"]["elbo"]["oracle"]["mean"] == pytest.approx(other["tau"]["elbo"]["oracle"]["mean"])
    assert one["scores"]["elbo"]["winner"] == pytest.approx(other["scores"]["elbo"]["winner"])


def test_prompts_that_a_score_cannot_tell_apart_are_not_counted() -> None:
    table = candidates(4, 3)
    table.loc[table["prompt_id"].isin(["p0", "p1"]), "oracle"] = 1.0
    result = agreement(table, ["elbo", "oracle"], "oracle", resamples=50)
    assert result["prompts"] == 4
    assert result["tau"]["elbo"]["oracle"]["prompts"] == 2
    result = agreement(table.assign(oracle=1.0), ["elbo", "oracle"], "oracle", resamples=50)
    assert result["tau"]["elbo"]["oracle"] == {"mean": None, "ci95": None, "prompts": 0}
    assert result["scores"]["elbo"]["share_of_room"] is None
    json.dumps(result, allow_nan=False)
    assert "| – |" in markdown(result)
    assert plot(result).startswith(b"\x89PNG")


def test_table_and_plot_show_every_score() -> None:
    forwards = {"elbo": 16, "mi": 0, "oracle": 0}
    result = agreement(candidates(5, 4), list(forwards), "oracle", forwards=forwards, resamples=50)
    text = markdown(result)
    for name in forwards:
        assert f"| `{name}` |" in text
    assert "| `elbo` | 16 |" in text
    assert "ranks 1, 2, 4" in text
    assert plot(result).startswith(b"\x89PNG")
    json.dumps(result, allow_nan=False)


def test_what_is_refused() -> None:
    table = candidates(3, 2)
    with pytest.raises(UserError, match="no score 'cas'; it has prompt_id, candidate, oracle"):
        agreement(table, ["cas", "oracle"], "oracle")
    with pytest.raises(UserError, match="score 'mi' of a candidate of prompt p1 is no finite number"):
        agreement(table.assign(mi=[0, 1, math.nan, 1, 2, 3]), ["mi", "oracle"], "oracle")
    with pytest.raises(UserError, match="1 prompts have two candidates"):
        agreement(table.iloc[:3], ["mi", "oracle"], "oracle")


def test_every_two_scores_are_compared_on_the_pictures_that_one_has_ranked() -> None:
    table = candidates(6, 9)
    found = agreement(table, ["mi", "elbo"], "oracle", positions=(1, 5, 9), ranked_by="mi", resamples=20)
    values = []
    for _, rows in table.groupby("prompt_id"):
        three = rows.sort_values("mi", ascending=False).iloc[[0, 4, 8]]
        values.append(three["elbo"].corr(three["mi"], method="kendall"))
    assert found["tau_positions"]["elbo"]["mi"]["mean"] == pytest.approx(np.mean(values))
    assert found["tau_positions"]["elbo"]["mi"]["mean"] == found["tau_positions"]["mi"]["elbo"]["mean"]
    assert "at ranks 1, 5, 9 by mi, mean over prompts" in markdown(found)
    by_row = agreement(table, ["mi", "elbo"], "oracle", positions=(1, 5, 9), resamples=20)
    assert by_row["tau_positions"]["mi"] == found["tau_positions"]["mi"]
    assert by_row["tau_positions"]["elbo"] != found["tau_positions"]["elbo"]
