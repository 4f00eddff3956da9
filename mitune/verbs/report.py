"""``mitune report RUN``: the page again, of whatever a run has left so far."""

from __future__ import annotations

from mitune.errors import printable
from mitune.verbs.looking import one_folder


def report(words: list[str]) -> int:
    """``mitune report RUN``: write ``report.html`` anew and say where it is."""
    folder = one_folder("report", words)
    from mitune.report import write_report  # with what draws: only for a folder that holds a run

    print(f"report: {printable(str(write_report(folder).resolve()))}")
    return 0
