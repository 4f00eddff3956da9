"""A survey as the server holds it: the plan, the answers, and how it is served."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mitune.errors import UserError, listed, nearest, short
from mitune.reading import is_file, read_text
from mitune.survey import languages
from mitune.survey.answers import Participant
from mitune.survey.database import Database
from mitune.survey.design import PRACTICE, Picture, Round, Survey, plan_digest, plan_of
from mitune.survey.seals import CODE, Seals
from mitune.survey.serving import Serving

_MANY = 10_000  # people who are remembered
_PICTURES = 128  # pictures that are remembered
_FRESH = 2.0  # seconds that the number of finished participants is believed


@dataclass(frozen=True)
class Step:
    """Holds one page of a person's plan.

    Attributes:
        place: from 1 on, over practice and rounds.
        number, count: as the page tells them, of the practice or of the rounds.
    """

    place: int
    round: Round
    pictures: tuple[Picture, ...]
    number: int
    count: int

    @property
    def shown(self) -> tuple[str, ...]:
        """The ids of its pictures, in their order."""
        return tuple(one.id for one in self.pictures)

    @property
    def is_practice(self) -> bool:
        """Tell whether it does not count."""
        return self.round.kind == PRACTICE


class Served:
    """A survey with its answers, ready to be shown."""

    def __init__(
        self, folder: Path, survey: Survey, database: Database, token: str, settings: Serving
    ) -> None:
        """Take the parts of a served survey.

        Args:
            folder: the survey folder.
            survey: its plan.
            database: prepared for this plan here.
            token: the organiser's.
            settings: of the words after ``serve``.
        """
        self.folder, self.survey, self.database, self.settings = folder, survey, database, settings
        self.words = languages.known()
        for name in survey.languages:
            if name not in self.words:
                raise UserError(
                    f"serve: there are no pages in the language '{short(name, 40)}'{nearest(name, self.words)};"
                    f" there are {listed([*self.words], 20)}"
                )
        self.pictures = {one.id: folder / one.file for part in survey.rounds for one in part.pictures}
        if missing := [path.name for path in self.pictures.values() if not is_file(path)]:
            raise UserError(
                f"serve: pictures of {folder} are not there ({listed(missing)}); build the survey anew"
            )
        self.consent_texts = {name: _consent_text(folder, name) for name in survey.languages}
        database.prepare(plan_digest(survey))
        self.seals = Seals(database.secret(), token)
        self.steps = functools.lru_cache(maxsize=4096)(self._steps)
        self.size = functools.cache(self._size)
        self.png = functools.lru_cache(maxsize=_PICTURES)(lambda name: self.pictures[name].read_bytes())
        self._known: dict[str, Participant] = {}
        self._finished = (0.0, 0)

    def _steps(self, number: int) -> tuple[Step, ...]:
        plan = plan_of(self.survey, number)
        practice = sum(one.kind == PRACTICE for one, _ in plan)
        return tuple(
            Step(
                place,
                one,
                tuple(pictures),
                place if one.kind == PRACTICE else place - practice,
                practice if one.kind == PRACTICE else len(plan) - practice,
            )
            for place, (one, pictures) in enumerate(plan, 1)
        )

    def _size(self, picture: str) -> tuple[int, int]:
        """The width and height of a picture: a page that knows them does not jump when it comes."""
        import PIL.Image

        with PIL.Image.open(self.pictures[picture]) as opened:
            return opened.size

    def participant(self, code: str) -> Participant | None:
        """Look a person up; what cannot be a code is nobody's. Who has agreed stays as they are but for the end."""
        if code in self._known:
            return self._known[code]
        found = self.database.participant(code) if CODE.fullmatch(code) else None
        if found is not None and found.number is not None and len(self._known) < _MANY:
            self._known[code] = found
        return found

    def is_closed(self) -> bool:
        """Tell whether as many as are needed have finished: nobody new begins."""
        if not self.settings.stop:
            return False
        then, finished = self._finished
        if time.monotonic() - then > _FRESH:
            finished = self.database.amounts()[0]
            self._finished = (time.monotonic(), finished)
        return finished >= self.settings.stop

    def language(self, asked: Sequence[str], header: str) -> str:
        """Choose the language: the first of those asked for that the survey has, else what the browser asks for."""
        offered = self.survey.languages
        return next((one for one in asked if one in offered), languages.preferred(header, offered))


def _consent_text(folder: Path, language: str) -> tuple[str, ...]:
    """The paragraphs of the organiser's own consent text, of consent.LANGUAGE.txt or consent.txt."""
    for name in (f"consent.{language}.txt", "consent.txt"):
        if is_file(folder / name):
            parts = read_text(folder / name).replace("\r\n", "\n").split("\n\n")
            return tuple(part.strip() for part in parts if part.strip())
    return ()
