"""``mitune report``: the page again, whether or not the run is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

Shown = Callable[[list[str]], str]


def test_the_report_of_a_finished_run_comes_out_as_the_run_wrote_it(run: Path, shown: Shown) -> None:
    page = run / "report.html"
    first = page.read_text()
    page.unlink()
    assert f"report: {page}" in shown(["report", str(run)])
    assert page.read_text().replace("mine", "run") == first.replace(
        "mine", "run"
    )  # the copy has another name


def test_a_run_without_a_summary_shows_what_its_stages_noted(run: Path, shown: Shown) -> None:
    (run / "summary.json").unlink()
    shutil.rmtree(run / "round-2")
    (run / "round-1/done/evaluate.json").unlink()
    (run / "round-1/evaluation.json").unlink()
    shown(["report", str(run)])
    text = (run / "report.html").read_text()
    assert "12" in text
    assert "5\u202f120" in text  # parameters trained, of the mark


def test_damaged_marks_do_not_keep_the_report_back(run: Path, shown: Shown) -> None:
    (run / "summary.json").unlink()
    (run / "round-1/done/select.json").write_text("{")
    shown(["report", str(run)])
    assert (run / "report.html").is_file()


def test_an_old_run_has_its_report(old: Path, shown: Shown) -> None:
    (old / "report.html").unlink()
    shown(["report", str(old)])
    assert (old / "report.html").is_file()
