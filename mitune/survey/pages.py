"""The pages that people see. Plain forms, which a few lines of JavaScript keep when there is no connection."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)
from pydantic import BaseModel, Field

from mitune.survey.answers import Participant
from mitune.survey.database import OutOfOrderError, Reply
from mitune.survey.design import GROUP
from mitune.survey.limits import Rate
from mitune.survey.seals import new_code
from mitune.survey.served import Served, Step

NONE = "none"  # chosen where one must be: no picture. No id is this: they are hex digits
COOKIE = "survey"
_SLACK = 2.0  # seconds that a browser's clock may run ahead of ours


class RefusedError(Exception):
    """A request is refused: with a status, and words that a language file has."""

    def __init__(self, status: int, words: str, code: str = "") -> None:
        super().__init__(words)
        self.status, self.words, self.code = status, words, code


class Sent(BaseModel):
    """Holds the fields of a round's form.

    Attributes:
        round: the round's id.
        seal: what the page was signed with.
        chosen: ids of pictures.
        seconds: that the page was looked at, where the browser tells.
        turn: counts the replies of one page, where the browser tells.
    """

    round: str = Field(max_length=64)
    seal: str = Field(max_length=100)
    chosen: list[str] = Field(default_factory=list, max_length=100)
    seconds: str = Field("", max_length=32)
    turn: str = Field("", max_length=16)


class Consent(BaseModel):
    """Holds the fields of the form of consent.

    Attributes:
        consent: ``yes``.
        group, lang: of the person.
        code, seal: of a person who comes by the open link, drawn with the page.
    """

    consent: str = Field("", max_length=8)
    group: str = Field("", max_length=GROUP)
    lang: str = Field("", max_length=16)
    code: str = Field("", max_length=64)
    seal: str = Field("", max_length=100)


class Pages:
    """Draws pages of one survey, and answers what they send."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.templates = _templates()
        # A class or an office may share one address: many people begin at once, and few guess codes.
        self.new = Rate(400, 1.0)
        self.guesses = Rate(60, 0.2)
        self.replies = Rate(60, 2.0)

    def draw(self, name: str, language: str, status: int = 200, **more: Any) -> HTMLResponse:
        """Draw a page in a language."""
        words, survey = self.served.words[language], self.served.survey
        page = self.templates.get_template(f"{name}.html.j2").render(
            words=words, language=language, survey=survey, languages=self.served.words, **more
        )
        return HTMLResponse(page, status)

    def language(self, request: Request, person: Participant | None = None) -> str:
        """Choose the language of a page: what its address says, the person's, or the browser's."""
        own = person.language if person else ""
        asked = [request.query_params.get("lang", ""), own]
        if person and person.consented:
            asked.reverse()
        return self.served.language(asked, request.headers.get("accept-language", ""))

    def person(self, request: Request, code: str) -> Participant:
        """Look up whose page this is. Raises RefusedError for a code that is nobody's."""
        found = self.served.participant(code)
        if found is None:
            if not self.guesses.passes(who(request)):
                raise RefusedError(429, "too_many")
            raise RefusedError(404, "not_found")
        return found

    # -- welcome -------------------------------------------------------------------------------------------------------

    def welcome(self, request: Request, person: Participant | None, error: str = "") -> Response:
        """Draw the page of welcome and consent."""
        served, language = self.served, self.language(request, person)
        steps = served.steps(0)
        given = request.query_params.get("group", "")
        group = person.group if person else given if given in served.survey.groups else ""
        code = "" if person else new_code()
        return self.draw(
            "welcome",
            language,
            400 if error else 200,
            action=f"/p/{person.code}/consent" if person else "/",
            code=code,
            seal=served.seals.page(code, "") if code else "",
            rounds=steps[-1].count,
            practice=steps[0].count if steps[0].is_practice else 0,
            group=group,
            ask_group=bool(served.survey.groups) and not group and not person,
            closed=served.is_closed(),
            shut=not served.settings.open and person is None,
            consent=served.consent_texts[language],
            error=error,
        )

    def agreed(self, request: Request, form: Consent) -> Response:
        """Take in a person who came by the open link; the same form again is the same person."""
        served = self.served
        if served.is_closed() or not served.settings.open:
            raise RefusedError(403, "closed" if served.settings.open else "only_invited")
        if served.seals.since(form.seal, form.code, "") is None:
            raise RefusedError(403, "not_of_this_page")
        if form.group not in served.survey.groups and (form.group or served.survey.groups):
            return self.welcome(request, None, "group_needed")
        if form.consent != "yes":
            return self.welcome(request, None, "consent_needed")
        if not self.new.passes(who(request)):
            raise RefusedError(429, "too_many")
        language = served.language([form.lang], request.headers.get("accept-language", ""))
        served.database.enter(form.code, form.group, language)
        response = go(f"/p/{form.code}/1")
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, form.code, httponly=True, samesite="lax", secure=secure)
        return response

    def consented(self, request: Request, code: str, form: Consent) -> Response:
        """Take in a person who was invited."""
        person = self.person(request, code)
        if person.consented is None:
            if self.served.is_closed():
                raise RefusedError(403, "closed", code)
            if form.consent != "yes":
                return self.welcome(request, person, "consent_needed")
            asked = [form.lang, person.language]
            language = self.served.language(asked, request.headers.get("accept-language", ""))
            self.served.database.consent(code, language)
        return go(f"/p/{code}/1")

    # -- rounds --------------------------------------------------------------------------------------------------------

    def steps(self, person: Participant) -> tuple[Step, ...]:
        """The pages of a person's plan."""
        assert person.number is not None
        return self.served.steps(person.number)

    def onward(self, person: Participant, answered: Mapping[str, Any]) -> str:
        """The address at which a person goes on."""
        for step in self.steps(person):
            if step.round.id not in answered:
                return f"/p/{person.code}/{step.place}"
        return f"/p/{person.code}/thanks"

    def round(self, request: Request, code: str, place: int, error: str = "") -> Response:
        """Draw a round, with the answer that it has. One that is not yet due leads to the one that is."""
        person = self.person(request, code)
        if person.number is None:
            return go(f"/p/{code}")
        steps, answered = self.steps(person), self.served.database.answered(code)
        if not 1 <= place <= len(steps):
            raise RefusedError(404, "not_found", code)
        if any(step.round.id not in answered for step in steps[: place - 1]):
            return go(self.onward(person, answered))
        step = steps[place - 1]
        return self.draw(
            "round",
            self.language(request, person),
            400 if error else 200,
            code=code,
            step=step,
            last=place == len(steps),
            back=f"/p/{code}/{place - 1}" if place > 1 else "",
            done=sum(one.round.id in answered for one in steps if one.is_practice == step.is_practice),
            chosen=answered.get(step.round.id),
            seal=self.served.seals.page(code, step.round.id),
            sizes=self.served.size,
            following=[one for later in steps[place : place + 1] for one in later.shown],
            no_picture=NONE,
            error=error,
        )

    def reply(self, request: Request, code: str, place: int, sent: Sent) -> Response:
        """Save what a page sends, and tell where to go on."""
        person = self.person(request, code)
        if not self.replies.passes(code):
            raise RefusedError(429, "too_many", code)
        if person.number is None:
            raise RefusedError(409, "out_of_order", code)
        steps = self.steps(person)
        if not 1 <= place <= len(steps):
            raise RefusedError(404, "not_found", code)
        step = steps[place - 1]
        since = self.served.seals.since(sent.seal, code, step.round.id)
        if sent.round != step.round.id or since is None:
            raise RefusedError(403, "not_of_this_page", code)
        chosen = self._chosen(step, sent.chosen, code)
        if chosen is None:
            if wants_json(request):
                raise RefusedError(400, "choose_one", code)
            return self.round(request, code, place, "choose_one")
        message = hashlib.sha256("\0".join([sent.seal, sent.turn, *chosen]).encode()).hexdigest()
        reply = Reply(step.shown, chosen, _seconds(sent.seconds, since), message)
        try:
            self.served.database.save(code, [one.round.id for one in steps], step.round.id, reply)
        except OutOfOrderError:
            raise RefusedError(409, "out_of_order", code) from None
        onward = f"/p/{code}/{place + 1}" if place < len(steps) else f"/p/{code}/thanks"
        return JSONResponse({"next": onward}) if wants_json(request) else go(onward)

    def _chosen(self, step: Step, given: list[str], code: str) -> list[str] | None:
        """The ids of the chosen pictures in their order on the page; None where one must be chosen, and was not."""
        single = not self.served.survey.multiple or len(step.pictures) == 1
        ids = [one for one in given if one != NONE or not single]
        if not {*ids} <= {*step.shown} or len(given) != len({*given}) or (single and len(given) > 1):
            raise RefusedError(400, "not_understood", code)
        return None if single and not given else [one for one in step.shown if one in ids]

    def thanks(self, request: Request, code: str) -> Response:
        """Draw the last page; one who has not answered all is led on."""
        person = self.person(request, code)
        if person.number is None:
            return go(f"/p/{code}")
        onward = self.onward(person, self.served.database.answered(code))
        if not onward.endswith("/thanks"):
            return go(onward)
        return self.draw("thanks", self.language(request, person), code=code)


def _seconds(given: str, since: float) -> float:
    """The browser's time where it can be true: it does not count what a page waited in another tab; else ours."""
    try:
        own = float(given)
    except ValueError:
        own = math.nan
    return round(own if 0 <= own <= since + _SLACK else since, 3)


def who(request: Request) -> str:
    """Tell from whom a request comes, for the rates: it is neither kept nor logged."""
    return request.client.host if request.client else ""


def wants_json(request: Request) -> bool:
    """Tell whether the page's own JavaScript asks."""
    return request.headers.get("accept", "").startswith("application/json")


def go(place: str) -> RedirectResponse:
    """Lead on to another page."""
    return RedirectResponse(place, 303)


def _templates() -> jinja2.Environment:
    """The templates: all that is put into them is escaped, and a missing name is an error."""
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader("mitune.survey"),
    )
