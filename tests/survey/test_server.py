"""The survey's pages over HTTP: what is saved, what is refused, and what nobody is told."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.survey_servers import make_survey
from mitune.errors import UserError
from mitune.files import hold
from mitune.survey import languages
from mitune.survey.answers import read_answers
from mitune.survey.design import read_survey, write_survey
from mitune.survey.report import main as report
from mitune.survey.serve import token_of
from mitune.survey.serving import Serving
from tests.survey.served import Person, fields, shown, ticked, told

pytest.importorskip("fastapi", reason="the extra `survey` is not installed: its server is not tested")

from starlette.testclient import TestClient

from mitune.survey.application import application
from mitune.survey.database import Database, database_url
from mitune.survey.limits import Rate, headers
from mitune.survey.served import Served

TOKEN = "the-organisers-own-long-token"
LOCAL = "http://127.0.0.1"
Serve = Callable[..., TestClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(folder, **settings)``: a client of the survey in a folder. A second call is a server started anew."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, **settings: Any) -> TestClient:
            database = Database(database_url(settings.get("database") or folder))
            stack.callback(database.close)
            served = Served(folder, read_survey(folder), database, TOKEN, Serving(**settings))
            client = TestClient(
                application(served), LOCAL, raise_server_exceptions=False, follow_redirects=False
            )
            return stack.enter_context(client)  # one event loop for all its requests

        yield start


def organiser(client: TestClient) -> str:
    """Sign in; gives the page."""
    assert client.post("/organiser", data={"token": TOKEN}).status_code == 303
    page = client.get("/organiser")
    assert page.status_code == 200
    return str(page.text)


def invitations(client: TestClient, count: int, group: str = "") -> list[str]:
    """Codes by the organiser's page."""
    form = fields(organiser(client))["form"]
    page = client.post("/organiser/invite", data={"form": form, "count": str(count), "group": group})
    assert page.status_code == 200, page.text
    return re.findall(r"/p/([\w-]{22})", page.text)


# -- what is saved -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["best_of_scores", "methods", "pairs", "agree"])
def test_what_people_answer_is_what_is_read(tmp_path: Path, serve: Serve, kind: str) -> None:
    survey = make_survey(tmp_path, kind, attention=1, blocks=2)
    people = [Person(serve(tmp_path), random.Random(number)) for number in range(5)]
    for one in people:
        one.answer_all()
    participants, answers = read_answers(tmp_path)
    told(survey, people, (participants, answers))
    assert all(one.finished and one.consented and one.finished >= one.consented for one in participants)
    assert all(0 <= one.seconds < 60 and abs(one.saved - time.time()) < 60 for one in answers)


def test_the_same_link_goes_on_where_it_was_and_a_new_server_knows_open_pages(
    tmp_path: Path, serve: Serve
) -> None:
    survey = make_survey(tmp_path)
    person = Person(serve(tmp_path), random.Random(0))
    second = person.answer(person.begin())
    page = person.client.get(second).text
    person.client = serve(tmp_path)
    assert person.client.get(f"/p/{person.code}").headers["location"] == second
    own = fields(page)
    response = person.client.post(second, data={**own, "chosen": shown(page)[:1]})
    assert response.status_code == 303
    person.given[own["round"]] = (tuple(shown(page)), tuple(shown(page)[:1]))
    told(survey, [person], read_answers(tmp_path))


def test_a_consent_that_is_sent_twice_is_one_person_and_a_forged_one_none(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path)
    form = {**fields(client.get("/").text), "consent": "yes"}
    places = {client.post("/", data=form).headers["location"] for _ in range(3)}
    assert len(places) == 1
    other = fields(client.get(f"/?{form['code']}").text)
    for forged in ({"code": "A" * 22}, {"code": ""}, {"seal": ""}, {"seal": other.get("seal", "")}):
        assert client.post("/", data=form | forged).status_code == 403
    (person,) = read_answers(tmp_path)[0]
    assert (person.code, person.number) == (form["code"], 0)


