"""What the server does before any page does anything: bounds on rates and sizes, headers, and a log without people."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mitune.errors import printable, short

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST = 16 * 1024  # bytes of a form: a page sends a few hundred
_LONGEST = 500  # letters of an address: those of the pages have fewer than 60
_FOREIGN = (b"cross-site", b"same-site")
_MANY = 10_000  # buckets that are remembered
LOG = logging.getLogger("mitune.survey")


def log_to_stderr() -> None:
    """Write the log to standard error, a line an event, with the time in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    form = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler.setFormatter(form)
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


class Rate:
    """Lets ``burst`` events of a kind pass at once, and ``per_second`` from then on.

    Who is counted is kept in memory only, hashed with a salt that ends with the process.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst, self.per_second = burst, per_second
        self._salt = secrets.token_bytes(16)
        self._full: dict[bytes, tuple[float, float]] = {}  # what is left, and when that was so
        self._lock = threading.Lock()

    def passes(self, who: str) -> bool:
        """Count an event; False where there were too many."""
        key, now = hashlib.blake2b(who.encode(), key=self._salt, digest_size=12).digest(), time.monotonic()
        with self._lock:
            left, then = self._full.pop(key, (self.burst, now))
            left = min(self.burst, left + (now - then) * self.per_second)
            passes = left >= 1
            self._full[key] = (left - passes, now)
            if len(self._full) > _MANY:  # the one longest not seen
                del self._full[next(iter(self._full))]
        return passes


_LOGGED = Rate(200, 5.0)


def log_refusal(status: int, what: str, reason: str, code: str = "") -> None:
    """Log a refusal. ``what`` is a route's pattern, never an address; of a code its beginning is enough to tell two.
    A flood of them leaves some out: a log that fills the disk would stop the answers.
    """
    if not _LOGGED.passes(""):
        return
    whose = f" of {printable(code[:4])}…" if code else ""
    LOG.warning("refused %d %s%s: %s", status, what, whose, printable(short(reason, 100)))


def log_failure(error: Exception) -> None:
    """Log a fault by its kind and the last lines of code that it came from. Its own words may name a person."""
    if _LOGGED.passes(""):
        lines = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{os.path.basename(one.filename)}:{one.lineno}" for one in reversed(lines))
        LOG.error("failed: %s at %s", type(error).__name__, where)


class Guard:
    """Wraps an application: refuses bodies that are too large before they are read, addresses that are too long, and
    forms that another site sends; sets the headers, and keeps faults that are answered and logged from the server,
    which would log them again, in full and however many they are."""

    def __init__(self, app: App, frame: str = "") -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers(frame).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, begun = 0, False

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if read > MOST and not begun:
                return  # what an application says of a body that ended before its end
            if message["type"] == "http.response.start":
                begun = True
                own = message.setdefault("headers", [])
                there = {name.lower() for name, _ in own}
                message["headers"] = [*own, *(one for one in self._headers if one[0] not in there)]
            await send(message)

        async def counted() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST and not begun:
                raise _TooLargeError
            return message

        given = dict(scope["headers"])
        if len(scope["path"]) > _LONGEST:
            await _refuse(with_headers, 414, "an address", "too long", "There is no such long address here.")
            return
        # Where it is a browser that asks, it says from which site: of an own code, sent in another person's browser by
        # a form elsewhere, the sender would read that person's answers.
        if scope["method"] == "POST" and given.get(b"sec-fetch-site") in _FOREIGN:
            await _refuse(with_headers, 403, "a form", "of another site", "This form is of another site.")
            return
        length = given.get(b"content-length", b"0")
        if length.isdigit() and int(length) <= MOST:
            try:
                await self._app(scope, counted, with_headers)
            except _TooLargeError:
                pass
            except Exception:
                if not begun:
                    raise
            if read <= MOST or begun:
                return
        read = 0
        await _refuse(
            with_headers, 413, "a body", "too large", "This is more than a form of this page sends."
        )


class _TooLargeError(Exception):
    pass


async def _refuse(send: Send, status: int, what: str, reason: str, said: str) -> None:
    log_refusal(status, what, reason)
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": plain})
    await send({"type": "http.response.body", "body": f"{said}\n".encode()})


def headers(frame: str = "") -> dict[str, str]:
    """Give the headers of every response. ``frame``: the one site that may show the pages in a frame."""
    policy = {
        "default-src": "'none'",
        "img-src": "'self'",
        "style-src": "'self'",
        "script-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": frame or "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "x-robots-tag": "noindex, nofollow",
        "cache-control": "no-store",
        **({} if frame else {"x-frame-options": "DENY"}),
    }
