"""Who judged: for every score of a table, the model whose number it is, and whether the same one chose what was trained
on. A score that chose is no witness of what the choice brought.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mitune.errors import UserError, printable
from mitune.scores import SCORES, scorers_of

FEW = 30
"""Prompts below which an interval over prompts is too rough to be read by its last digit."""
_WORLD = {"oracle": "the embedded world's oracle"}

Judged = Mapping[str, Mapping[str, Any]]


def judged_by(
    names: Iterable[str],
    combined: str,
    made: Mapping[str, Any],
    chosen: Iterable[str] = (),
    own: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Say of each score who judged: ``{score: {"judge", "itself", "selected"}}``; a name that is no score is left out.

    Args:
        names: the scores, sums among them; ``combined``: what the score of that name stands for.
        made: what ``model.json`` beside the scores says: the ``model`` that drew and judged, the other ``judges``.
        chosen: the scores that chose what was trained on, or when to stop.
        own: a user's functions among the scores.

    ``itself``: the model that drew the pictures judged them. ``selected``: the score, or a part of it, chose too.

    >>> judged_by(["mi", "exact"], "", {"model": "small#1"}, ["mi"])["mi"]
    {'judge': 'small#1', 'itself': True, 'selected': True}
    """
    choosers = judges_of(chosen, combined, own)
    found = {}
    for name in names:
        scorers = _scorers(name, combined, own)
        if not scorers:
            continue
        identities = [_identity(scorer, made) for scorer in scorers]
        found[name] = {
            "judge": " and ".join(dict.fromkeys(identities)),
            "itself": all(_itself(scorer) for scorer in scorers),
            "selected": bool(choosers.intersection(scorers)),
        }
    return found


def judges_of(names: Iterable[str], combined: str = "", own: Collection[str] = ()) -> set[str]:
    """Give the scorers that scores are made of; of a name that is no score, none."""
    return {scorer for name in names for scorer in _scorers(name, combined, own)}


def _scorers(name: str, combined: str, own: Collection[str]) -> list[str]:
    try:
        return scorers_of([name], combined, own)
    except UserError:  # random, or a column of somebody's own table
        return []


def _itself(scorer: str) -> bool:
    return scorer in SCORES and SCORES[scorer].where != "picture"


def _identity(scorer: str, made: Mapping[str, Any]) -> str:
    if _itself(scorer):
        return str(made.get("model", "a model that is not noted"))
    return str((made.get("judges") or {}).get(scorer, scorer))


def judge_in_words(entry: Mapping[str, Any]) -> str:
    """Name the judge of a score, as a page does."""
    judge = str(entry.get("judge", ""))
    return f"the model itself ({judge})" if entry.get("itself") else _WORLD.get(judge, judge)


def judges_in_words(judged: Judged) -> list[str]:
    """Write a line a judge: its scores, who it is, and which of them chose, too; empty where nothing is known."""
    scores: dict[str, list[str]] = {}
    for name, entry in judged.items():
        said = f"{name} (it also selected)" if entry.get("selected") else name
        scores.setdefault(judge_in_words(entry), []).append(said)
    return [f"{', '.join(names)}: {judge}" for judge, names in scores.items()]


def caption(judged: Judged, prompts: int | None = None) -> str:
    """Write what stands beside a table of scores: who judged, and, of few prompts, that the interval is wide."""
    parts = ["judged by " + "; ".join(lines)] if (lines := judges_in_words(judged)) else []
    return ". ".join([*parts, *([said] if (said := few(prompts)) else [])])


def sentence(judged: Judged, prompts: int | None = None) -> str:
    """Write :func:`caption` as sentences, for the text under a plot."""
    found = printable(caption(judged, prompts))
    return f"{found[0].upper()}{found[1:]}." if found else ""


def few(prompts: int | None) -> str:
    """Say that an interval over so few prompts is wide; "" where there are enough, or it is not known."""
    if prompts is None or prompts >= FEW:
        return ""
    return "1 prompt: no interval" if prompts == 1 else f"{prompts} prompts: the interval is wide"


def in_markdown(judged: Judged, prompts: int | None = None) -> list[str]:
    """Write the same as :func:`caption` as a paragraph of Markdown, in a code span: names in it stay text."""
    found = caption(judged, prompts)
    return [f"`{printable(found).replace('`', chr(39))}`", ""] if found else []
