"""The survey in a real browser: by mouse, by keyboard, on a phone, in two tabs, without a connection."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.survey_servers import Server, make_survey
from mitune.survey import languages
from mitune.survey.answers import Answer, read_answers

NO_BROWSER = (
    "browser tests of the survey did not run: {} (apt-get install chromium; pip install 'mitune[dev]')"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
for package in ("playwright", "axe_playwright_python", "fastapi"):
    pytest.importorskip(package, reason=NO_BROWSER.format(f"{package} is not installed"))
if CHROMIUM is None:
    pytest.skip(NO_BROWSER.format("there is no chromium"), allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright  # noqa: E402

WORDS = languages.known()["en"]
ROUNDS = 3
PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
SLOW = 30_000  # milliseconds: a machine may have more to do


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A survey of three rounds after one of practice."""
    folder = tmp_path_factory.mktemp("survey")
    make_survey(folder, rounds=ROUNDS, languages=("en", "zh", "de"))
    running = Server(folder).start()
    yield running
    running.stop()


Open = Callable[..., BrowserContext]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """``opened(server, **settings)``: a browser of its own. It asks no other site, and nothing in it goes wrong."""
    contexts: list[BrowserContext] = []
    asked: list[str] = []
    wrong: list[str] = []

    def make(server: Server, **settings: Any) -> BrowserContext:
        context = browser.new_context(base_url=server.url, **settings)
        context.set_default_timeout(SLOW)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        context.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        contexts.append(context)
        return context

    yield make
    with contextlib.suppress(IndexError):
        own = {context.pages[0].url.split("/")[2] for context in contexts if context.pages}
        assert {url.split("/")[2] for url in asked} <= own
    for context in contexts:
        context.close()
    # What a browser says of a lost connection is no fault of the page.
    assert [text for text in wrong if "net::ERR_" not in text] == []


def begin(page: Page) -> str:
    """Agree by the open link; gives the code."""
    page.goto("/")
    page.get_by_label(WORDS["consent"]).check()
    page.get_by_role("button", name=WORDS["begin"]).click()
    page.wait_for_url("**/1")
    return page.url.split("/")[-2]


def on(page: Page) -> None:
    """Press the button that leads on, and wait until it has."""
    before = page.url
    page.locator("button[type=submit]").click()
    page.wait_for_url(lambda url: url != before)


def choose(page: Page, *numbers: int) -> tuple[str, ...]:
    """Tick pictures by their numbers on the page; gives their ids."""
    boxes = page.locator("[name=chosen]")
    for number in numbers:
        boxes.nth(number - 1).check()
    return tuple(str(boxes.nth(number - 1).get_attribute("value")) for number in numbers)


def saved(server: Server, code: str) -> list[tuple[str, ...]]:
    """What a person has chosen, round by round."""
    return [one.chosen for one in answers_of(server, code)]


def answers_of(server: Server, code: str) -> list[Answer]:
    return [one for one in read_answers(server.folder)[1] if one.participant == code]


# -- the whole study ---------------------------------------------------------------------------------------------------


def test_by_mouse(server: Server, opened: Open) -> None:
    page = opened(server).new_page()
    code = begin(page)
    given = []
    for place in range(1 + ROUNDS):
        ids = [str(one.get_attribute("value")) for one in page.locator("[name=chosen]").all()]
        wanted = [0, 2] if place % 2 else [1]
        for number in wanted:
            page.locator(".card img").nth(number).click()  # the picture itself
        given.append(tuple(ids[number] for number in wanted))
        on(page)
    expect(page.get_by_role("heading", name=WORDS["thanks"])).to_be_visible()
    assert saved(server, code) == given
    assert all(0 < one.seconds < 60 for one in answers_of(server, code))


