"""The answers' database: SQLite in the survey folder, or PostgreSQL by its URL. What was said to be saved is saved.

SQLite writes ahead (WAL) and waits for the disk at each commit (``synchronous=FULL``): neither a killed server nor a
power cut loses an answer that a page was told is saved. An answer is a row by (participant, round): a later one takes
its place, and one that was seen before, because a browser sent it again, changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from mitune.errors import UserError, first_line, short
from mitune.reading import check_regular
from mitune.survey.answered import ANSWERS, Answer, Participant, is_url
from mitune.survey.seals import new_code

_SCHEMA = "1"
_BUSY = 30.0  # seconds to wait for another process that writes
_TABLES = sa.MetaData()
# Of the database itself: its schema, the plan that it has answers of, the secret that signs pages, the next number.
_FACTS = sa.Table(
    "facts",
    _TABLES,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_PARTICIPANTS = sa.Table(
    "participants",
    _TABLES,
    sa.Column("code", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, unique=True),
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("language", sa.String(16), nullable=False),
    sa.Column("invited", sa.Double, nullable=False),
    sa.Column("consented", sa.Double),
    sa.Column("finished", sa.Double),
)
_ANSWERS = sa.Table(
    "answers",
    _TABLES,
    sa.Column("participant", sa.ForeignKey("participants.code"), primary_key=True),
    sa.Column("round", sa.String(64), primary_key=True),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("chosen", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("first", sa.Double, nullable=False),
    sa.Column("saved", sa.Double, nullable=False),
)
_SEEN = sa.Table(
    "seen",
    _TABLES,
    sa.Column("participant", sa.ForeignKey("participants.code"), primary_key=True),
    sa.Column("message", sa.String(64), primary_key=True),
)


class OutOfOrderError(Exception):
    """A round was answered before one that comes earlier."""


@dataclass(frozen=True)
class Reply:
    """Holds what a page sends of a round.

    Attributes:
        shown, chosen: ids of pictures.
        seconds: that the round was looked at.
        message: what tells this reply from every other one: the same again is the same reply, sent twice.
    """

    shown: Sequence[str]
    chosen: Sequence[str]
    seconds: float
    message: str


def database_url(place: str | Path) -> str:
    """Give the URL of a survey folder's answers; a URL is its own."""
    if is_url(place):
        return str(place)
    return f"sqlite:///{(Path(place) / ANSWERS).resolve()}"


