"""Many people answer a survey at once, and its server is killed in the middle: ``python -m benchmarks.survey_load``.

A server of its own process is answered by simulated people of another, who take what a browser takes (the page, its
pictures, the next round's ahead of time), think, and answer. Half-way the server gets SIGKILL and is started again;
meanwhile people try again with the same form, as the page does. At the end every answer that was said to be saved
must be there, once and as it was sent last.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np

from benchmarks import common
from benchmarks.survey_servers import Server, make_survey, postgresql, postgresql_programs
from mitune.errors import UserError
from mitune.survey.answers import read_answers

_LIMIT = 0.2  # seconds, of the 95th percentile of an answer
_PATIENCE = 60.0  # seconds that a person tries again


@dataclass
class Crowd:
    """Holds what people did and how long they waited.

    Attributes:
        url: of the server.
        think: the mean time in seconds before an answer, of an exponential distribution.
        answered: (when it was sent, seconds to its reply), of answers whose first try was replied to.
        pages: seconds to a round's page, likewise.
        retried: requests that were not replied to, and sent again.
        given: {(code, round): the ids that were said to be saved}.
    """

    url: str
    think: float
    answered: list[tuple[float, float]] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)
    retried: int = 0
    given: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, **more: Any) -> tuple[Any, bool]:
        """Ask until there is a reply; gives it, and whether the first try had it."""
        ends = time.monotonic() + _PATIENCE
        for tries in itertools.count():
            try:
                response = await client.request(method, path, **more)
                if response.status_code < 500 and response.status_code != 429:
                    return response, not tries
            except httpx.TransportError:
                if time.monotonic() > ends:
                    raise
            self.retried += 1
            await asyncio.sleep(0.2)
        raise AssertionError

    async def person(self, number: int) -> None:
        """Answer a whole survey."""
        taste, seen = random.Random(number), set[str]()
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            await asyncio.sleep(taste.uniform(0, self.think))
            page, _ = await self.ask(client, "GET", "/")
            form = {**_hidden(page.text), "consent": "yes"}
            reply, _ = await self.ask(client, "POST", "/", data=form)
            place = reply.headers["location"]
            while not place.endswith("/thanks"):
                began = time.monotonic()
                page, at_once = await self.ask(client, "GET", place)
                if at_once:
                    self.pages.append(time.monotonic() - began)
                new = [one for one in _pictures(page.text) if one not in seen]
                await asyncio.gather(*(self.ask(client, "GET", one) for one in new))
                seen.update(new)
                await asyncio.sleep(taste.expovariate(1 / self.think) if self.think else 0)
                place = await self.answer(client, place, page.text, taste)

    async def answer(self, client: httpx.AsyncClient, place: str, page: str, taste: random.Random) -> str:
        """Answer one round; gives where the next one is."""
        own = _hidden(page)
        chosen = [one for one in _shown(page) if taste.random() < 0.5]
        form = {**own, "chosen": chosen, "turn": "1"}
        began = time.monotonic()
        reply, at_once = await self.ask(
            client, "POST", place, data=form, headers={"accept": "application/json"}
        )
        if at_once:
            self.answered.append((began, time.monotonic() - began))
        assert reply.status_code == 200, reply.text
        self.given[place.split("/")[2], own["round"]] = tuple(chosen)
        return str(reply.json()["next"])


def _hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))


def _shown(page: str) -> list[str]:
    return re.findall(r'<img src="/picture/([0-9a-f]+)\.png"', page)


def _pictures(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(/picture/[0-9a-f]+\.png)"', page)


@dataclass(frozen=True)
class Found:
    """Holds what a run came to.

    Attributes:
        lost: answers that were said to be saved, and are not there as they were sent last.
        doubled: answers or people that are there more often than they were sent.
        down: seconds from the kill until the server was open again.
    """

    crowd: Crowd
    lost: int
    doubled: int
    down: float
    seconds: float


def load(
    folder: Path, people: int, rounds: int, think: float, database: str = "", kill: bool = True
) -> Found:
    """Serve a survey to so many people, and count.

    Args:
        folder: an empty one, of the survey.
        people, rounds: how many, and of each.
        think: see :class:`Crowd`.
        database: a URL; "" is SQLite in the folder.
        kill: whether the server is killed half-way.
    """
    make_survey(folder, rounds=rounds, practice=0)
    server = Server(folder, (f"database={database}",) if database else ()).start()
    try:
        crowd = Crowd(server.url, think)
        began = time.monotonic()
        down = asyncio.run(_all(crowd, server, people, people * rounds // 2 if kill else 0))
        seconds = time.monotonic() - began
    finally:
        server.stop()
    participants, answers = read_answers(database or folder)
    read = {(one.participant, one.round): one.chosen for one in answers}
    lost = sum(read.get(key) != chosen for key, chosen in crowd.given.items())
    doubled = len(answers) - len(crowd.given) + len(participants) - people
    return Found(crowd, lost, doubled, down, seconds)


async def _all(crowd: Crowd, server: Server, people: int, half: int) -> float:
    """All people at once; the server is killed after ``half`` answers (0: it is not). Gives how long it was down."""

    async def killer() -> float:
        while len(crowd.given) < half:
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        return time.monotonic() - began if half else 0.0

    async def nobody() -> float:
        return 0.0

    results = await asyncio.gather(
        killer() if half else nobody(), *(crowd.person(number) for number in range(people))
    )
    return float(results[0] or 0.0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run on each database that there is; gives what ``common.write`` takes."""
    common.warn_if_busy()
    databases = ["sqlite"]
    if options.database in ("postgresql", "both"):
        if postgresql_programs() is None:
            raise UserError("PostgreSQL is not installed; apt-get install postgresql, or --database sqlite")
        databases = ["postgresql"] if options.database == "postgresql" else [*databases, "postgresql"]
    figures = []
    for name in databases:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            url = stack.enter_context(postgresql(folder / "server")) if name == "postgresql" else ""
            (folder / "survey").mkdir()
            found = load(folder / "survey", options.people, options.rounds, options.think, url)
        figures += figures_of(name, found)
    return {
        "settings": common.settings_of(options, "device"),
        "comparisons": [],
        "figures": figures,
    }


