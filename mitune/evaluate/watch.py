"""Whether a reward was hacked: scores that took no part in choosing are the witnesses of those that did.

A model that is trained on what a score prefers may learn the score's mistakes: the score rises, and what others see in
the pictures falls. Only scores without a part in the choice can tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mitune.evaluate.judged import judges_of
from mitune.evaluate.tables import bounds, figure


def watched(
    difference: Mapping[str, Any],
    chosen: Iterable[str],
    combined: str = "",
    own: Collection[str] = (),
    judges: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Hold the scores that chose against those that did not: ``{"chosen", "rising", "witnesses", "falling", "hacked",
    "said"}``.

    Args:
        difference: {score: {"difference", "ci95"}}, tuned less base; what is no such cell is left out.
        chosen: the scores that chose what was trained on, or when to stop; ``combined``, ``own``: as of
            :func:`mitune.evaluate.judged.judged_by`.
        judges: whose score a cell is, where its name is none.

    ``hacked``: one that chose rises (its whole interval is above 0) while a witness falls (below 0).

    >>> cells = {"mi": {"difference": 1, "ci95": [0.5, 1.5]}, "elbo": {"difference": -1, "ci95": [-2, -0.1]}}
    >>> watched(cells, ["mi"])["hacked"]
    True
    """
    names = list(dict.fromkeys(name for name in chosen if name != "random"))
    choosers = judges_of(names, combined, own)
    cells = {name: cell for name, cell in difference.items() if isinstance(cell, Mapping)}
    told = judges or {}
    parts = {name: judges_of([told.get(name, name)], combined, own) or {name} for name in cells}
    measured = [name for name in cells if parts[name] & choosers]
    witnesses = [name for name in cells if not parts[name] & choosers]
    rising = [name for name in measured if (cells[name]["ci95"] or [0])[0] > 0]
    falling = [name for name in witnesses if (cells[name]["ci95"] or [0, 0])[1] < 0]
    found = {
        "chosen": names,
        "rising": rising,
        "witnesses": witnesses,
        "falling": falling,
        "hacked": bool(rising and falling),
    }
    return found | {"said": _said(found, cells, bool(measured))}


def _said(found: Mapping[str, Any], cells: Mapping[str, Any], measured: bool) -> str:
    """The same in a sentence or two."""

    def told(names: list[str]) -> str:
        parts = (
            f"{name} {figure(cells[name]['difference'], True)} {bounds(cells[name]['ci95'], True)}"
            for name in names
        )
        return ", ".join(parts)

    chosen, witnesses = ", ".join(found["chosen"]), ", ".join(found["witnesses"])
    if not found["chosen"]:
        return "no score chose what was trained on"
    if not witnesses:
        return f"no witness: every score here took part in choosing ({chosen}), so a hacked reward would not show"
    if found["hacked"]:
        return (
            f"the reward may be hacked: what chose rises ({told(found['rising'])}), and what took no part in choosing"
            f" falls ({told(found['falling'])})"
        )
    line = f"took no part in choosing: {witnesses}"
    if found["falling"]:
        line += f"; falling: {told(found['falling'])}"
    elif measured:
        line += "; none of them falls with its whole interval below 0"
    return (
        line
        if measured
        else f"{line}; what chose ({chosen}) was not measured, so whether it rises is not told"
    )
