"""What people answered, as the report reads it: of a survey folder, or of a database by its URL. No torch here."""

from __future__ import annotations

from pathlib import Path

from mitune.errors import UserError
from mitune.survey.answered import ANSWERS, Answer, Participant, is_url

__all__ = ["ANSWERS", "Answer", "Participant", "read_answers"]


def read_answers(place: str | Path, plan: str | None = None) -> tuple[list[Participant], list[Answer]]:
    """Read the participants, in the order in which they were invited, and their answers, by number and time.

    ``place``: a survey folder (nobody answered yet where it has no answers), or a database's URL. It may be read while
    a server writes. ``plan``: what they have to be answers to (:func:`mitune.survey.design.plan_digest`). Raises
    UserError for what is no such database, and for answers to another plan.
    """
    if not is_url(place) and not (Path(place) / ANSWERS).exists():
        return [], []
    try:
        from mitune.survey.database import Database, database_url
    except ModuleNotFoundError as error:
        raise UserError(
            f"survey: {error.name} is not installed, and reads the answers; pip install 'mitune[survey]'"
        ) from error
    database = Database(database_url(place), only_read=True)
    try:
        if plan is not None:
            database.check_plan(plan)
        return database.participants(), database.answers()
    finally:
        database.close()
