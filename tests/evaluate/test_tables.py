from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from mitune.evaluate.categories import compare
from mitune.evaluate.tables import bounds, comparison_table, figure


def printed(table: Table, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=120, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def data(lift: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c", "d"],
            "category": ["[red]color", "[red]color", "spatial", "spatial"],
            "candidate": 0,
            "oracle": [0.1 + lift, 0.2 + lift, 0.3 + lift, 0.5 + lift],
            "mi": [1000.0, 2000.0, 3000.0, 4000.0],
        }
    )


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (None, False, "–"),
        (0.12345, False, "0.123"),
        (-0.5, False, "−0.500"),
        (0.5, True, "+0.500"),
        (12345.67, False, "12,345.7"),
    ],
)
def test_figures(value: float | None, sign: bool, text: str) -> None:
    assert figure(value, sign) == text


def test_bounds() -> None:
    assert bounds(None) == "–"
    assert bounds([-0.1, 0.2], sign=True) == "[−0.100, +0.200]"


def test_names_and_titles_are_printed_as_they_are() -> None:
    text = printed(comparison_table(compare(data(0.0), data(0.125)), "[b]title"))
    assert "[red]color" in text
    assert "[b]title" in text


def test_comparison_table_colours_only_what_is_told_apart_from_zero() -> None:
    up, down = r"\x1b\[32m\s*", r"\x1b\[31m\s*"
    text = printed(comparison_table(compare(data(0.0), data(0.125))), colour=True)
    assert re.search(up + r"\+0\.125", text)
    assert not re.search(up + r"\+0\.000", text)
    assert "[+0.125, +0.125]" in text
    text = printed(comparison_table(compare(data(0.125), data(0.0))), colour=True)
    assert re.search(down + "−0\\.125", text)


def test_a_comparison_says_who_judged_and_that_prompts_are_few() -> None:
    judged = {"mi": {"judge": "[b]small\x1b[2J", "itself": True, "selected": True}}
    text = " ".join(printed(comparison_table(compare(data(0.0), data(0.125)), judged=judged)).split())
    assert "judged by mi (it also selected): the model itself ([b]small\\x1b[2J)." in text
    assert "4 prompts: the interval is wide" in text