def figures_of(name: str, found: Found) -> list[dict[str, Any]]:
    """The figures of a run, as the record holds them."""
    crowd = found.crowd
    answers = np.array([seconds for _, seconds in crowd.answered])
    middle, high, highest = np.quantile(answers, [0.5, 0.95, 0.99])
    pages = float(np.quantile(crowd.pages, 0.95))
    told = "of answers whose first try was replied to"
    return [
        common.figure(f"{name}: answers lost", found.lost, "", note="must be 0"),
        common.figure(f"{name}: answers or people doubled", found.doubled, "", note="must be 0"),
        common.figure(f"{name}: answers said to be saved", len(crowd.given), ""),
        common.figure(
            f"{name}: seconds to spare, of {_LIMIT} s at the 95th percentile of an answer",
            float(_LIMIT - high), "s", at_least=0.0,
        ),
        common.figure(f"{name}: an answer, median", float(middle), "s", note=told),
        common.figure(f"{name}: an answer, 95th percentile", float(high), "s", note=told),
        common.figure(f"{name}: an answer, 99th percentile", float(highest), "s", note=told),
        common.figure(f"{name}: a round's page, 95th percentile", pages, "s"),
        common.figure(f"{name}: killed, and open again after", found.down, "s"),
        common.figure(f"{name}: requests that were sent again", crowd.retried, ""),
        common.figure(f"{name}: rounds a second", len(crowd.given) / found.seconds, "1/s"),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write the record."""
    parser = common.parser("survey_load", __doc__, record="survey_load", people=200, rounds=20)
    parser.add_argument("--think", type=float, default=4.0, help="mean seconds before an answer")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="sqlite")
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
