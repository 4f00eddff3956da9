from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mitune.errors import UserError
from mitune.evaluate.categories import alignment, compare, score_columns, summarise


def table(lift: float = 0.0, categories: tuple[str, ...] = ("color", "spatial")) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        for candidate in range(3):
            oracle = float(np.clip(generator.uniform(0.2, 0.8) + lift, 0, 1))
            rows.append(
                {
                    "prompt_id": f"{number:012x}",
                    "prompt": f"prompt {number}",
                    "category": categories[number % len(categories)],
                    "candidate": candidate,
                    "seed": 2**62 + 100 * number + candidate,
                    "oracle": oracle,
                    "exact": oracle > 0.7,
                    "mi": generator.normal(40, 5),
                    "contrast": generator.normal(-1, 1),
                    "kept": True,
                }
            )
    return pd.DataFrame(rows)


def test_summary_has_the_shape_of_the_contract() -> None:
    data = table()
    summary = summarise(data)
    assert list(summary) == ["all", "color", "spatial"]
    for row in summary.values():
        assert {"oracle", "exact", "mi", "n", "oracle_ci95", "contrast"} <= row.keys()
        assert row["oracle_ci95"][0] < row["oracle"] < row["oracle_ci95"][1]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    color = data[data["category"] == "color"]
    assert summary["color"]["oracle"] == pytest.approx(color["oracle"].mean())
    assert summary["color"]["exact"] == pytest.approx((color["oracle"] > 0.7).mean())
    assert summary["all"]["contrast"] == pytest.approx(data["contrast"].mean())
    assert (summary["all"]["n"], summary["color"]["n"], summary["color"]["prompts"]) == (36, 18, 6)
    assert summary["all"]["ci95"]["oracle"] == summary["all"]["oracle_ci95"]
    assert "seed" not in summary["all"]
    assert "kept" not in summary["all"]


@pytest.mark.parametrize("absent", ["dropped", "empty"])
def test_a_model_without_oracle_has_nulls(absent: str) -> None:
    data = table().drop(columns=["oracle", "exact"])
    if absent == "empty":
        data["oracle"], data["exact"] = None, np.nan
    summary = summarise(data)
    for row in summary.values():
        assert (row["oracle"], row["exact"], row["oracle_ci95"]) == (None, None, None)
        assert row["mi"] > 0
    assert set(compare(data, data)["all"]) == {"mi", "contrast", "n", "prompts"}


def test_prompts_without_category_are_in_all_alone() -> None:
    assert list(summarise(table().drop(columns="category"))) == ["all"]
    assert list(summarise(table().assign(category=""))) == ["all"]
    assert list(summarise(table().assign(category=None))) == ["all"]
    assert list(summarise(table().assign(category="all"))) == ["all"]
    assert list(summarise(table(categories=("", "color")))) == ["all", "color"]


def test_a_category_called_all_does_not_hide_the_total() -> None:
    summary = summarise(table(categories=("all", "color")))
    assert summary["all"]["n"] == 36
    assert summary["all (category)"]["n"] == 18


def test_score_columns_keep_the_contract_first() -> None:
    assert score_columns(table()[["contrast", "mi", "prompt", "seed", "exact"]]) == [
        "exact",
        "mi",
        "contrast",
    ]


def test_a_score_that_is_not_finite_names_prompt_and_candidate() -> None:
    data = table()
    data.loc[4, "mi"] = np.nan
    with pytest.raises(UserError, match=r"'mi' of prompt 000000000001 \('prompt 1'\), candidate 1"):
        summarise(data)
    data.loc[4, "mi"] = np.inf
    with pytest.raises(UserError, match="no finite number"):
        compare(table(), data)


def test_an_empty_table_is_a_user_error() -> None:
    with pytest.raises(UserError, match="empty"):
        summarise(table().iloc[:0])


def test_compare_is_the_paired_difference_whatever_the_row_order() -> None:
    before, after = table(), table()
    after["oracle"] = after["oracle"] + np.where(after["category"] == "color", 0.05, 0.0)
    shuffled = after.sample(frac=1.0, random_state=1)
    result = compare(before, shuffled)
    assert result["color"]["oracle"]["difference"] == pytest.approx(0.05)
    assert result["color"]["oracle"]["ci95"] == pytest.approx([0.05, 0.05])
    assert result["spatial"]["oracle"]["difference"] == 0.0
    assert result["all"]["oracle"]["difference"] == pytest.approx(0.025)
    assert result["all"]["oracle"]["ci95"][0] < 0.025 < result["all"]["oracle"]["ci95"][1]
    assert result["all"]["mi"]["before"] == result["all"]["mi"]["after"]
    assert (result["all"]["n"], result["all"]["prompts"]) == (36, 12)
    json.dumps(result, allow_nan=False)


def test_align_puts_after_in_the_order_of_before() -> None:
    before = table()
    shuffled = before.sample(frac=1.0, random_state=2)
    aligned = shuffled.iloc[alignment(before, shuffled)].reset_index(drop=True)
    pd.testing.assert_frame_equal(aligned, before)


def test_tables_of_other_pictures_are_refused() -> None:
    before, after = table(), table()
    with pytest.raises(UserError, match="prompt 00000000000b candidate 2 has no picture in the after table"):
        compare(before, after.iloc[:-1])
    with pytest.raises(UserError, match="no picture in the before table"):
        compare(before.iloc[1:], after)
    with pytest.raises(UserError, match="stands twice in the after table"):
        compare(before, pd.concat([after, after.iloc[:1]]))
    after.loc[5, "seed"] += 1
    with pytest.raises(UserError, match="prompt 000000000001 candidate 2 has another seed"):
        compare(before, after)