def test_by_keyboard_alone(server: Server, opened: Open) -> None:
    page = opened(server).new_page()
    page.goto("/")

    def tab_to(found: Callable[[str], bool]) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            focused = "e => `${e.tagName} ${e.name} ${e.type}`"
            if found(str(page.locator(":focus").evaluate(focused))):
                solid = "one => one && getComputedStyle(one).outlineStyle === 'solid'"
                outlined = f"e => [e, e.closest('label')].some({solid})"
                assert page.locator(":focus").evaluate(outlined), "nobody sees where the focus is"
                return
        raise AssertionError("the Tab key does not get there")

    tab_to(lambda what: "consent" in what)
    page.keyboard.press("Space")
    tab_to(lambda what: what.startswith("BUTTON"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/1")
    code, given = page.url.split("/")[-2], []
    for place in range(1 + ROUNDS):
        tab_to(lambda what: "chosen" in what)
        page.keyboard.press("Space")
        given.append((str(page.locator(":focus").get_attribute("value")),))
        before = page.url
        if place % 2:
            page.keyboard.press("Enter")  # from where one is
        else:
            tab_to(lambda what: what.startswith("BUTTON"))
            page.keyboard.press("Enter")
        page.wait_for_url(lambda url, before=before: url != before)
    expect(page.get_by_role("heading", name=WORDS["thanks"])).to_be_visible()
    assert saved(server, code) == given


def test_at_360_pixels_by_touch(server: Server, opened: Open) -> None:
    page = opened(server, **PHONE).new_page()

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for target in page.locator("button, .button, .card, .option").all():
            box = target.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= 44

    page.goto("/")
    fits()
    page.get_by_label(WORDS["consent"]).tap()
    page.get_by_role("button", name=WORDS["begin"]).tap()
    page.wait_for_url("**/1")
    code, given = page.url.split("/")[-2], []
    for _ in range(1 + ROUNDS):
        fits()
        page.locator(".card").nth(1).tap()
        given.append((str(page.locator("[name=chosen]").nth(1).get_attribute("value")),))
        before = page.url
        page.locator("button[type=submit]").tap()
        page.wait_for_url(lambda url, before=before: url != before)
    fits()
    assert saved(server, code) == given


def test_without_javascript(server: Server, opened: Open) -> None:
    page = opened(server, java_script_enabled=False).new_page()
    code, given = begin(page), []
    for _ in range(1 + ROUNDS):
        given.append(choose(page, 1, 3))
        on(page)
    page.go_back()
    assert page.locator(":checked").count() == 2
    assert saved(server, code) == given


@pytest.mark.parametrize(
    ("kind", "option"), [("pairs", WORDS["no_difference"]), ("agree", WORDS["fits_not"])]
)
def test_where_one_must_be_chosen_the_page_asks_for_it(
    tmp_path: Path, opened: Open, kind: str, option: str
) -> None:
    make_survey(tmp_path, kind, rounds=2, practice=0, question="")
    server = Server(tmp_path).start()
    try:
        page = opened(server).new_page()
        code = begin(page)
        page.locator("button[type=submit]").click()
        assert page.url.endswith("/1")
        assert page.locator(":invalid").count()
        page.get_by_label(option).check()
        on(page)
        (first,) = choose(page, 1)
        on(page)
        assert saved(server, code) == [(), (first,)]
        assert_accessible(page)
    finally:
        server.stop()


# -- nothing is lost ---------------------------------------------------------------------------------------------------


def test_going_back_keeps_answers_by_the_link_and_by_the_browser(server: Server, opened: Open) -> None:
    page = opened(server).new_page()
    code = begin(page)
    first = choose(page, 1)
    on(page)
    second = choose(page, 2, 3)
    on(page)
    page.get_by_role("link", name=WORDS["back"]).click()
    page.wait_for_url("**/2")
    assert [one.get_attribute("value") for one in page.locator(":checked").all()] == [*second]
    page.go_back()
    page.go_back()
    page.wait_for_url("**/2")
    page.go_back()
    page.wait_for_url("**/1")
    assert [one.get_attribute("value") for one in page.locator(":checked").all()] == [*first]
    page.locator(":checked").uncheck()
    third = choose(page, 3)
    on(page)
    assert page.url.endswith("/2")
    assert saved(server, code) == [third, second]


def test_a_reload_and_a_closed_tab_keep_even_what_was_not_sent_yet(server: Server, opened: Open) -> None:
    context = opened(server)
    page = context.new_page()
    code = begin(page)
    on(page)
    chosen = choose(page, 1, 2)
    order = [one.get_attribute("src") for one in page.locator(".card img").all()]
    page.reload()
    assert [one.get_attribute("src") for one in page.locator(".card img").all()] == order
    assert [one.get_attribute("value") for one in page.locator(":checked").all()] == [*chosen]
    page.close()
    page = context.new_page()
    page.goto("/")  # the same link
    assert page.url.endswith(f"/p/{code}/2")
    assert [one.get_attribute("value") for one in page.locator(":checked").all()] == [*chosen]
    on(page)
    assert saved(server, code) == [(), chosen]


def test_two_tabs_agree(server: Server, opened: Open) -> None:
    context = opened(server)
    one = context.new_page()
    code = begin(one)
    other = context.new_page()
    other.goto(one.url)
    chosen = choose(one, 2)
    on(one)
    expect(other.locator("[name=chosen]").nth(1)).to_be_checked()
    expect(other.get_by_role("status")).to_have_text(WORDS["elsewhere"])
    other.locator(":checked").uncheck()
    later = choose(other, 1)
    on(other)
    on(one)
    one.get_by_role("link", name=WORDS["back"]).click()
    one.wait_for_url("**/2")
    one.get_by_role("link", name=WORDS["back"]).click()
    one.wait_for_url("**/1")
    assert one.locator(":checked").get_attribute("value") == later[0] != chosen[0]
    assert saved(server, code) == [later, ()]


def test_offline_in_the_middle_and_back(server: Server, opened: Open) -> None:
    context = opened(server)
    page = context.new_page()
    code = begin(page)
    on(page)
    context.set_offline(True)
    choose(page, 1)
    page.locator("button[type=submit]").click()
    expect(page.get_by_role("status")).to_have_text(WORDS["waiting"])
    page.locator(":checked").uncheck()
    chosen = choose(page, 3)  # one may change one's mind meanwhile
    page.locator("button[type=submit]").click()
    expect(page.get_by_role("status")).to_have_text(WORDS["waiting"])
    assert len(saved(server, code)) == 1
    context.set_offline(False)
    page.wait_for_url("**/3")
    assert saved(server, code) == [(), chosen]


def test_a_tab_that_was_closed_offline_sends_its_answer_when_it_is_opened_again(
    server: Server, opened: Open
) -> None:
    context = opened(server)
    page = context.new_page()
    code = begin(page)
    context.set_offline(True)
    chosen = choose(page, 2)
    page.locator("button[type=submit]").click()
    expect(page.get_by_role("status")).to_have_text(WORDS["waiting"])
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(f"/p/{code}")
    page.wait_for_url("**/2")
    assert saved(server, code) == [chosen]


def test_a_server_that_is_killed_and_started_again_gets_the_answer(tmp_path: Path, opened: Open) -> None:
    make_survey(tmp_path, rounds=2, practice=0)
    server = Server(tmp_path).start()
    try:
        page = opened(server).new_page()
        code = begin(page)
        first = choose(page, 1)
        on(page)
        server.kill()
        second = choose(page, 2)
        page.locator("button[type=submit]").click()
        expect(page.get_by_role("status")).to_have_text(WORDS["waiting"])
        server.start()
        page.wait_for_url("**/thanks")
        assert saved(server, code) == [first, second]
    finally:
        server.stop()


# -- for everybody -----------------------------------------------------------------------------------------------------


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing, of WCAG 2.2 AA or of good practice."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": tags}).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == [], page.url


