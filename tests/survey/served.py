"""Small surveys of the embedded world's pictures, and people who answer them through HTTP."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from mitune.survey.answers import Answer, Participant
from mitune.survey.design import (
    Survey,
    plan_of,
)


def fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


def shown(page: str) -> list[str]:
    """The ids of the pictures of a page, in their order."""
    return re.findall(r'<img src="/picture/([0-9a-f]+)\.png"', page)


def ticked(page: str) -> list[str]:
    """What is chosen on a page."""
    return re.findall(r'name="chosen" value="(\w+)"[^>]* checked', page)


@dataclass
class Person:
    """Answers by a client of httpx's kind, and remembers what was answered.

    Attributes:
        client: one without redirects of its own.
        taste: decides.
        code: from the first page on.
        given: {round: (shown, chosen)}.
    """

    client: Any
    taste: random.Random
    code: str = ""
    given: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    def begin(self, **form: str) -> str:
        """Agree by the open link; gives the address of the first round."""
        own = fields(self.client.get("/").text)
        response = self.client.post("/", data={**own, "consent": "yes", **form})
        assert response.status_code == 303, response.text
        place = response.headers["location"]
        self.code = place.split("/")[2]
        return str(place)

    def answer(self, place: str) -> str:
        """Answer the round at an address; gives the next one."""
        page = self.client.get(place)
        assert page.status_code == 200, page.text
        own, ids = fields(page.text), shown(page.text)
        chosen = [one for one in ids if self.taste.random() < 0.5]
        if 'type="radio"' in page.text:
            chosen = chosen[:1]
        response = self.client.post(place, data={**own, "chosen": chosen or no_choice(page.text)})
        assert response.status_code == 303, response.text
        self.given[own["round"]] = (tuple(ids), tuple(chosen))
        return str(response.headers["location"])

    def answer_all(self, **form: str) -> None:
        """Agree, and answer to the end."""
        place = self.begin(**form)
        while not place.endswith("/thanks"):
            place = self.answer(place)


def no_choice(page: str) -> list[str]:
    """What a form sends for no picture."""
    return ["none"] if 'value="none"' in page else []


def told(survey: Survey, people: list[Person], found: tuple[list[Participant], list[Answer]]) -> None:
    """Assert that what was read is what these people answered: each once, as it was shown by the plan."""
    participants, answers = found
    assert {one.code for one in participants} == {one.code for one in people}
    assert sorted(one.number for one in participants if one.number is not None) == [*range(len(people))]
    numbers = {one.code: one.number for one in participants}
    read = {(one.participant, one.round): (one.shown, one.chosen) for one in answers}
    assert len(read) == len(answers)
    assert read == {(one.code, name): own for one in people for name, own in one.given.items()}
    for one in people:
        number = numbers[one.code]
        assert number is not None
        plan = {each.id: tuple(picture.id for picture in order) for each, order in plan_of(survey, number)}
        assert {name: own[0] for name, own in one.given.items()} == {name: plan[name] for name in one.given}
