"""The organiser's page: how the survey stands, and invitation links. Its token is in no address and no log."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import RedirectResponse, Response

from mitune.survey.design import GROUP
from mitune.survey.limits import Rate
from mitune.survey.pages import Pages, RefusedError, who
from mitune.survey.progress import progress_of

_COOKIE, _PATH = "organiser", "/organiser"
_MOST = 500  # invitations at once
_ONE = threading.Lock()  # who counts at a time: people who answer come first


def add_organiser(app: FastAPI, pages: Pages) -> None:
    """Add the organiser's pages to an application."""
    seals, tries = pages.served.seals, Rate(10, 0.1)

    def session(request: Request) -> str:
        given = request.cookies.get(_COOKIE, "")
        return given if seals.is_session(given) else ""

    @app.get(_PATH)
    def organiser(request: Request) -> Response:
        own = session(request)
        return _progress(pages, own) if own else pages.draw("sign_in", "en")

    @app.post(_PATH)
    def sign_in(request: Request, token: Annotated[str, Form(max_length=200)] = "") -> Response:
        if not tries.passes(who(request)):
            raise RefusedError(429, "too_many")
        if not seals.is_token(token):
            raise RefusedError(403, "not_found")
        response = RedirectResponse(_PATH, 303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            _COOKIE, seals.session(), path=_PATH, httponly=True, samesite="strict", secure=secure
        )
        return response

    @app.post(f"{_PATH}/invite")
    def invite(
        request: Request,
        form: Annotated[str, Form(max_length=100)] = "",
        count: Annotated[int, Form(ge=1, le=_MOST)] = 1,
        group: Annotated[str, Form(max_length=GROUP)] = "",
    ) -> Response:
        own, groups = session(request), pages.served.survey.groups
        if not own or not seals.is_form(form, own):
            raise RefusedError(403, "not_of_this_page")
        if group not in groups and (group or groups):
            raise RefusedError(400, "not_understood")
        base = pages.served.settings.url or str(request.base_url)
        codes = pages.served.database.invite(group, "", count)
        return _progress(pages, own, [f"{base.rstrip('/')}/p/{code}" for code in codes])

    @app.post(f"{_PATH}/leave")
    def leave() -> Response:
        response = RedirectResponse(_PATH, 303)
        response.delete_cookie(_COOKIE, path=_PATH)
        return response


def _progress(pages: Pages, session: str, links: list[str] | None = None) -> Response:
    served = pages.served
    with _ONE:
        found = progress_of(served.survey, served.database.participants(), served.database.answers())
    return pages.draw(
        "organiser",
        "en",
        found=found,
        settings=served.settings,
        closed=served.is_closed(),
        form=served.seals.form(session),
        links=links or [],
        most=_MOST,
    )
