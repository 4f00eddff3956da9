"""``mitune survey serve FOLDER``: people answer in their browsers until the server is stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mitune.errors import UserError, check_known, printable, short
from mitune.files import hold, user_errors
from mitune.reading import home, is_folder, read_text
from mitune.survey.answered import is_url
from mitune.survey.design import read_survey
from mitune.survey.serving import Serving

TOKEN = "MITUNE_SURVEY_TOKEN"  # where a server has no file that its organiser can read
LINK = "organiser.txt"
TAKES = (
    "FOLDER [port=8765] [host=127.0.0.1] [database=URL] [url=https://…] [open=true] [stop=PEOPLE] [width=0.05]"
    " [frame=https://…] [proxy=ADDRESS]"
)
_HELP = """\
  port, host   where it listens; port=0 is any free one
  database     postgresql://USER@HOST/NAME instead of FOLDER/answers.sqlite
  url          the address that people see, where a proxy is in front
  proxy        the address of that proxy, * for any
  open         false: by invitation links only
  stop         how many people are to finish; then nobody new begins
  width        the half-width of intervals that the organiser's page waits for
  frame        the site that may show the pages in a frame

The organiser's link is written to FOLDER/organiser.txt; docs/survey-server.md tells more."""
_SHORTEST = 20  # letters of a token that one thinks of oneself
_URL = re.compile(r"https?://[\w.-]+(?::\d+)?(?:/)?")


def main(words: Sequence[str]) -> int:
    """``mitune survey serve FOLDER [key=value …]``: serve until Ctrl-C or SIGTERM."""
    if [*words] == ["help"]:
        print(f"mitune survey serve {TAKES}\n\n{_HELP}")
        return 0
    folder, settings = read(words)
    survey = read_survey(folder)
    try:
        import uvicorn

        from mitune.survey.application import application
        from mitune.survey.database import Database, database_url
        from mitune.survey.limits import log_to_stderr
        from mitune.survey.served import Served
    except ImportError as error:
        raise UserError(
            f"serve: the package {error.name} is not installed; pip install 'mitune[survey]'"
        ) from error
    with hold(folder, f"serve: another server is at work in {folder}; stop it first"):
        database = Database(database_url(settings.database or folder))
        with contextlib.closing(database):
            listener = _listen(settings.host, settings.port)
            link = settings.url or f"http://{_told(settings.host)}:{listener.getsockname()[1]}"
            token, where = token_of(folder, link)
            app = application(Served(folder, survey, database, token, settings))
            log_to_stderr()
            print(
                printable(f"survey: open {link.rstrip('/')}/ (organiser: {where}; Ctrl-C stops)"), flush=True
            )
            config = uvicorn.Config(
                app,
                access_log=False,  # its lines would hold addresses and codes
                log_config=None,
                lifespan="off",
                server_header=False,
                proxy_headers=bool(settings.proxy),
                forwarded_allow_ips=settings.proxy or None,
                timeout_graceful_shutdown=5,
            )
            with _stopped_as_asked():
                uvicorn.Server(config).run(sockets=[listener])
    return 0


@contextlib.contextmanager
def _stopped_as_asked() -> Iterator[None]:
    """To be told to stop is how a server ends, and no error: uvicorn stops, and then sends itself the signal again."""
    asked = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, lambda *_: None) for one in asked]
    try:
        yield
    finally:
        for one, handler in zip(asked, before, strict=True):
            signal.signal(one, handler)


def read(words: Sequence[str]) -> tuple[Path, Serving]:
    """Read the words. Raises UserError for what is missing, too much, or not understood."""
    given: dict[str, Any] = {}
    places = []
    fields = {one.name: one for one in dataclasses.fields(Serving)}
    for word in words:
        name, is_named, value = word.partition("=")
        if not is_named or is_folder(word):
            places.append(word)
            continue
        if "://" in name:  # a URL without its name, which may hold a password: it is not said again
            raise UserError(f"serve: a URL comes after its name, such as database=URL; give {TAKES}")
        check_known("survey serve: the word", name, fields)
        given[name] = _value(name, value, fields[name].default)
    if any("://" in place for place in places):
        raise UserError(f"serve: a URL comes after its name, such as database=URL; give {TAKES}")
    if len(places) != 1:
        what = f"'{short(places[1], 80)}' is one word too many" if places else "the survey folder is missing"
        raise UserError(f"serve: {what}; give {TAKES}")
    settings = Serving(**given)
    if settings.database and not is_url(settings.database):  # it may hold a password: it is not said again
        raise UserError("serve: database= is no URL of a database; give one as postgresql://USER@HOST/NAME")
    for name in ("url", "frame"):
        address = getattr(settings, name)
        if address and not _URL.fullmatch(address):
            raise UserError(f"serve: {name}={short(address, 80)} is no site; give one as https://HOST")
    return home(places[0]), settings


def _value(name: str, text: str, like: Any) -> Any:
    """What a word says, of the kind that its default is."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        value = type(like)(text)
    except (KeyError, ValueError) as error:
        raise UserError(f"serve: {name}={short(text, 80)!r} is not understood; give {TAKES}") from error
    highest = {"port": 65535, "width": 1}.get(name, 10**9)
    if isinstance(value, (int, float)) and not 0 <= value <= highest:
        raise UserError(f"serve: {name}={short(text, 80)} is not between 0 and {highest}; choose another")
    return value


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens: who opens the link at once is not turned away."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"serve: cannot listen at host={short(host, 80)} port={port} ({said}); choose another, such as port=0"
        ) from error
    return listener


def _told(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host


def token_of(folder: Path, link: str) -> tuple[str, str]:
    """Give the organiser's token, and where it is told.

    It is written to a file that only its owner may read, and never printed: what is printed ends in the journals of
    services and containers, which others read. A second start keeps it, so that a link that was noted goes on working.
    """
    own = os.environ.get(TOKEN, "")
    if own:
        if len(own) < _SHORTEST:
            raise UserError(f"serve: {TOKEN} is shorter than {_SHORTEST} letters; give a long random one")
        return own, f"{link.rstrip('/')}/organiser with the token of {TOKEN}"
    path = folder / LINK
    token = ""
    if path.exists():
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"serve: others may read {path}; delete it, and a new one is made")
        token = read_text(path).strip().rpartition("#")[2]
        if len(token) < _SHORTEST:
            raise UserError(f"serve: {path} holds no organiser's link; delete it, and a new one is made")
    token = token or secrets.token_urlsafe(32)
    partial = folder / f".partial-{LINK}-{secrets.token_hex(4)}"
    with user_errors(path):
        handle = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{link.rstrip('/')}/organiser#{token}\n")
        os.replace(partial, path)
    return token, str(path)
