"""What the server hands out and knows again: which page a form is of, and that an organiser signed in."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time

CODE = re.compile(r"[A-Za-z0-9_-]{22}")  # of a participant: 128 random bits
_SESSION = 12 * 3600.0  # seconds that an organiser stays signed in


def new_code() -> str:
    """Draw a code for a participant."""
    return secrets.token_urlsafe(16)


class Seals:
    """Signs with the database's secret; what is the organiser's with the token too: a new one ends all sessions."""

    def __init__(self, secret: bytes, token: str) -> None:
        self._secret = secret
        self._token = hashlib.sha256(token.encode()).hexdigest()

    def _sign(self, *parts: str) -> str:
        text = "\0".join(parts).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def page(self, code: str, round: str) -> str:
        """Sign a page that is drawn now for a person and a round: it tells when, and no two pages are alike."""
        drawn, salt = f"{time.time():.3f}", secrets.token_hex(4)
        return f"{drawn}.{salt}.{self._sign('page', code, round, drawn, salt)}"

    def since(self, page: str, code: str, round: str) -> float | None:
        """Give the seconds since a page was drawn; None where it is not a page of ours for this person and round."""
        drawn, _, rest = page.rpartition(".")[0].rpartition(".")
        sign = page.rpartition(".")[2]
        if not _same(sign, self._sign("page", code, round, drawn, rest)):
            return None
        return max(0.0, time.time() - float(drawn))

    def is_token(self, given: str) -> bool:
        """Tell whether this is the organiser's token, in a time that does not depend on how much of it is right."""
        return _same(hashlib.sha256(given.encode()).hexdigest(), self._token)

    def session(self) -> str:
        """Sign that the organiser has signed in."""
        ends, salt = str(int(time.time() + _SESSION)), secrets.token_hex(8)
        return f"{ends}.{salt}.{self._sign('session', self._token, ends, salt)}"

    def is_session(self, given: str) -> bool:
        """Tell whether this is a session that has not ended."""
        ends, _, rest = given.partition(".")
        salt, _, sign = rest.partition(".")
        return _same(sign, self._sign("session", self._token, ends, salt)) and time.time() < float(ends)

    def form(self, session: str) -> str:
        """Sign a form of a session: another site's form does not have it."""
        return self._sign("form", session)

    def is_form(self, given: str, session: str) -> bool:
        """Tell whether a form is of this session."""
        return _same(given, self.form(session))


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
