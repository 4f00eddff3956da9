"""The web application of a survey: which address is which page, and how all that is refused is refused."""

from __future__ import annotations

import importlib.resources
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mitune.survey.limits import Guard, log_failure, log_refusal
from mitune.survey.organiser import add_organiser
from mitune.survey.pages import COOKIE, Consent, Pages, RefusedError, Sent, go, wants_json
from mitune.survey.served import Served
from mitune.survey.serving import Serving

_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}  # a picture's name is a digest
_WORDS = {404: "not_found", 405: "not_found", 409: "out_of_order", 413: "not_understood", 429: "too_many"}


def application(served: Served) -> Guard:
    """Make the web application of a survey."""
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
        person = pages.served.participant(request.cookies.get(COOKIE, ""))
        return go(f"/p/{person.code}") if person else pages.welcome(request, None)

    @app.post("/")
    def agree(request: Request, form: Annotated[Consent, Form()]) -> Response:
        return pages.agreed(request, form)

    @app.post("/another")
    def another() -> Response:
        response = go("/")
        response.delete_cookie(COOKIE)
        return response


def _add_rounds(app: FastAPI, pages: Pages) -> None:
    @app.get("/p/{code}")
    def go_on(request: Request, code: str) -> Response:
        person = pages.person(request, code)
        if person.number is None:
            return pages.welcome(request, person)
        return go(pages.onward(person, pages.served.database.answered(code)))

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
        log_failure(error)
        return refuse(request, 500, "broken")


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