def test_the_open_link_goes_on_in_the_same_browser_until_somebody_else_takes_it(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path)
    person = Person(serve(tmp_path), random.Random(0))
    person.begin()
    assert person.client.get("/").headers["location"] == f"/p/{person.code}"
    assert person.client.post("/another").headers["location"] == "/"
    assert person.client.get("/").status_code == 200


def test_going_back_keeps_the_answer_and_the_order(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    person = Person(serve(tmp_path), random.Random(3))
    first = person.begin()
    person.answer(person.answer(first))
    for place in (1, 2):
        page = person.client.get(f"/p/{person.code}/{place}").text
        ids, chosen = person.given[fields(page)["round"]]
        assert (tuple(shown(page)), tuple(ticked(page))) == (ids, chosen)


def test_a_later_answer_takes_the_place_of_an_earlier_one_and_a_replay_changes_nothing(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path, practice=0)
    person = Person(serve(tmp_path), random.Random(0))
    place = person.begin()
    one, other = (person.client.get(place).text for _ in range(2))  # two tabs
    ids = shown(one)
    assert shown(other) == ids
    first, second = {**fields(one), "chosen": ids[:1]}, {**fields(other), "chosen": ids[1:]}
    for form in (first, second, first, second, first):  # a browser sends again what it got no answer to
        assert person.client.post(place, data=form).headers["location"] == f"/p/{person.code}/2"
    (answer,) = read_answers(tmp_path)[1]
    assert answer.chosen == tuple(ids[1:])
    third = {**fields(one), "turn": "2", "chosen": ids[:1]}  # chosen anew on the same page: no replay
    person.client.post(place, data=third)
    (answer,) = read_answers(tmp_path)[1]
    assert answer.chosen == tuple(ids[:1])


def test_the_time_is_the_browsers_where_it_can_be_true(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path, practice=0)
    for said, low, high in (
        ("0.125", 0.125, 0.125),
        ("9999", 0, 1),
        ("-1", 0, 1),
        ("nan", 0, 1),
        ("x", 0, 1),
    ):
        person = Person(serve(tmp_path), random.Random(0))
        place = person.begin()
        own = fields(person.client.get(place).text)
        assert person.client.post(place, data={**own, "seconds": said}).status_code == 303
        (answer,) = [one for one in read_answers(tmp_path)[1] if one.participant == person.code]
        assert low <= answer.seconds <= high


def test_invited_people_have_their_group_and_a_number_only_once_they_agree(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path, groups=("students", "experts"), languages=("en", "de"))
    client = serve(tmp_path, open=False)
    codes = invitations(client, 3, "experts")
    assert len({*codes}) == 3
    assert client.post("/", data={"consent": "yes", "group": "experts"}).status_code == 403
    assert not fields(client.get("/").text)
    assert client.get(f"/p/{codes[1]}?lang=de").status_code == 200
    assert client.post(f"/p/{codes[1]}/consent").status_code == 400
    for _ in range(2):  # a double click
        assert client.post(f"/p/{codes[1]}/consent", data={"consent": "yes", "lang": "de"}).status_code == 303
    people = {one.code: one for one in read_answers(tmp_path)[0]}
    assert {people[code].number for code in codes} == {None, 0}
    assert {people[code].group for code in codes} == {"experts"}
    assert (people[codes[1]].number, people[codes[1]].language) == (0, "de")
    assert 'lang="de"' in client.get(f"/p/{codes[1]}/1").text


def test_the_group_comes_by_the_link_or_is_asked_for(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path, groups=("students", "experts"))
    client = serve(tmp_path)
    assert 'type="radio" name="group"' in client.get("/").text
    assert fields(client.get("/?group=students").text)["group"] == "students"
    for wrong in ("", "others", "<b>"):
        form = {**fields(client.get("/").text), "consent": "yes", "group": wrong}
        assert client.post("/", data=form).status_code == 400
    Person(client, random.Random(0)).begin(group="experts")
    (person,) = read_answers(tmp_path)[0]
    assert person.group == "experts"


def test_enough_people_close_the_survey_to_new_ones_only(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path, rounds=1, practice=0)
    begun, done = (Person(serve(tmp_path, stop=1), random.Random(number)) for number in range(2))
    place = begun.begin()
    done.answer_all()
    client = serve(tmp_path, stop=1)
    assert languages.known()["en"]["closed"] in client.get("/").text
    assert client.post("/", data={"consent": "yes"}).status_code == 403
    begun.client = client
    assert begun.answer(place).endswith("/thanks")
    assert "closed to new people" in organiser(client)


def test_pairs_may_be_a_tie_and_one_must_be_chosen(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path, "pairs", practice=0)
    person = Person(serve(tmp_path), random.Random(0))
    place = person.begin()
    own = fields(person.client.get(place).text)
    page = person.client.post(place, data=own)
    assert page.status_code == 400
    assert languages.known()["en"]["choose_one"] in page.text
    assert shown(page.text)
    assert person.client.post(place, data={**own, "chosen": "none"}).status_code == 303
    (answer,) = read_answers(tmp_path)[1]
    assert answer.chosen == ()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path, serve: Serve) -> tuple[Person, str]:
    """A person at the first round."""
    make_survey(tmp_path)
    person = Person(serve(tmp_path), random.Random(0))
    return person, person.begin()


