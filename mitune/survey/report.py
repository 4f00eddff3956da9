"""``mitune survey report``: the tables, their files and the page of a survey's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.errors import UserError, printable
from mitune.files import write_json, write_text
from mitune.reading import home, is_file, is_number, read_json
from mitune.survey.answers import Answer, Participant, is_url, read_answers
from mitune.survey.design import SCORES, Survey, plan_digest, read_survey

REPORT, PAGE, FIGURES = "report", "index.html", "report.json"
_WORDS = "FOLDER [database=URL]"


def main(words: Sequence[str]) -> int:
    """``mitune survey report FOLDER [database=URL]``; ``database``: of the answers, where it is not in the folder."""
    if [*words[:1]] == ["help"]:
        print(
            f"mitune survey report {_WORDS}\n\n  database=\n      the database's URL, where it is not in FOLDER"
        )
        return 0
    places = [word for word in words if not word.startswith("database=")]
    given = [word.partition("=")[2] for word in words if word.startswith("database=")]
    if len(places) != 1:
        raise UserError(f"survey report: give one survey's folder: {_WORDS}")
    folder = home(places[0])
    survey = read_survey(folder)
    if given and not is_url(given[-1]):
        raise UserError(
            "survey report: database= is no URL of a database; give one as postgresql://USER@HOST/NAME"
        )
    participants, answers = read_answers(given[-1] if given else folder, plan_digest(survey))
    found, written = write_report(folder, survey, participants, answers)
    for line in (*told(found), *(f"{path.name}: {path.resolve()}" for path in written)):
        print(printable(line))
    return 0


def write_report(
    folder: Path, survey: Survey, participants: Sequence[Participant], answers: Sequence[Answer]
) -> tuple[dict[str, Any], list[Path]]:
    """Write ``report/`` into a survey's folder: the page, ``report.json``, and the tables; gives the figures, and the
    files. Raises UserError for scores that cannot be read."""
    from mitune.survey.analysis import analysed, by_round
    from mitune.survey.counting import people_of
    from mitune.survey.export import write_tables
    from mitune.survey.page import page

    found = analysed(survey, participants, answers, read_scores(folder))
    people = people_of(survey, participants, answers)
    place = folder / REPORT
    write_json(place / FIGURES, found)
    written = write_tables(place, survey, people, found)
    write_text(place / PAGE, page(folder, survey, found, by_round(survey, people)))
    return found, [place / PAGE, place / FIGURES, *written]


def read_scores(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Read ``scores.json``; nothing where there is none. Raises UserError for one that is none of ours."""
    path = folder / SCORES
    if not is_file(path):
        return {}
    try:
        return {
            (row["prompt"], row["picture"]): {
                name: float(value) for name, value in row["scores"].items() if is_number(value)
            }
            for row in read_json(path)["rows"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged; delete it, and the report has no scores, or restore it"
        ) from error


def told(found: Mapping[str, Any]) -> list[str]:
    """Say the main figures in a few lines."""
    people = found["people"][-1]
    left = {
        name: number
        for name, number in people.items()
        if name not in ("group", "participants", "counted") and number
    }
    why = f" ({', '.join(f'{number} {name}' for name, number in left.items())})" if left else ""
    lines = [f"{people['counted']} of {people['participants']} participants are counted{why}"]
    for row in found.get("marginals") or ():
        lines.append(f"  {row['name']}: chosen in {percent([*row['by_group'].values()][-1])}")
    for row in found.get("strengths") or ():
        low, high = row["ci95"]
        lines.append(f"  {row['name']}: strength {row['strength']:+.2f} ({low:+.2f} … {high:+.2f})")
    return lines


def percent(cell: Mapping[str, Any], sign: bool = False) -> str:
    """Write a share with its interval: ``57.8 % (52.1 … 63.3)``."""
    if cell["share"] is None:
        return "–"
    form = "+.1f" if sign else ".1f"
    text = f"{100 * cell['share']:{form}} %"
    if cell["ci95"]:
        text += " ({} … {})".format(*(f"{100 * bound:{form}}" for bound in cell["ci95"]))
    return text.replace("-", "−")
