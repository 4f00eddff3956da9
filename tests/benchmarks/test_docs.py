"""The tables of the documentation say what the catalogues say."""

from __future__ import annotations

import pytest

from benchmarks import docs
from mitune.parts import Catalogue, Part


@pytest.mark.parametrize("name", docs.FILES)
def test_the_tables_are_as_the_catalogues_say(name: str) -> None:
    text = (docs.ROOT / name).read_text(encoding="utf-8")
    assert docs.written(text) == text, "python -m benchmarks.docs writes them again"


def test_every_table_has_its_place() -> None:
    whole = "".join((docs.ROOT / name).read_text(encoding="utf-8") for name in docs.FILES)
    for name in docs.TABLES:
        assert f"<!-- table: {name} -->" in whole


def test_a_table_is_replaced_between_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Catalogue("thing", Part("a", "one | two"), Part("b", "three"))
    monkeypatch.setitem(
        docs.TABLES, "things", lambda: docs.table(parts, "thing", {"length": lambda p: p.name * 2})
    )
    before = "x\n<!-- table: things -->\nold\n<!-- end of table -->\ny\n"
    after = docs.written(before)
    assert after.splitlines()[2:6] == [
        "| thing | meaning | length |", "| --- | --- | --- |", "| `a` | one \\| two | aa |", "| `b` | three | bb |",
    ]  # fmt: skip
    assert after.startswith("x\n<!-- table")
    assert after.endswith("<!-- end of table -->\ny\n")
    assert docs.written(after) == after