def test_rounds_out_of_order_lead_to_the_one_that_is_due_and_are_not_saved(
    tmp_path: Path, begun: tuple[Person, str]
) -> None:
    person, first = begun
    page = person.client.get(first).text
    for place in (3, 4):
        assert person.client.get(f"/p/{person.code}/{place}").headers["location"] == first
    assert person.client.get(f"/p/{person.code}/thanks").headers["location"] == first
    for place in (0, 5, 10**30):
        assert person.client.get(f"/p/{person.code}/{place}").status_code == 404
        assert person.client.post(f"/p/{person.code}/{place}", data=fields(page)).status_code == 404
    assert person.client.post(f"/p/{person.code}/3", data=fields(page)).status_code == 403
    assert read_answers(tmp_path)[1] == []


def test_even_a_rightly_signed_page_is_not_saved_before_its_turn(tmp_path: Path, serve: Serve) -> None:
    survey = make_survey(tmp_path, practice=0)
    database = Database(database_url(tmp_path))
    served = Served(tmp_path, survey, database, TOKEN, Serving())
    client = TestClient(application(served), LOCAL, follow_redirects=False)
    person = Person(client, random.Random(0))
    person.begin()
    third = served.steps(0)[2]
    form = {"round": third.round.id, "seal": served.seals.page(person.code, third.round.id)}
    assert client.post(f"/p/{person.code}/3", data=form).status_code == 409
    assert read_answers(tmp_path)[1] == []
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        {"round": "0123456789abcdef"}, {"round": "../../survey.json"}, {"round": "x" * 65}, {"round": None},
        {"seal": ""}, {"seal": None}, {"seal": "9.9.9"}, {"seal": "nan.nan.00"}, {"seal": "é.é.é"},
        {"chosen": ["0123456789abcdef"]}, {"chosen": ["../survey.json"]}, {"chosen": ["none"]},
        {"chosen": ["' OR 1=1 --"]}, {"chosen": ["<script>alert(1)</script>"]}, {"chosen": ["a"] * 101},
        {"turn": "x" * 17}, {"seconds": "1" * 33},
    ],
)  # fmt: skip
def test_forged_forms_are_refused_and_nothing_is_saved(
    tmp_path: Path, begun: tuple[Person, str], change: dict[str, Any]
) -> None:
    person, place = begun
    form = {**fields(person.client.get(place).text), **change}
    response = person.client.post(
        place, data={name: value for name, value in form.items() if value is not None}
    )
    assert response.status_code in (400, 403)
    assert len(response.content) < 2000
    assert "<script>alert" not in response.text
    assert read_answers(tmp_path)[1] == []


