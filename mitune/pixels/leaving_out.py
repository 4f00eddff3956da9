"""A text without one of its phrases, by rule: lists, "and", "with", prepositions."""

from __future__ import annotations

import re

# Nouns of a picture, not of what is in it, or of a place within it.
_OF_PICTURES = re.compile(
    "photo|photograph|picture|image|painting|drawing|illustration|sketch|render|rendering|portrait|view|scene|shot"
    "|closeup|close-up|style|background|foreground|side|left|right|top|bottom|front|back|middle|center|centre|edge"
    "|corner",
    re.IGNORECASE,
)
_PREPOSITIONS = (
    "to the left of|to the right of|on the left of|on the right of|on the side of|on the top of|on the bottom of"
    "|on top of|in front of|at the top of|next to|close to|far from|left of|right of|bigger than|smaller than|inside of"
    "|outside of|out of|of|with|without|in|on|at|by|from|near|under|below|above|over|behind|beside|besides|between"
    "|against|around|across|through|into|onto|inside|outside|beneath|underneath|along|touching|to|for|as"
)
_LINKING = rf"(?:(?:is|are|was|were)\s+)?(?:(?:{_PREPOSITIONS})|[a-z]+ing(?:\s+(?:{_PREPOSITIONS}))?)"
_LIST = r"\s*,\s*(?:and|or)\s+|\s+(?:and|or)\s+|\s*[,;&]\s*"
_LISTED_BEFORE = re.compile(rf"(?:{_LIST})$", re.IGNORECASE)
_LISTED_AFTER = re.compile(rf"^(?:{_LIST})", re.IGNORECASE)
_LINK_BEFORE = re.compile(rf"(?:(?<=\s)|^)(?:{_LINKING})\s+$", re.IGNORECASE)
_LINK_AFTER = re.compile(rf"^\s+(?:{_LINKING})(?=\s)", re.IGNORECASE)
_EMPTY = frozenset(
    f"{_PREPOSITIONS} a an the some this that these those and or is are was were it there".replace(
        "|", " "
    ).split()
)


def of_pictures(word: str) -> bool:
    """Tell whether a noun is of the picture and of no thing in it: "photo", "left"."""
    return _OF_PICTURES.fullmatch(word) is not None


def leave_out(text: str, start: int, stop: int) -> str:
    """Cut the characters ``start`` … ``stop`` out of a text, with the word that tied them to the rest.

    The empty text where nothing is left that names a thing.

    >>> leave_out("a cat, a dog and a bird on a mat", 17, 23)
    'a cat and a dog on a mat'
    """
    before, after = text[:start], text[stop:]
    listed, following = _LISTED_BEFORE.search(before), _LISTED_AFTER.search(after)
    linked, leading = _LINK_BEFORE.search(before), _LINK_AFTER.search(after)
    if listed and following:  # in the midst of a list
        rest = before[: listed.start()] + after
    elif following:
        rest = before + after[following.end() :]
    elif listed:
        rest = _ended(before[: listed.start()], listed[0]) + after
    elif linked and not (leading and _of_picture(before[: linked.start()])):
        rest = before[: linked.start()] + after
    elif leading:
        rest = before + after[leading.end() :].lstrip()
    else:
        rest = f"{before} {after}"
    return _tidied(rest, text)


def _ended(before: str, cut: str) -> str:
    """A list whose last part was cut ends with the "and" that stood before it."""
    word = re.search(r"and|or", cut, re.IGNORECASE)
    place = before.rfind(",")
    if not word or place < 0 or re.search(r"\b(?:and|or)\b", before[place:], re.IGNORECASE):
        return before
    return f"{before[:place]} {word[0]}{before[place + 1 :]}"


def _of_picture(before: str) -> bool:
    """Whether what the link hangs on is the picture itself: "a photo of"."""
    words = before.split()
    return bool(words) and of_pictures(words[-1])


def _tidied(rest: str, text: str) -> str:
    rest = re.sub(r"\s+([,;.!?])", r"\1", " ".join(rest.split()))
    rest = re.sub(rf"^(?:(?:{_PREPOSITIONS}|and|or|is|are)\s+|[,;]\s*)+", "", rest, flags=re.IGNORECASE)
    rest = re.sub(
        rf"(?:\s+(?:{_PREPOSITIONS}|and|or|is|are)|\s*[,;])+([.!?]?)$", r"\1", rest, flags=re.IGNORECASE
    )
    words = re.findall(r"\w+(?:['’-]\w+)*", rest.lower())
    if all(word in _EMPTY or of_pictures(word) for word in words):
        return ""
    return rest[0].upper() + rest[1:] if text[:1].isupper() else rest
