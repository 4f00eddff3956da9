"""The pages that people see. Plain forms, which a few lines of JavaScript keep when there is no connection."""

from __future__ import annotations

import hashlib
import importlib.resources
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jinja2
from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mitune.survey.answers import Participant
from mitune.survey.database import OutOfOrderError, Reply
from mitune.survey.limits import LOG, Guard, Rate, log_refusal
from mitune.survey.seals import new_code
from mitune.survey.served import Served, Step
from mitune.survey.serving import Serving

NONE = "none"  # chosen where one must be: no picture. No id is this: they are hex digits
_COOKIE = "survey"
_SLACK = 2.0  # seconds that a browser's clock may run ahead of ours
_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}  # a picture's name is a digest
_WORDS = {404: "not_found", 405: "not_found", 409: "out_of_order", 413: "not_understood", 429: "too_many"}


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
    group: str = Field("", max_length=200)
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
        response = _go(f"/p/{form.code}/1")
        secure = request.url.scheme == "https"
        response.set_cookie(_COOKIE, form.code, httponly=True, samesite="lax", secure=secure)
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
        return _go(f"/p/{code}/1")

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
            return _go(f"/p/{code}")
        steps, answered = self.steps(person), self.served.database.answered(code)
        if not 1 <= place <= len(steps):
            raise RefusedError(404, "not_found", code)
        if any(step.round.id not in answered for step in steps[: place - 1]):
            return _go(self.onward(person, answered))
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
        return JSONResponse({"next": onward}) if wants_json(request) else _go(onward)

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
            return _go(f"/p/{code}")
        onward = self.onward(person, self.served.database.answered(code))
        if not onward.endswith("/thanks"):
            return _go(onward)
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


def _go(place: str) -> RedirectResponse:
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


def application(served: Served) -> Guard:
    """Make the web application of a survey."""
    from mitune.survey.organiser import add_organiser

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(served)
    _add_start(app, pages)
    _add_rounds(app, pages)
    _add_files(app, served)
    add_organiser(app, pages)
    _add_refusals(app, pages)
    if hosts := _hosts(served.settings):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return Guard(app, served.settings.frame)


def _hosts(settings: Serving) -> list[str]:
    """The names by which the survey may be asked for; all where that is not known. Else another site's name that leads
    here could read the pages of a server that only this machine is to reach."""
    host = settings.url.partition("://")[2].partition("/")[0].partition(":")[0]
    local = ["127.0.0.1", "localhost"]
    return [host, *local] if host else local if settings.host in local else []


def _add_start(app: FastAPI, pages: Pages) -> None:
    @app.get("/")
    def start(request: Request) -> Response:
        person = pages.served.participant(request.cookies.get(_COOKIE, ""))
        return _go(f"/p/{person.code}") if person else pages.welcome(request, None)

    @app.post("/")
    def agree(request: Request, form: Annotated[Consent, Form()]) -> Response:
        return pages.agreed(request, form)

    @app.post("/another")
    def another() -> Response:
        response = _go("/")
        response.delete_cookie(_COOKIE)
        return response


def _add_rounds(app: FastAPI, pages: Pages) -> None:
    @app.get("/p/{code}")
    def go_on(request: Request, code: str) -> Response:
        person = pages.person(request, code)
        if person.number is None:
            return pages.welcome(request, person)
        return _go(pages.onward(person, pages.served.database.answered(code)))

    @app.post("/p/{code}/consent")
    def consent(request: Request, code: str, form: Annotated[Consent, Form()]) -> Response:
        return pages.consented(request, code, form)

    @app.get("/p/{code}/thanks")
    def thanks(request: Request, code: str) -> Response:
        return pages.thanks(request, code)

    @app.get("/p/{code}/{place:int}")
    def one_round(request: Request, code: str, place: int) -> Response:
        return pages.round(request, code, place)

    @app.post("/p/{code}/{place:int}")
    def reply(request: Request, code: str, place: int, sent: Annotated[Sent, Form()]) -> Response:
        return pages.reply(request, code, place, sent)


def _add_files(app: FastAPI, served: Served) -> None:
    @app.get("/picture/{name}.png")
    def picture(name: str) -> Response:
        if name not in served.pictures:  # a name that is not of the plan is no path
            raise RefusedError(404, "not_found")
        return Response(served.png(name), media_type="image/png", headers=_FOREVER)

    @app.get("/healthz")
    def health() -> Response:
        served.database.amounts()
        return PlainTextResponse("ok\n")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # there is none, and nothing to complain of

    @app.get("/robots.txt")
    def robots() -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    static = importlib.resources.files("mitune.survey").joinpath("static")
    app.mount("/static", StaticFiles(directory=str(static)))


def _add_refusals(app: FastAPI, pages: Pages) -> None:
    """Every refusal is short, and its log line has the route's pattern instead of the address."""

    def refuse(request: Request, status: int, words: str, code: str = "") -> Response:
        route = request.scope.get("route")
        what = (
            f"{request.method if request.method in _METHODS else '?'} {getattr(route, 'path', 'an address')}"
        )
        log_refusal(status, what, words, code)
        language = pages.language(request)
        if wants_json(request):
            return JSONResponse({"error": pages.served.words[language][words]}, status)
        return pages.draw("refused", language, status, message=words)

    @app.exception_handler(RefusedError)
    def refused(request: Request, error: RefusedError) -> Response:
        return refuse(request, error.status, error.words, error.code)

    @app.exception_handler(RequestValidationError)
    def not_understood(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, 400, "not_understood")

    @app.exception_handler(HTTPException)
    def of_the_framework(request: Request, error: HTTPException) -> Response:
        return refuse(request, error.status_code, _WORDS.get(error.status_code, "not_understood"))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        LOG.error("failed: %s", type(error).__name__)
        return refuse(request, 500, "broken")


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