def test_a_picture_chosen_twice_or_of_another_round_is_refused(begun: tuple[Person, str]) -> None:
    person, place = begun
    page = person.client.get(place).text
    own, ids = fields(page), shown(page)
    other = re.findall(r'rel="prefetch" href="/picture/([0-9a-f]+)', page)
    assert other
    for chosen in ([ids[0]] * 2, other[:1]):
        assert person.client.post(place, data={**own, "chosen": chosen}).status_code == 400


def test_nobody_answers_with_anothers_page_or_code(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    one, other = (Person(serve(tmp_path), random.Random(number)) for number in range(2))
    place, mine = one.begin(), other.begin()
    own = fields(other.client.get(mine).text)
    assert other.client.post(place, data=own).status_code == 403  # the page is of another person
    assert other.client.post(mine.replace("/1", "/2"), data=own).status_code == 403  # and of another round
    for code in ("A" * 22, "x", "%00", "..%2f..", "a'--", "é" * 22):
        assert other.client.get(f"/p/{code}/1").status_code == 404
        assert other.client.post(f"/p/{code}/1", data=own).status_code == 404
    assert read_answers(tmp_path)[1] == []


@pytest.mark.parametrize(
    "path",
    [
        "/picture/..%2fsurvey.json", "/picture/../survey.json", "/picture/..%2f..%2f..%2fetc%2fpasswd.png",
        "/picture/0123456789abcdef.png", "/picture/%00.png", "/picture/.png", "/static/../pages.py",
        "/static/..%2fpages.py", "/static/%2e%2e/pages.py", "/static/", "/survey.json", "/answers.sqlite",
        "/organiser.txt", "/docs", "/openapi.json", "/picture/answers.sqlite",
    ],
)  # fmt: skip
def test_no_path_leads_to_another_file(tmp_path: Path, serve: Serve, path: str) -> None:
    make_survey(tmp_path)
    response = serve(tmp_path).get(path)
    assert response.status_code == 404
    assert len(response.content) < 2000


def test_a_form_of_another_site_makes_nobody_another_person(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path)
    own = {**fields(client.get("/").text), "consent": "yes"}
    for site in ("cross-site", "same-site"):
        response = client.post("/", data=own, headers={"sec-fetch-site": site})
        assert response.status_code == 403
        assert "set-cookie" not in response.headers
        assert "content-security-policy" in response.headers
    assert read_answers(tmp_path)[0] == []
    assert client.post("/", data=own, headers={"sec-fetch-site": "same-origin"}).status_code == 303


def test_a_fault_is_one_line_of_the_log_and_an_endless_number_none(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_survey(tmp_path)
    served = Served(tmp_path, read_survey(tmp_path), Database(database_url(tmp_path)), TOKEN, Serving())
    person = Person(serve(tmp_path), random.Random(0))
    place = person.begin()
    broken = TestClient(application(served), LOCAL)  # a fault that reaches the server would be raised here

    def fails(*_: object) -> None:
        raise RuntimeError(f"of {person.code}")

    monkeypatch.setattr(served.database, "answered", fails)
    monkeypatch.setattr(logging.getLogger("mitune.survey"), "propagate", True)
    assert broken.get(place).status_code == 500
    assert broken.get(f"/p/{person.code}/{'9' * 5000}").status_code == 414
    served.database.close()
    assert "failed: RuntimeError at test_server.py:" in caplog.text
    assert person.code not in caplog.text


def test_a_huge_body_is_refused_whether_or_not_it_says_so(begun: tuple[Person, str]) -> None:
    person, place = begun

    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b"chosen=" + b"a" * 65536

    form = {"content-type": "application/x-www-form-urlencoded"}
    for target in (place, "/", "/organiser"):
        said = person.client.post(target, content=b"x" * 10_000_000, headers=form)
        streamed = person.client.post(target, content=pieces(), headers=form)
        assert (said.status_code, streamed.status_code) == (413, 413)
        assert "content-security-policy" in said.headers
        assert len(said.content) < 200
    for length in ("-1", "x", "1e9"):
        assert person.client.post(place, headers={**form, "content-length": length}).status_code in (400, 413)


def test_methods_and_kinds_that_no_page_sends_are_refused(begun: tuple[Person, str]) -> None:
    person, place = begun
    own = fields(person.client.get(place).text)
    assert person.client.put(place, data=own).status_code == 405
    assert person.client.delete(f"/p/{person.code}").status_code == 405
    assert person.client.post(place, json=own).status_code == 400
    assert person.client.post(place, data=own, files={"chosen": b"\0"}).status_code == 400


def test_rates_are_bounded_for_each_person_and_for_guesses(tmp_path: Path, begun: tuple[Person, str]) -> None:
    person, place = begun
    own = fields(person.client.get(place).text)
    codes = [person.client.post(place, data=own).status_code for _ in range(80)]
    assert codes[0] == 303
    assert codes[-1] == 429
    person.client.cookies.clear()
    other = Person(person.client, random.Random(1))
    other.answer(other.begin())  # others are not held up
    guessed = [person.client.get(f"/p/{'A' * 18}{number:04d}").status_code for number in range(80)]
    assert guessed[0] == 404
    assert guessed[-1] == 429
    assert person.client.get(place).status_code == 200


def test_a_rate_lets_a_burst_pass_and_then_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    rate = Rate(3, 0.5)
    assert [rate.passes("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert rate.passes("b")
    clock[0] += 4
    assert [rate.passes("a") for _ in range(3)] == [True, True, False]
    clock[0] += 1e6
    assert sum(rate.passes("a") for _ in range(10)) == 3


# -- what nobody is told -----------------------------------------------------------------------------------------------


def test_refusals_are_logged_without_codes_addresses_or_tokens(
    tmp_path: Path,
    begun: tuple[Person, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person, place = begun
    monkeypatch.setattr(logging.getLogger("mitune.survey"), "propagate", True)
    with caplog.at_level(logging.DEBUG, logger="mitune.survey"):
        person.client.post(place, data={"round": "x", "seal": "y"})
        person.client.get("/p/0123456789abcdefghijkl%0a/1")
        person.client.post("/organiser", data={"token": "wrong-token-of-somebody"})
        person.client.get("/picture/%1b[31m.png")
        person.client.post("/", content=b"x" * 100_000)
    log = "\n".join(one.getMessage() for one in caplog.records if one.name == "mitune.survey")
    assert log.count("refused") == len(log.splitlines()) == 5
    assert f"403 POST /p/{{code}}/{{place:int}} of {person.code[:4]}…" in log
    for secret in (person.code, "0123456789abcdef", "wrong-token", "testclient", "127.0.0.1", "\x1b"):
        assert secret not in log


def test_every_response_has_the_headers_and_no_page_names_another_site(
    tmp_path: Path, begun: tuple[Person, str]
) -> None:
    person, place = begun
    for path in ("/", place, "/nothing", "/organiser", "/static/survey.js", "/robots.txt", "/healthz"):
        response = person.client.get(path)
        for name, value in headers().items():
            assert response.headers[name] == value or name == "cache-control", (path, name)
        assert "http://" not in response.text
        assert "https://" not in response.text
        assert not re.search(r"<script>|<style|style=|\son\w+=|javascript:", response.text)
        assert "server" not in response.headers
    policy = headers()["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert person.client.get(place).headers["cache-control"] == "no-store"
    picture = shown(person.client.get(place).text)[0]
    assert "immutable" in person.client.get(f"/picture/{picture}.png").headers["cache-control"]


def test_one_site_may_show_the_pages_in_a_frame(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    own = serve(tmp_path, frame="https://huggingface.co").get("/").headers
    assert "frame-ancestors https://huggingface.co" in own["content-security-policy"]
    assert "x-frame-options" not in own


def test_other_names_that_lead_here_are_not_answered(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    for settings, good, bad in (
        ({}, ("127.0.0.1:8765", "localhost"), ("rebound.example.org", "127.0.0.1.example.org")),
        (
            {"url": "https://a.example.org/"},
            ("a.example.org", "127.0.0.1"),
            ("b.example.org", "x.a.example.org"),
        ),
        ({"host": "0.0.0.0"}, ("anything.example.org",), ()),
    ):
        client = serve(tmp_path, **settings)
        for names, status in ((good, 200), (bad, 400)):
            for name in names:
                assert client.get("/", headers={"host": name}).status_code == status, name


def test_invitations_begin_with_the_address_that_people_see(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path, url="https://a.example.org/")
    form = fields(organiser(client))["form"]
    page = client.post("/organiser/invite", data={"form": form, "count": "1"}).text
    assert re.search(r">https://a\.example\.org/p/[\w-]{22}<", page)


def test_the_only_cookies_are_of_the_session_and_scripts_cannot_read_them(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path)
    found = [
        client.post("/", data={**fields(client.get("/").text), "consent": "yes"})
        .headers["set-cookie"]
        .lower(),
        client.post("/organiser", data={"token": TOKEN}).headers["set-cookie"].lower(),
    ]
    for cookie in found:
        assert "httponly" in cookie
        assert "samesite" in cookie
        assert "max-age" not in cookie
        assert "expires" not in cookie
    assert "samesite=strict" in found[1]


def test_the_organisers_page_takes_the_token_and_its_forms_take_the_session(
    tmp_path: Path, serve: Serve
) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path)
    assert 'type="password"' in client.get("/organiser").text
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "é"):
        assert client.post("/organiser", data={"token": wrong}).status_code == 403
    assert client.post("/organiser/invite", data={"count": "1"}).status_code == 403
    client.cookies.set("organiser", "9999999999.00.00")
    assert 'type="password"' in client.get("/organiser").text
    client.cookies.clear()
    form = fields(organiser(client))["form"]
    for bad in ({"count": "1"}, {"form": "x", "count": "1"}):
        assert client.post("/organiser/invite", data=bad).status_code == 403
    for count in ("0", "501", "x", "-1"):
        assert client.post("/organiser/invite", data={"form": form, "count": count}).status_code == 400
    assert client.post("/organiser/invite", data={"form": form, "count": "2"}).status_code == 200
    assert len(read_answers(tmp_path)[0]) == 2
    client.post("/organiser/leave")
    assert 'type="password"' in client.get("/organiser").text


def test_guessing_the_token_is_slow(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    client = serve(tmp_path)
    codes = [client.post("/organiser", data={"token": str(number)}).status_code for number in range(20)]
    assert codes[:10] == [403] * 10
    assert codes[-1] == 429


def test_prompts_titles_names_and_groups_with_markup_are_shown_as_they_are_written(
    tmp_path: Path, serve: Serve
) -> None:
    evil = '<script>alert("1")</script>{{ 7*7 }}\'"&\u202e'
    survey = make_survey(tmp_path, title=evil, question=evil, groups=(evil, "b"))
    changed = json.loads((tmp_path / "survey.json").read_text())
    changed["names"] = [evil, *survey.names[1:]]
    for one in changed["rounds"]:
        one["prompt"] = evil
        for picture in one["pictures"]:
            picture["shows"] = [evil if name == survey.names[0] else name for name in picture["shows"]]
    (tmp_path / "survey.json").write_text(json.dumps(changed))
    write_survey(tmp_path, read_survey(tmp_path))
    (tmp_path / "consent.txt").write_text(evil)
    client = serve(tmp_path)
    person = Person(client, random.Random(0))
    pages = [client.get("/").text, client.get(person.begin(group=evil)).text, organiser(client)]
    for page in pages:
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
        assert "49" not in re.sub(r"[\w.-]{20,}", "", page)


# -- words, plans, databases -------------------------------------------------------------------------------------------


def test_all_languages_have_the_same_names_and_the_same_holes() -> None:
    known = languages.known()
    assert {"en", "zh", "de"} <= known.keys()
    for name, words in known.items():
        assert words.keys() == known["en"].keys(), name
        for key, text in words.items():
            assert text.strip()
            assert re.findall(r"\{\w*\}", text) == re.findall(r"\{\w*\}", known["en"][key]), (name, key)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", "en"), ("de", "de"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("fr,de;q=0.5,en;q=0.9", "en"), ("fr", "en"),
        ("*", "en"), (";;;q=..,,", "en"), ("de;q=...,zh", "zh"), ("de-" + "x" * 10_000, "de"),
    ],
)  # fmt: skip
def test_a_browsers_languages_are_weighed(header: str, wanted: str) -> None:
    assert languages.preferred(header, ("en", "zh", "de")) == wanted


@pytest.mark.parametrize("language", ["en", "zh", "de"])
def test_all_pages_are_in_the_language(tmp_path: Path, serve: Serve, language: str) -> None:
    make_survey(tmp_path, rounds=1, languages=("en", "zh", "de"), question="")
    client = serve(tmp_path)
    person, words = Person(client, random.Random(0)), languages.known()[language]
    assert words["consent"] in client.get("/", headers={"accept-language": language}).text
    place = person.begin(lang=language)
    assert words["practice_note"] in client.get(place).text
    place = person.answer(place)
    assert words["question_best_of_scores"] in client.get(place).text
    assert words["thanks_text"] in client.get(person.answer(place)).text
    page = client.get("/nothing", headers={"accept-language": language}).text
    assert words["not_found"] in page
    assert f'<html lang="{language}">' in page


def test_answers_to_another_plan_are_not_mixed_with_these(tmp_path: Path, serve: Serve) -> None:
    make_survey(tmp_path)
    Person(serve(tmp_path), random.Random(0)).answer_all()
    make_survey(tmp_path, title="Another title", groups=("a", "b"))
    serve(tmp_path)  # who sees what is the same
    make_survey(tmp_path, rounds=4)
    with pytest.raises(UserError, match=r"another plan; move it away"):
        serve(tmp_path)
    make_survey(tmp_path)
    path = tmp_path / "survey.json"
    path.write_text(path.read_text().replace("a red circle above a blue square", "another prompt"))
    with pytest.raises(UserError, match=r"another plan"):
        serve(tmp_path)
    with pytest.raises(UserError, match=r"another plan"):  # nor do they become tables
        report([str(tmp_path)])
    assert not (tmp_path / "report").exists()


def test_a_language_that_there_is_not_and_a_picture_that_is_gone_are_refused(
    tmp_path: Path, serve: Serve
) -> None:
    survey = make_survey(tmp_path, languages=("en", "dee"))
    with pytest.raises(UserError, match=r"'dee', did you mean 'de'"):
        serve(tmp_path)
    make_survey(tmp_path)
    (tmp_path / survey.rounds[0].pictures[0].file).unlink()
    with pytest.raises(UserError, match="are not there"):
        serve(tmp_path)


def test_what_is_no_answers_database_is_refused_in_one_line(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == ([], [])
    (tmp_path / "answers.sqlite").write_bytes(b"not a database, but long enough to be one " * 50)
    places = [
        tmp_path,
        "nothing://there",
        "mysql://a:secret@b/c",
        "postgresql://u:secret@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=u&password=secret",
        "postgresql://u:x@secret:y@host:port/x",
        "mssql://b/c?password=secret",
        "://",
    ]
    for place in places:
        with pytest.raises(UserError, match=r"^answers: ") as refused:
            read_answers(place)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_answers_are_read_while_a_server_writes_and_from_a_folder_that_is_read_only(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = make_survey(tmp_path)
    person = Person(serve(tmp_path), random.Random(0))
    place = person.begin()
    while not place.endswith("/thanks"):
        place = person.answer(place)
        told(survey, [person], read_answers(tmp_path))
    files = [*tmp_path.glob("answers.sqlite*")]
    assert len(files) == 3  # with what is written ahead
    assert not [path.name for path in files if path.stat().st_mode & 0o077]  # a code is a person's access
    copy = tmp_path / "copy"
    copy.mkdir()
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite")) as one,
        contextlib.closing(sqlite3.connect(copy / "answers.sqlite")) as other,
    ):
        one.backup(other)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write wherever a disk can be written
    with contextlib.closing(Database(database_url(copy), only_read=True)) as database:
        told(survey, [person], (database.participants(), database.answers()))
        assert [path.name for path in copy.iterdir()] == ["answers.sqlite"]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the survey folder is missing"),
        (["{0}", "{0}"], "one word too many"),
        (["{0}", "postgresql://u:p@h/x"], "a URL comes after its name"),
        (["{0}", "postgresql://u:p@h/x?a=b"], "a URL comes after its name"),
        (["{0}", "database=answers.sqlite"], "database= is no URL"),
        (["{0}", "prt=1"], "did you mean 'port'"),
        (["{0}", "port=x"], "not understood"),
        (["{0}", "port=70000"], "not between 0 and 65535"),
        (["{0}", "width=2"], "not between 0 and 1"),
        (["{0}", "open=maybe"], "not understood"),
        (["{0}", "url=javascript:alert(1)"], "no site"),
        (["{0}", "frame=https://a; script-src *"], "no site"),
        (["{0}", "host=no.such.host.invalid"], "cannot listen"),
        (["{0}/nothing"], "no survey"),
    ],
)
def test_words_that_do_not_go_are_refused_in_one_line(
    tmp_path: Path, refused: Callable[[list[str]], str], words: list[str], said: str
) -> None:
    make_survey(tmp_path, rounds=1)
    assert said in refused(["survey", "serve", *(word.format(tmp_path) for word in words)])


def test_the_organisers_link_is_the_owners_alone_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, place = token_of(tmp_path, "http://127.0.0.1:1")
    path = tmp_path / "organiser.txt"
    assert place == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == f"http://127.0.0.1:1/organiser#{token}\n"
    assert len(token) >= 40
    assert token_of(tmp_path, "http://127.0.0.1:2")[0] == token  # at another port
    assert ":2/" in path.read_text()
    path.chmod(0o644)
    with pytest.raises(UserError, match="others may read"):
        token_of(tmp_path, "http://127.0.0.1:1")
    monkeypatch.setenv("MITUNE_SURVEY_TOKEN", "short")
    with pytest.raises(UserError, match="shorter than"):
        token_of(tmp_path, "http://127.0.0.1:1")
    monkeypatch.setenv("MITUNE_SURVEY_TOKEN", "long" * 10)
    assert token_of(tmp_path, "http://a")[0] == "long" * 10


def test_a_second_server_in_a_folder_is_refused(tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    make_survey(tmp_path, rounds=1)
    with hold(tmp_path, ""):
        assert "another server is at work" in refused(["survey", "serve", str(tmp_path), "port=0"])


def test_without_the_extra_serve_says_what_to_install(
    tmp_path: Path, refused: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_survey(tmp_path, rounds=1)
    for name in [*sys.modules]:
        if name.startswith("mitune.survey."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'mitune[survey]'" in refused(["survey", "serve", str(tmp_path)])


def test_help_and_first_errors_come_without_torch_or_the_server() -> None:
    code = (
        "import sys; from mitune.cli import main; main(['survey', 'serve', 'help']); main(['survey', 'serve', '/no']);"
        "print(sorted({'torch', 'fastapi', 'sqlalchemy', 'uvicorn', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
