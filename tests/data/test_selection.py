"""Selection: exactly k a prompt, the highest, whatever the order of the table; controls and refusals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.data.selection import clearest, prompt_weights, reaching, scorers, select, worst
from mitune.errors import UserError

SCORES = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)


def make(scores: list[list[float]]) -> pd.DataFrame:
    rows = [
        {
            "prompt_id": f"id{p}",
            "prompt": f"prompt {p}",
            "category": "c",
            "candidate": i,
            "seed": 10 * p + i,
            "mi": s,
        }
        for p, column in enumerate(scores)
        for i, s in enumerate(column)
    ]
    return pd.DataFrame(rows)


tables = st.lists(st.lists(SCORES, min_size=3, max_size=7), min_size=1, max_size=5).map(make)


@settings(max_examples=40, deadline=None)
@given(table=tables, k=st.integers(1, 3), highest=st.booleans())
def test_exactly_k_a_prompt_and_none_left_out_is_better(table: pd.DataFrame, k: int, highest: bool) -> None:
    chosen = select(table, "mi", k, highest=highest)
    assert (chosen.groupby("prompt_id").size() == k).all()
    assert set(chosen["prompt_id"]) == set(table["prompt_id"])
    assert chosen["preferred"].all()
    sign = 1 if highest else -1
    for prompt, rows in chosen.groupby("prompt_id"):
        assert rows["rank"].tolist() == list(range(k))
        assert (sign * np.diff(rows["score"]) <= 0).all()
        everything = table[table["prompt_id"] == prompt]
        left = everything[~everything["candidate"].isin(rows["candidate"])]
        assert not (sign * left["mi"] > (sign * rows["mi"]).min()).any()
        # Ties go to the lower number.
        edge = rows.iloc[-1]
        assert not ((left["mi"] == edge["mi"]) & (left["candidate"] < edge["candidate"])).any()


@settings(max_examples=40, deadline=None)
@given(
    table=tables,
    k=st.integers(1, 2),
    losers=st.integers(0, 1),
    by=st.sampled_from(["mi", "random"]),
    data=st.data(),
)
def test_the_order_of_the_rows_does_not_matter(
    table: pd.DataFrame, k: int, losers: int, by: str, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(table))))
    shuffled = table.iloc[list(order)]
    pd.testing.assert_frame_equal(select(shuffled, by, k, losers=losers), select(table, by, k, losers=losers))


@settings(max_examples=40, deadline=None)
@given(table=tables, k=st.integers(1, 2))
def test_losers_are_the_worst_of_the_rest(table: pd.DataFrame, k: int) -> None:
    chosen = select(table, "mi", k, losers=1)
    winners, losers = chosen[chosen["preferred"]], chosen[~chosen["preferred"]]
    pd.testing.assert_frame_equal(winners.reset_index(drop=True), select(table, "mi", k))
    assert (losers["score"].to_numpy() == table.groupby("prompt_id")["mi"].min().to_numpy()).all()
    assert not set(zip(winners["prompt_id"], winners["candidate"], strict=True)) & set(
        zip(losers["prompt_id"], losers["candidate"], strict=True)
    )


def test_losers_come_worst_first() -> None:
    chosen = select(make([[5, 4, 3, 2, 1]]), "mi", 2, losers=2)
    assert chosen["score"].tolist() == [5, 4, 1, 2]
    assert chosen["preferred"].tolist() == [True, True, False, False]
    assert chosen["rank"].tolist() == [0, 1, 4, 3]


def test_worst_is_the_other_end() -> None:
    assert worst(make([[1, 5, 3], [2, 2, 9]]), "mi", 2)["candidate"].tolist() == [0, 2, 0, 1]


def test_a_table_with_repeated_index_is_fine() -> None:
    table = pd.concat([make([[1, 2, 3]]), make([[0, 0, 0], [3, 2, 1]]).iloc[3:]])
    assert select(table, "mi", 1, losers=1)["candidate"].tolist() == [2, 0, 0, 2]


def test_random_is_fair_seeded_and_depends_on_nothing_else() -> None:
    table = make([[0.0] * 4] * 400)
    first = select(table, "random", 1)
    counts = first["candidate"].value_counts()
    assert set(counts.index) == {0, 1, 2, 3}
    assert counts.min() > 60
    assert first["candidate"].tolist() == select(table.assign(mi=1.0), "random", 1)["candidate"].tolist()
    assert first["candidate"].tolist() != select(table, "random", 1, seed=1)["candidate"].tolist()
    assert first["score"].between(0, 1).all()


def test_every_column_that_is_no_key_is_a_score() -> None:
    table = make([[1.0, 2.0]]).assign(kept=True, unit=0, latent_row=0, oracle=0.5)
    assert scorers(table) == ["mi", "oracle"]
    assert scorers(select(table, "mi", 1)) == ["mi", "oracle"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(value: float) -> None:
    with pytest.raises(UserError, match=r"candidate 1 of prompt 'prompt 2' is (nan|inf)"):
        select(make([[1, 2], [1, 2], [1, value]]), "mi", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 3}, "k=3 asked for, but prompt 'prompt 1' has only 2 candidates"),
        ({"k": 1, "losers": 2}, "k=1 and 2 losers asked for, but prompt 'prompt 1' has only 2 candidates"),
        ({"k": 0}, "select.k=0: must be at least 1"),
        ({"k": 1, "by": "mu"}, "no such score, did you mean 'mi'\\?; there are mi, random"),
    ],
)
def test_what_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(make([[1, 2, 3], [1, 2]]), **{"by": "mi", **arguments})  # type: ignore[arg-type]


def test_a_table_that_is_empty_or_doubled_is_refused() -> None:
    with pytest.raises(UserError, match="no candidates"):
        select(make([]), "mi", 1)
    table = make([[1, 2]])
    with pytest.raises(UserError, match="appears twice"):
        select(pd.concat([table, table]), "mi", 1)


def test_the_clearest_prompts_are_those_whose_winners_stand_out_most() -> None:
    table = make([[0, 0, 1], [5, 5, 5], [0, 9, 0], [0, 3, 0]])
    chosen = select(table, "mi", 1)
    assert clearest(chosen, table, "mi", 0.5)["prompt_id"].tolist() == ["id2", "id3"]
    assert clearest(chosen, table, "mi", 0.01)["prompt_id"].tolist() == ["id2"]  # never none
    pd.testing.assert_frame_equal(clearest(chosen, table, "mi", 1.0), chosen)


def test_with_losers_the_distance_to_them_counts_and_they_stay_with_their_winners() -> None:
    table = make([[0, 10, 10], [4, 5, 6], [-20, 0, 1]])
    kept = clearest(select(table, "mi", 1, losers=1), table, "mi", 0.34)
    assert kept["prompt_id"].tolist() == ["id0", "id0", "id2", "id2"]
    assert kept["preferred"].tolist() == [True, False, True, False]


@settings(max_examples=40, deadline=None)
@given(table=tables, fraction=st.floats(0.01, 1.0))
def test_no_prompt_left_out_was_clearer_than_one_kept(table: pd.DataFrame, fraction: float) -> None:
    chosen = select(table, "mi", 1)
    kept = clearest(chosen, table, "mi", fraction)["prompt_id"].unique()
    margin = table.groupby("prompt_id")["mi"].max() - table.groupby("prompt_id")["mi"].mean()
    left = margin.drop(kept)
    assert len(kept) == math.ceil(fraction * len(margin))
    assert left.empty or left.max() <= margin[kept].min() + 1e-9 * abs(margin).max()


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, math.nan])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    table = make([[1, 2, 3]])
    with pytest.raises(UserError, match=r"select\.fraction"):
        clearest(select(table, "mi", 1), table, "mi", fraction)


def of_categories(scores: list[list[float]], categories: str) -> pd.DataFrame:
    """A table with the category of each prompt."""
    table = make(scores)
    return table.assign(category=[categories[int(name[2:])] for name in table["prompt_id"]])


def test_balance_keeps_the_clearest_of_every_category() -> None:
    table = of_categories([[0, 9, 0], [0, 8, 0], [0, 1, 0], [0, 2, 0], [0, 7, 0]], "aabba")
    chosen = select(table, "mi", 1)
    assert clearest(chosen, table, "mi", 0.4)["prompt_id"].tolist() == ["id0", "id1"]
    assert clearest(chosen, table, "mi", 0.4, balance=True)["prompt_id"].tolist() == ["id0", "id3"]
    assert clearest(chosen, table, "mi", 1.0, balance=True)["prompt_id"].tolist() == [
        "id0",
        "id1",
        "id2",
        "id3",
    ]


@settings(max_examples=40, deadline=None)
@given(table=tables, fraction=st.floats(0.01, 1.0), seed=st.integers(0, 2**16))
def test_balanced_categories_are_equal(table: pd.DataFrame, fraction: float, seed: int) -> None:
    of = {
        name: "abc"[(seed * 31 + number * number) % 3]
        for number, name in enumerate(table["prompt_id"].unique())
    }
    table = table.assign(category=table["prompt_id"].map(of))
    kept = clearest(select(table, "mi", 1), table, "mi", fraction, balance=True)
    counts = kept["category"].value_counts()
    assert set(counts.index) == set(of.values())
    assert set(counts) == {math.ceil(fraction * pd.Series(of).value_counts().min())}


def test_a_threshold_keeps_what_reaches_it_and_no_more_than_k() -> None:
    table = make([[1, 5, 6], [0, 1, 2], [7, 8, 9]])
    assert reaching(select(table, "mi", 2), 6.0)["mi"].tolist() == [6, 9, 8]
    with pytest.raises(UserError, match=r"select\.threshold=9\.5: no candidate reaches it, the best has 9"):
        reaching(select(table, "mi", 3), 9.5)


def test_hard_prompts_count_more() -> None:
    table = make([[1, 3], [5, 7], [9, 11]]).assign(llr=[3.0, 3, 3, 3, 3, 3])
    chosen = select(table, "mi", 1)
    step = math.exp(1.5**0.5)  # the means 2, 6, 10 are a standard deviation of 4·√(2/3) apart: z = ±√1.5
    weights = prompt_weights(chosen, table, "mi", 1.0)
    np.testing.assert_allclose(weights / weights[1], [step, 1, 1 / step])
    assert weights.mean() == pytest.approx(1)
    # Standardised within a prompt the score says nothing of it: the parts are taken as they are.
    np.testing.assert_allclose(prompt_weights(chosen, table, "z(mi)+2*z(llr)", 1.0), weights)
    np.testing.assert_array_equal(prompt_weights(chosen, table, "mi", 0.0), 1)
    np.testing.assert_array_equal(prompt_weights(chosen, table, "random", 1.0), 1)