@pytest.mark.parametrize("settings", [{}, {**PHONE, "color_scheme": "dark"}], ids=["wide", "dark phone"])
def test_axe_finds_nothing_on_any_page(server: Server, opened: Open, settings: dict[str, Any]) -> None:
    page = opened(server, **settings).new_page()
    page.goto("/?lang=de")
    assert_accessible(page)
    begin(page)
    choose(page, 1)
    assert_accessible(page)
    for _ in range(1 + ROUNDS):
        on(page)
    assert_accessible(page)
    page.goto((server.folder / "organiser.txt").read_text().strip())
    expect(page.get_by_role("table").first).to_be_visible()
    assert page.url == f"{server.url}/organiser"  # the token is gone from the address
    page.get_by_role("button", name="Make links").click()
    expect(page.get_by_role("textbox")).to_have_value(re.compile(rf"^({server.url}/p/[\w-]{{22}}\n?){{10}}$"))
    assert_accessible(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert_accessible(page)


def test_the_next_rounds_pictures_are_fetched_before_it_is_opened(server: Server, opened: Open) -> None:
    page = opened(server).new_page()
    fetched: set[str] = set()
    page.on("requestfinished", lambda request: fetched.add(request.url))
    begin(page)
    page.wait_for_load_state("networkidle")
    following = page.eval_on_selector_all("link[rel=prefetch]", "links => links.map(link => link.href)")
    assert len(following) == 3
    assert {*following} <= fetched
    assert page.locator("img[loading=lazy]").count() == 3


def test_the_servers_log_names_nobody(server: Server) -> None:
    for one in read_answers(server.folder)[0]:
        assert one.code not in server.log
    token = (server.folder / "organiser.txt").read_text().strip().rpartition("#")[2]
    assert token not in server.log + server.said
    assert "127.0.0.1" not in server.log
    assert "Traceback" not in server.log
