"""Errors a user can mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import difflib
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

_ALIKE = 0.75
_NAME = 200  # letters of a name that a slip is looked for in
_LINE = 1400  # letters of a message
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class UserError(Exception):
    """An error is a mistake in the input. The message names the thing, the place and the way out, on one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the choice that ``name`` is a slip of, or an empty string if none is."""
    if len(name) > _NAME:  # no slip of the finger, and comparing takes long
        return ""
    known = list(choices)
    begun = [choice for choice in known if len(name) >= 3 and choice.startswith(name)]
    best = closest(name, known) or next(iter(begun), None)
    return f", did you mean '{best}'?" if best is not None else ""


def closest(name: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Give the choice that ``name`` is a slip of, or None; of those as near one that begins alike, and then one of the
    same length: first letters are seldom wrong, and letters exchanged more often than forgotten.

    ``cutoff``: the least likeness of the two (``difflib``).
    """
    close = difflib.get_close_matches(name, list(choices), n=5, cutoff=cutoff)
    like = [choice for choice in close if _is_slip(name, choice)]

    def far(choice: str) -> tuple[int, bool, int]:
        return _slips(name, choice), choice[:1] != name[:1], abs(len(choice) - len(name))

    return min(like, key=far, default=None)


def _is_slip(given: str, meant: str) -> bool:
    """Whether a third of the letters at most are wrong; one more where the rest is the same, in its order."""
    wrong, most = _slips(given, meant), len(given) // 3
    return wrong <= max(1, most) or (
        wrong == most + 1 and difflib.SequenceMatcher(None, given, meant).ratio() >= _ALIKE
    )


def _slips(given: str, meant: str) -> int:
    """Letters left out, put in, exchanged for another or with their neighbour, between two words of any case."""
    given, meant = given.casefold(), meant.casefold()
    before, last = [0] * (len(meant) + 1), list(range(len(meant) + 1))
    for row, letter in enumerate(given, 1):
        now = [row]
        for column, other in enumerate(meant, 1):
            best = min(last[column] + 1, now[-1] + 1, last[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == meant[column - 2] and given[row - 2] == other:
                best = min(best, before[column - 2] + 1)
            now.append(best)
        before, last = last, now
    return last[-1]


def check_known(what: str, value: str, known: Collection[str]) -> None:
    """Raise UserError unless ``value`` is one of ``known``; ``what``: the name it was given for, and where."""
    if value not in known:
        raise UserError(
            f"{what}={value!r} is not known{nearest(str(value), known)} (known: {', '.join(known)})"
        )


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Put ``where`` before the message of a UserError of the block: the key, or the part of the input, that it is of.

    >>> with naming("prompts"):
    ...     raise UserError("line 3 is empty")
    Traceback (most recent call last):
    mitune.errors.UserError: prompts: line 3 is empty
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def first_line(error: object) -> str:
    """Say on one line what another library's error (or the text of one) says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str], most: int = 3, length: int = 100, quote: str = "'") -> str:
    """Give the first ``most`` of the names, each of ``length`` characters at most, and how many more there are."""
    shown = ", ".join(f"{quote}{short(name, length)}{quote}" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def short(text: str, length: int = 160) -> str:
    """Give the text, cut after ``length`` characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def printable(text: str) -> str:
    """Write out what a terminal would obey in a text, or UTF-8 cannot hold (``\\x1b``): control characters,
    ends of lines, marks that turn the direction of writing, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(_spelled(letter) if _commands(letter) else letter for letter in text)


def _commands(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNS


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def bounded(line: str) -> str:
    """Give the line, or of one too long its beginning, which names the thing, and its end, which has the way out."""
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 3 :]}"


def complain(line: str) -> None:
    """Say one line on standard error, in one write.

    The processes of a launch share it and are unbuffered there (``python -u``): ``print`` would send the end of the
    line by itself, and two lines could come out as one.
    """
    sys.stderr.write(f"mitune: {bounded(printable(' '.join(line.split())))}\n")
    sys.stderr.flush()
