"""Which columns of a table hold the pictures and the captions, and what a caption cell says."""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mitune.data.pictures.rows import Pictures, Wanted
from mitune.data.prompts import make_prompt
from mitune.data.table_files import check_column
from mitune.errors import UserError, short

IMAGE_COLUMNS = (
    "file_name", "image", "img", "picture", "file", "path", "image_path", "jpg", "png",
    "jpeg", "webp", "filename", "filepath", "file_path", "image_file", "image_name",
)  # fmt: skip
CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "texts", "prompts", "sentences")
# The two pictures of a row that were compared, as Pick-a-Pic has them, and how each fared.
_PAIRS = ("jpg", "image", "img", "png")
_ADDRESSES = ("url", "image_url", "image_0_url", "urls", "img_url")
_LONGEST = 100_000  # characters of a cell that may be a list in writing


@dataclass(frozen=True)
class Columns:
    """These are the columns of the pictures (two where a row is a pair), the captions, and the labels of a pair."""

    pictures: tuple[str, ...]
    caption: str
    labels: tuple[str, ...] = ()


def find_columns(there: Sequence[str], wanted: Wanted, where: str) -> Columns:
    """Find the columns among ``there``. Raises UserError naming what is there where it is not plain."""
    lower = {name.lower(): name for name in reversed(there)}
    pair: tuple[str, ...] = ()
    if wanted.image is None and not any(name in lower for name in IMAGE_COLUMNS):
        pair = next(
            ((f"{stem}_0", f"{stem}_1") for stem in _PAIRS if {f"{stem}_0", f"{stem}_1"} <= set(there)), ()
        )
        named = [name for name in there if name.endswith("_file_name")]
        if not pair and len(named) == 1:
            pair = (named[0],)
        address = next((lower[name] for name in _ADDRESSES if name in lower), None)
        if not pair and address is not None:
            raise UserError(
                f"{where} has web addresses (column '{address}'), no pictures; download these first, such as with"
                " img2dataset"
            )
    pictures = pair or (_column(there, wanted.image, IMAGE_COLUMNS, where, "score.image_column", "pictures"),)
    caption = _column(there, wanted.text, CAPTION_COLUMNS, where, "score.text_column", "captions")
    labels = ("label_0", "label_1") if len(pictures) == 2 and {"label_0", "label_1"} <= set(there) else ()
    return Columns(pictures, caption, labels)


def has_pictures(there: Sequence[str], wanted: Wanted) -> bool:
    """Tell whether a picture column is among ``there``."""
    try:
        find_columns([*there, "text"], Wanted(image=wanted.image), "")
    except UserError:
        return False
    return True


def _column(
    there: Sequence[str], given: str | None, usual: Sequence[str], where: str, key: str, what: str
) -> str:
    if given is not None:
        check_column(given, there, where, key)
        return given
    lower = {name.lower(): name for name in reversed(there)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise UserError(f"{where}: which column holds the {what}? Set {key} to one of {', '.join(there)}")


def caption_of(value: Any, identity: str, wanted: Wanted, where: str) -> str:
    """Give the caption with its white space put in order; empty for none.

    Of several (a list, or a list in writing, as a csv has it) the first that is not empty or, with
    ``score.caption=random``, one by the seed and the row's ``identity``, whatever the order of the rows.
    Raises UserError naming ``where`` and the type of what is no text.
    """
    texts = [text for text in (make_prompt(one).text for one in _texts(value, identity, where)) if text]
    if not texts:
        return ""
    if not wanted.at_random or len(texts) == 1:
        return texts[0]
    digest = hashlib.sha256(f"{wanted.seed}\x1f{identity}".encode()).digest()
    return texts[int.from_bytes(digest[:8], "big") % len(texts)]


def of_rows(
    where: str,
    captions: Sequence[Any],
    labels: Sequence[Sequence[Any]],
    columns: Columns,
    wanted: Wanted,
    read: Callable[[int, int], bytes],
) -> Pictures:
    """Make the source of a table's rows: of each its picture, or both one after the other where a row is a pair.

    Args:
        where: the source in messages.
        captions: the caption cell of each row.
        labels: what the pictures of each row were given where they were compared, as ``columns.labels``.
        columns: the columns of the table; its pictures are told by the keys ``pair`` and ``side`` where it has two.
        wanted: what was asked for.
        read: gives the contents of a row's picture by the row and the side.
    """
    texts = [caption_of(value, f"of row {row}", wanted, where) for row, value in enumerate(captions)]
    if len(columns.pictures) == 1:
        return Pictures(
            where, texts, [f"of row {row}" for row in range(len(texts))], lambda row: read(row, 0)
        )
    rows = [(row, side) for row in range(len(texts)) for side in range(2)]
    keys: dict[str, list[Any]] = {"pair": [row for row, _ in rows], "side": [side for _, side in rows]}
    if columns.labels:
        given = [labels[row][side] for row, side in rows]
        keys["label"] = [float(one) if isinstance(one, (int, float)) else float("nan") for one in given]
    return Pictures(
        where,
        [texts[row] for row, _ in rows],
        [f"of row {row} ({columns.pictures[side]})" for row, side in rows],
        lambda row: read(*rows[row]),
        keys=keys,
        notes=(
            f"{where}: each row has two pictures ({' and '.join(columns.pictures)}); both are scored,"
            " score.image_column chooses one",
        ),
    )


def _texts(value: Any, identity: str, where: str, depth: int = 0) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return _written_list(value) or [value]
    if isinstance(value, (list, tuple)) and depth < 2:
        return [text for one in value for text in _texts(one, identity, where, depth + 1)]
    if isinstance(value, Mapping) and depth < 2:
        for name in ("raw", *CAPTION_COLUMNS):
            if name in value:
                return _texts(value[name], identity, where, depth + 1)
    raise UserError(
        f"{where}: the caption {short(identity)} is {type(value).__name__}, not text; write it as text, or choose"
        " another column with score.text_column"
    )


def _written_list(text: str) -> list[str] | None:
    """The captions of a cell that is a list of texts, as JSON or as Python writes one; None for all other text."""
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]") and len(inside) <= _LONGEST):
        return None
    if inside[1:].lstrip()[:1] not in ("'", '"'):
        return None
    try:
        value = json.loads(inside)
    except ValueError:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes in it
                value = ast.literal_eval(inside)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    try:
        "".join(value).encode()
    except UnicodeEncodeError:  # an escaped half of a character
        return None
    return value
