"""The page of a survey's answers: one HTML file that holds everything it shows, without a script."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

import mitune
from mitune.report.pictures import shown
from mitune.survey.design import ATTENTION, KINDS, Survey
from mitune.survey.languages import known

ROUNDS = 200  # shown with their pictures, at most
_WHY = {
    "unfinished": "answered fewer of their rounds than the rule asks",
    "attention failed": "failed the attention checks: chose a picture of another prompt, or no right one",
    "too fast": "answered faster than the rule allows, in the median",
    "not begun": "were invited and did not begin",
}


def page(folder: Path, survey: Survey, found: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    """Make the page of what :func:`mitune.survey.analysis.analysed` found; ``rounds``: of ``by_round``."""
    chosen = sorted(rounds, key=lambda one: (one["kind"] == ATTENTION, -_split(one)))[:ROUNDS]
    pictures = {
        own["id"]: shown(folder, own["file"], folder, {}) for one in chosen for own in one["pictures"]
    }
    return _template().render(
        version=mitune.__version__,
        survey=survey,
        question=survey.question or known()["en"][f"question_{survey.kind}"],
        said=KINDS[survey.kind],
        found=found,
        rounds=chosen,
        left=len(rounds) - len(chosen),
        pictures=pictures,
        why=_WHY,
        attention=ATTENTION,
        sorts=0,  # the style's: nothing is put in order here
    )


def _split(one: Mapping[str, Any]) -> float:
    """How far the pictures of a round are apart in what people chose."""
    taken = [own["chosen"] / one["asked"] for own in one["pictures"]]
    return max(taken) - min(taken) if len(taken) > 1 else 0.5 - abs(taken[0] - 0.5)


def _template() -> jinja2.Template:
    """The page's template with the style of all reports; everything put into it is escaped."""
    own, house = (importlib.resources.files(name) for name in ("mitune.survey", "mitune.report"))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader(
            {
                "page": own.joinpath("report.html.j2").read_text(encoding="utf-8"),
                "style": house.joinpath("style.css.j2").read_text(encoding="utf-8"),
            }
        ),
    )
    environment.filters |= {"percent": _percent, "bounds": _bounds, "number": _number}
    return environment.get_template("page")


def _percent(value: float | None, sign: bool = False) -> str:
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.1f}".replace("-", "−")


def _bounds(interval: Sequence[float] | None, scale: float = 100, digits: int = 1) -> str:
    if interval is None:
        return ""
    return " … ".join(f"{scale * bound:.{digits}f}".replace("-", "−") for bound in interval)


def _number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
