"""``mitune survey report``: figures, files without personal data, and a page in which nothing of a user is obeyed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mitune.survey.analysis import analysed
from mitune.survey.answers import Answer, Participant
from mitune.survey.design import Survey, write_survey
from mitune.survey.report import told, write_report
from mitune.survey.simulated import Preferences, answered, made_up
from tests.cli import main

EVIL = '<script>alert("x")</script>'
GROUPS = ("academic", "=cmd|' /C calc'!A0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a survey, whose texts are hostile, with its pictures and scores."""
    folder = tmp_path / "survey"
    survey = hostile()
    write_survey(folder, survey)
    (folder / "pictures").mkdir()
    rows = []
    for one in survey.rounds:
        for number, own in enumerate(one.pictures):
            Image.new("RGB", (8, 8), (number * 40, 99, 0)).save(folder / own.file)
            rows.append({"prompt": one.prompt, "picture": own.id, "scores": {EVIL: float(number)}})
    (folder / "scores.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    return folder


def hostile() -> Survey:
    survey = made_up(
        "methods", (EVIL, "=b"), 4, 3, 8, categories=(EVIL, "shape"), groups=GROUPS, attention=True
    )
    rounds = tuple(dataclasses.replace(one, prompt=f"{EVIL} {one.prompt}") for one in survey.rounds)
    return dataclasses.replace(survey, rounds=rounds, title=EVIL, question=EVIL, names=(EVIL, "=b"))


def answers() -> tuple[list[Participant], list[Answer]]:
    return answered(hostile(), 24, Preferences({"": np.full(4, 0.25)}, careless=0.2), 5)


def test_nothing_of_a_user_is_obeyed_by_the_page_and_nothing_is_fetched(folder: Path) -> None:
    write_report(folder, hostile(), *answers())
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert len(re.findall(r"<img[^>]+src=\"data:image/png", page)) == sum(
        len(one.pictures) for one in hostile().rounds
    )
    assert {
        len(re.findall(rf"<{tag}\b", page)) - page.count(f"</{tag}>")
        for tag in ("table", "tr", "figure", "ul")
    } == {0}


def test_the_exports_hold_no_codes_times_or_formulas(folder: Path) -> None:
    participants, given = answers()
    found, written = write_report(folder, hostile(), participants, given)
    codes = [one.code for one in participants]
    assert {path.name for path in written} == {
        "index.html", "report.json", "answers.parquet", "answers.csv", "shares.parquet", "shares.csv",
    }  # fmt: skip
    for path in written:
        data = path.read_bytes()
        assert not any(code.encode() in data for code in codes)
    table = pd.read_parquet(folder / "report" / "answers.parquet")
    assert list(table.columns) == [
        "person", "group", "language", "verdict", "round", "kind", "category", "prompt", "shown", "chosen", "names",
        "seconds",
    ]  # fmt: skip
    assert len(table) == 24 * 4
    assert (table["seconds"] == table["seconds"].round(1)).all()
    text = (folder / "report" / "answers.csv").read_text(encoding="utf-8")
    assert "'=cmd" in text
    assert not re.search(r"(^|,|\")[=+@]", text, re.MULTILINE)
    for name in ("answers", "shares"):
        again = pd.read_csv(folder / "report" / f"{name}.csv")
        assert len(again) == len(pd.read_parquet(folder / "report" / f"{name}.parquet"))
    shares = pd.read_parquet(folder / "report" / "shares.parquet")
    row = shares[
        (shares["table"] == "marginals") & (shares["name"] == "=b") & (shares["group"] == "average")
    ].iloc[0]
    assert row["share"] == found["marginals"][1]["by_group"]["average"]["share"]
    assert row["low"] < row["share"] < row["high"]


def test_the_figures_can_be_read_back_and_are_the_same_again(folder: Path) -> None:
    first, _ = write_report(folder, hostile(), *answers())
    data = (folder / "report" / "report.json").read_bytes()
    assert json.loads(data)["marginals"] == first["marginals"]
    participants, given = answers()
    write_report(folder, hostile(), participants[::-1], given[::-1])
    assert (folder / "report" / "report.json").read_bytes() == data


@pytest.mark.parametrize(
    ("kind", "names", "shown"),
    [
        ("best_of_scores", "abc", 3),
        ("methods", "abcdefgh", 4),
        ("pairs", "abc", 2),
        ("agree", "ab", 1),
        ("agree", "a", 1),
    ],
)
def test_each_kind_has_a_page_with_its_tables(tmp_path: Path, kind: str, names: str, shown: int) -> None:
    survey = made_up(kind, tuple(names), 9, 6, 12, shown=shown, categories=("x", "y", "z"))
    strengths = np.linspace(0.5, -0.5, len(names)) if kind == "pairs" else None
    chances = np.full(1 << len(names), 1 / (1 << len(names)))
    write_survey(tmp_path, survey)
    found, _ = write_report(tmp_path, survey, *answered(survey, 15, Preferences({"": chances}, strengths), 0))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert ("Bradley–Terry" in page) == (kind == "pairs") == (found["strengths"] is not None)
    assert ("All combinations" in page) == (kind == "best_of_scores") == (found["combinations"] is not None)
    assert "By category" in page
    assert "nan" not in page.lower().replace("attention", "")
    assert any("chosen in" in line for line in told(found))
    if found["combinations"]:
        total = sum(row["by_group"]["everyone"]["share"] for row in found["combinations"])
        assert total == pytest.approx(1)


def test_before_the_first_answer_the_command_says_so_and_leaves_a_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["survey", "report", str(folder)]) == 0
    assert "0 of 0 participants are counted" in capsys.readouterr().out
    assert list(pd.read_csv(folder / "report" / "answers.csv").columns)[:2] == ["person", "group"]
    assert "No answer is counted yet" in (folder / "report" / "index.html").read_text(encoding="utf-8")


def test_what_is_no_survey_or_damaged_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        assert main(["survey", "report", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "mitune survey build" in refused(tmp_path / "nothing")
    assert "give one survey's folder" in refused()
    assert "no URL" in refused(folder, "database=here.sqlite")
    (folder / "scores.json").write_text('{"rows": [{"picture": 1}]}')
    assert "scores.json is damaged" in refused(folder)
    (folder / "survey.json").write_text("{")
    assert "survey.json" in refused(folder)


def test_a_share_is_told_in_percent_with_its_interval() -> None:
    survey = made_up("methods", ("a", "b"), 4, 4, 4)
    found = analysed(survey, *answered(survey, 20, Preferences({"": np.array([0, 0, 0.5, 0.5])}), 0))
    lines = told(found)
    assert lines[0] == "20 of 20 participants are counted"
    assert re.fullmatch(r"  a: chosen in 100\.0 % \(\d\d\.\d … 100\.0\)", lines[1])