class Database:
    """Holds the connections to a database."""

    def __init__(self, url: str, only_read: bool = False) -> None:
        """Connect. Raises UserError for a URL that is none, and for a database that is not there or no such one."""
        try:
            parsed = sa.make_url(url)
        except (SQLAlchemyError, ValueError) as error:  # ValueError: of the port
            raise UserError(
                "answers: this is no database's URL; give a survey folder, or postgresql://USER@HOST/NAME"
            ) from error
        # Without what follows the ?: libpq takes a password there too.
        self.name = parsed.set(query={}).render_as_string(hide_password=True)
        self._one_writer: Any = contextlib.nullcontext()
        if parsed.get_backend_name() == "sqlite":
            self.name = parsed.database or ""
            self._one_writer = (
                threading.Lock()
            )  # first come, first served: SQLite itself would sleep and try again
            self._engine = _sqlite(Path(self.name), only_read)
        elif parsed.get_backend_name() == "postgresql":
            self._engine = _postgresql(parsed)
        else:
            raise UserError(f"answers: {self.name} is no database that is known; sqlite or postgresql")
        with self._told():
            if only_read:
                self._check_schema()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the database says of itself into one line."""
        try:
            yield
        except SQLAlchemyError as error:
            said = short(first_line(getattr(error, "orig", None) or error))
            raise UserError(
                f"answers: {self.name} cannot be used ({said}); mend it, or give another"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._one_writer, self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    def prepare(self, plan: str) -> None:
        """Make the tables where there are none. Raises UserError where the answers are of another plan."""
        with self._told():
            _TABLES.create_all(self._engine)
            facts = {"schema": _SCHEMA, "plan": plan, "secret": secrets.token_hex(32), "next": "0"}
            with self._writing() as connection:
                known = _facts(connection)
                for name, value in facts.items():
                    if name not in known:
                        connection.execute(sa.insert(_FACTS).values(name=name, value=value))
            self._check_schema()
        self.check_plan(plan)

    def check_plan(self, plan: str) -> None:
        """Raise UserError where the answers are of another plan."""
        with self._told(), self._reading() as connection:
            known = _facts(connection).get("plan")
        if known != plan:
            raise UserError(
                f"answers: {self.name} holds the answers to another plan; move it away, or restore that survey.json"
            )

    def _check_schema(self) -> None:
        with self._reading() as connection:
            found = _facts(connection).get("schema")
        if found != _SCHEMA:
            raise UserError(f"answers: {self.name} is of another version ({found}); read it with that one")

    def secret(self) -> bytes:
        """Give what pages are signed with: it outlives a server, and so do the pages that people have open."""
        with self._reading() as connection:
            return bytes.fromhex(_facts(connection)["secret"])

    # -- participants --------------------------------------------------------------------------------------------------

    def invite(self, group: str, language: str, count: int = 1) -> list[str]:
        """Make codes for that many people of a group, who have not consented yet."""
        codes = [new_code() for _ in range(count)]
        own = {"group": group, "language": language, "invited": _now()}
        with self._writing() as connection:
            connection.execute(sa.insert(_PARTICIPANTS), [{"code": code, **own} for code in codes])
        return codes

    def enter(self, code: str, group: str, language: str) -> None:
        """Take in a person who came uninvited and agreed, with a code that was drawn before; once."""
        own = {"code": code, "group": group, "language": language, "invited": _now()}
        with contextlib.suppress(IntegrityError), self._writing() as connection:
            connection.execute(sa.insert(_PARTICIPANTS).values(own))
        self.consent(code, language)

    def consent(self, code: str, language: str) -> None:
        """Note that a person takes part, and give the next number; a person who has done so before keeps it."""
        with self._writing() as connection:
            # The row of the counter first: who waits for it waits for all that follows.
            taken = connection.execute(
                sa.update(_FACTS)
                .where(_FACTS.c.name == "next")
                .values(value=sa.cast(sa.cast(_FACTS.c.value, sa.Integer) + 1, sa.Text))
                .returning(_FACTS.c.value)
            ).scalar_one()
            changed = connection.execute(
                sa.update(_PARTICIPANTS)
                .where(_PARTICIPANTS.c.code == code, _PARTICIPANTS.c.number.is_(None))
                .values(number=int(taken) - 1, language=language, consented=_now())
            )
            if not changed.rowcount:
                connection.rollback()

    def participant(self, code: str) -> Participant | None:
        """Look a person up by the code."""
        with self._reading() as connection:
            row = connection.execute(sa.select(_PARTICIPANTS).where(_PARTICIPANTS.c.code == code)).first()
        return None if row is None else Participant(*row)

    def participants(self) -> list[Participant]:
        """Read all participants."""
        order = (_PARTICIPANTS.c.invited, _PARTICIPANTS.c.code)
        with self._told(), self._reading() as connection:
            return [
                Participant(*row) for row in connection.execute(sa.select(_PARTICIPANTS).order_by(*order))
            ]

    # -- answers -------------------------------------------------------------------------------------------------------

    def save(self, code: str, plan: Sequence[str], round: str, reply: Reply) -> None:
        """Save the reply to a round; it is on the disk when this returns.

        ``plan``: the ids of the person's rounds in their order. Raises OutOfOrderError where an earlier one has no
        answer.
        """
        now, own = _now(), sa.and_(_ANSWERS.c.participant == code, _ANSWERS.c.round == round)
        with self._writing() as connection:
            # Of one person's replies each waits for the one before: two tabs, or one that sends twice.
            connection.execute(
                sa.select(_PARTICIPANTS.c.code).where(_PARTICIPANTS.c.code == code).with_for_update()
            )
            seen = {"participant": code, "message": reply.message}
            if connection.execute(
                sa.select(_SEEN).where(*(_SEEN.c[name] == own for name, own in seen.items()))
            ).first():
                return
            answered = _answered(connection, code).keys()
            if not answered >= {*plan[: plan.index(round)]}:
                raise OutOfOrderError
            values = {
                "shown": json.dumps([*reply.shown]),
                "chosen": json.dumps([*reply.chosen]),
                "saved": now,
            }
            if round in answered:
                connection.execute(sa.update(_ANSWERS).where(own).values(values))
            else:
                first = {"participant": code, "round": round, "seconds": reply.seconds, "first": now}
                connection.execute(sa.insert(_ANSWERS).values(first | values))
            connection.execute(sa.insert(_SEEN).values(seen))
            if {*answered, round} >= {*plan}:
                done = sa.and_(_PARTICIPANTS.c.code == code, _PARTICIPANTS.c.finished.is_(None))
                connection.execute(sa.update(_PARTICIPANTS).where(done).values(finished=now))

    def answered(self, code: str) -> dict[str, tuple[str, ...]]:
        """Give what a person has chosen: {round: ids of pictures}."""
        with self._reading() as connection:
            return _answered(connection, code)

    def answers(self) -> list[Answer]:
        """Read all answers, by the participants' numbers and the times of their first answers."""
        query = (
            sa.select(
                _ANSWERS.c.participant, _PARTICIPANTS.c.number, _PARTICIPANTS.c.group, _ANSWERS.c.round,
                _ANSWERS.c.shown, _ANSWERS.c.chosen, _ANSWERS.c.seconds, _ANSWERS.c.saved,
            )
            .join_from(_ANSWERS, _PARTICIPANTS)
            .order_by(_PARTICIPANTS.c.number, _ANSWERS.c.first, _ANSWERS.c.round)
        )  # fmt: skip
        with self._told(), self._reading() as connection:
            return [
                Answer(code, number, group, name, _ids(shown), _ids(chosen), seconds, saved)
                for code, number, group, name, shown, chosen, seconds, saved in connection.execute(query)
            ]

    def amounts(self) -> tuple[int, int]:
        """Count who finished, and all answers."""
        with self._reading() as connection:
            finished = connection.execute(sa.select(sa.func.count(_PARTICIPANTS.c.finished))).scalar_one()
            return finished, connection.execute(sa.select(sa.func.count()).select_from(_ANSWERS)).scalar_one()


