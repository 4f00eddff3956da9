"""How a survey is served: what the words after ``serve`` say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Serving:
    """Holds how a survey is served.

    Attributes:
        host, port: to listen at; port 0 is any free one.
        database: a URL; "" is SQLite in the survey folder.
        url: of the survey as people reach it, where that is not host and port.
        open: whether people may come without an invitation.
        stop: the survey closes to new people when so many have finished; 0: never.
        width: the half-width that all intervals are to reach, which the organiser's page tells; 0: none.
        frame: the site that may show the pages in a frame.
        proxy: addresses of proxies that are believed about who asks, ``*`` for any.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    database: str = ""
    url: str = ""
    open: bool = True
    stop: int = 0
    width: float = 0.0
    frame: str = ""
    proxy: str = ""
