"""The pictures of a report: read in, marked right or wrong where a judge can tell, in the order of what was gained."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mitune.data.decoding import open_picture
from mitune.errors import UserError
from mitune.evaluate.tables import figure
from mitune.reading import is_number, read_bytes
from mitune.tasks import UNCATEGORISED

LARGEST = 512  # side of a picture on the page; larger ones are reduced, or the page would weigh 100 MB
LOSSLESS = 256  # sides up to this are kept to the bit; larger ones become JPEG
SMALL = 128  # sides up to this are shown pixel by pixel: smoothed, they would look unsharp
SORTS = 4  # scores that the pairs can be ordered by
_EXACT = "exact"  # of the oracle: whether the picture is right to the last thing


def example(found: Mapping[str, Any], folder: Path, run: Path) -> dict[str, Any]:
    """Read a before/after pair: its pictures, and each score before, after and gained."""
    sides = ("before", "after")
    scores = {side: found.get(f"scores_{side}") or {} for side in sides}
    rows = []
    for name in dict.fromkeys([*scores["before"], *scores["after"]]):
        old, new = (scores[side].get(name) for side in sides)
        gain = new - old if is_number(old) and is_number(new) else None
        rows.append({"score": name, "before": old, "after": new, "gain": gain})
    return {
        "prompt": found.get("prompt", ""),
        "category": "" if found.get("category") == UNCATEGORISED else found.get("category", ""),
        "pictures": [{"side": side, **shown(folder, found.get(side), run, scores[side])} for side in sides],
        "scores": rows,
        "orders": [],
    }


def candidates(found: Mapping[str, Any], folder: Path, run: Path) -> dict[str, Any]:
    """Read the best and worst candidates of a prompt."""
    return {
        "prompt": found.get("prompt", ""),
        "sides": [
            {
                "side": side,
                "pictures": [
                    shown(folder, entry.get("picture"), run, entry.get("scores") or {})
                    for entry in found.get(side) or []
                ],
            }
            for side in ("best", "worst")
        ],
    }


def in_order(examples: Sequence[dict[str, Any]], leading: Sequence[str]) -> list[str]:
    """Give each example its places (from 1) in the orders that the page offers, and name these orders.

    ``leading``: the scores, the most telling first. Offered is the gain of up to :data:`SORTS` of them, and the loss of
    the first.
    """
    gains = {
        name: [next((row["gain"] for row in one["scores"] if row["score"] == name), None) for one in examples]
        for name in leading
    }
    # What the oracle finds exactly right goes as the oracle goes.
    shown = {name: {figure(value, True) for value in values} - {"–"} for name, values in gains.items()}
    telling = [name for name in leading if len(shown[name]) > 1 and name != _EXACT][:SORTS]
    orders = [(f"gain in {name}", gains[name], -1) for name in telling]
    orders += [(f"loss in {name}", gains[name], 1) for name in telling[:1]]
    for _, values, sign in orders:
        keys = [float("inf") if value is None else sign * value for value in values]
        ranked = sorted(range(len(examples)), key=keys.__getitem__)
        for place, number in enumerate(ranked, start=1):
            examples[number]["orders"].append(place)
    return [name for name, _, _ in orders]


def shown(folder: Path, relative: str | None, run: Path, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Read a picture as ``{"data", "small", "mark", "scores"}``; data is None where it is not to be had."""
    exact = scores.get(_EXACT)
    mark = ("right" if exact else "wrong") if is_number(exact) or isinstance(exact, bool) else None
    data, small = _picture(folder, relative, run)
    return {"data": data, "small": small, "mark": mark, "scores": scores}


def _picture(folder: Path, relative: str | None, run: Path) -> tuple[str | None, bool]:
    """A picture of the round as a data URI, reduced if it is large, and whether it is small.

    Only files inside the run folder are read: a run folder from somebody else must not draw other files into the page.
    """
    if not relative:
        return None, False
    path = (folder / relative).resolve()
    if not path.is_relative_to(run.resolve()) or not path.is_file():
        return None, False
    try:
        return embedded(open_picture(read_bytes(path), str(path)))
    except UserError:
        return None, False


def embedded(picture: Image.Image) -> tuple[str, bool]:
    """Give a picture as a data URI, reduced if it is large, and whether it is small."""
    buffer = io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(buffer, "PNG", optimize=True)
        return data_uri(buffer.getvalue(), "png"), max(picture.size) <= SMALL
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=88)
    return data_uri(buffer.getvalue(), "jpeg"), False


def data_uri(data: bytes, kind: str) -> str:
    """Write a picture's file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
