"""What the select stage reads to choose: the columns that choosing needs, and then all of the chosen rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mitune.data.selection import choose, needed
from mitune.data.settings import SelectConfig
from mitune.data.store import UNIT, CandidateStore, plan_units
from mitune.errors import UserError
from mitune.tasks import Task

PROMPTS = [Task.of(f"prompt {number}", "even" if number % 3 else "odd") for number in range(90)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CandidateStore:
    """Many units of a race and of passes; scores of few values, so that many tie."""
    found, draw = CandidateStore(tmp_path_factory.mktemp("store")), np.random.default_rng(0)
    for unit in plan_units(PROMPTS, 6, 12):
        rows = unit.candidates()
        dropped = [4 if number == 5 else None for _, number in rows]
        left = [1 if number == 4 else None for _, number in rows]
        scores = {
            name: [None if step else float(draw.integers(5)) for step in dropped]
            for name in ("mi", "elbo", "oracle")
        }
        table: dict[str, Any] = {
            "prompt_id": [task.id for task, _ in rows],
            "prompt": [task.text for task, _ in rows],
            "category": [task.category for task, _ in rows],
            "candidate": [number for _, number in rows],
            "seed": [int(draw.integers(2**62)) for _ in rows],
            "kept": [False] * len(rows),
            **scores,
            "elbo": [None if one else value for one, value in zip(left, scores["elbo"], strict=True)],
            "dropped_at": dropped,
            "race": [0.5] * len(rows),
            "left_after": left,
        }
        found.write_unit(unit, table, None)
    return found


@pytest.mark.parametrize(
    ("by", "choice"),
    [
        ("mi", SelectConfig(k=2, losers=1)),
        ("elbo", SelectConfig(k=1, fraction=0.3)),
        ("random", SelectConfig(k=2, fraction=0.5, balance=True)),
        ("z(mi)-0.5*oracle", SelectConfig(k=3, difficulty=1.5)),
        ("mi", SelectConfig(k=2, losers=2, difficulty=2, balance=True, threshold=2)),
    ],
)
def test_it_chooses_what_it_would_choose_from_the_whole_table(
    store: CandidateStore, by: str, choice: SelectConfig
) -> None:
    read = needed(store.columns(), by, choice)
    assert not {"seed", "kept", "race"} & {*read}
    few = choose(store.table(columns=[*read, UNIT], coded=True), by, choice, seed=3)
    whole = choose(store.table(), by, choice, seed=3)
    added = ["score", "rank", "preferred", "weight"]
    pd.testing.assert_frame_equal(store.whole(few).assign(**few[added]), whole)


@pytest.mark.parametrize(
    ("by", "choice"),
    [
        ("mi", SelectConfig(k=6)),
        ("elbo", SelectConfig(k=3, losers=2)),
        ("contrast", SelectConfig()),
        ("no_score", SelectConfig()),
        ("mi+contrast", SelectConfig()),
        ("mi", SelectConfig(threshold=9)),
    ],
)
def test_it_refuses_in_the_words_of_the_whole_table(
    store: CandidateStore, by: str, choice: SelectConfig
) -> None:
    with pytest.raises(UserError) as expected:
        choose(store.table(), by, choice)
    with pytest.raises(UserError) as found:
        choose(store.table(columns=needed(store.columns(), by, choice), coded=True), by, choice)
    assert str(found.value) == str(expected.value)


def test_a_row_that_is_there_no_more_is_not_made_up(store: CandidateStore) -> None:
    rows = store.table(columns=["prompt_id", "candidate", UNIT]).head(3).assign(candidate=99)
    with pytest.raises(UserError, match=r"unit-000000\.parquet was changed"):
        store.whole(rows)
