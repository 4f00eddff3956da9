"""The report of a run: one HTML file that holds everything it shows."""

from mitune.report.report import write_report

__all__ = ["write_report"]