def _now() -> float:
    return round(time.time(), 3)


def _facts(connection: sa.Connection) -> dict[str, str]:
    return {row.name: row.value for row in connection.execute(sa.select(_FACTS))}


def _answered(connection: sa.Connection, code: str) -> dict[str, tuple[str, ...]]:
    own = sa.select(_ANSWERS.c.round, _ANSWERS.c.chosen).where(_ANSWERS.c.participant == code)
    return {name: _ids(chosen) for name, chosen in connection.execute(own)}


def _ids(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _sqlite(path: Path, only_read: bool) -> sa.Engine:
    if path.exists():
        check_regular(path)
    elif not only_read:
        # For its owner alone, and so are the files that SQLite puts beside it: a code in it is a person's access.
        with contextlib.suppress(OSError):  # SQLite says what is wrong
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def connect() -> sqlite3.Connection:
        mode = "ro" if only_read else "rwc"
        if only_read and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
            mode += "&immutable=1"  # nobody writes, and SQLite would put files beside it even to read
        made = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            timeout=_BUSY,
            isolation_level=None,
            check_same_thread=False,
        )
        if not only_read:
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                made.execute(f"PRAGMA {setting}")
        return made

    engine = sa.create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=40,
        hide_parameters=True,  # an error that is logged names no code
    )

    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "begin", begin)
    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=40,
            pool_pre_ping=True,  # a database that was started anew is connected to anew
            hide_parameters=True,
            isolation_level="READ COMMITTED",
        )
    except ImportError as error:
        raise UserError(
            "answers: PostgreSQL takes a package that is not installed; pip install 'psycopg[binary]'"
        ) from error
