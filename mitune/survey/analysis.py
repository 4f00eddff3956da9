"""Everything that a survey's answers say, as one value of plain figures: what ``report.json`` and the page hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mitune.survey import shares
from mitune.survey.agreement import agree_among, agree_with
from mitune.survey.answers import Answer, Participant
from mitune.survey.counting import COUNTED, NOT_BEGUN, REASONS, Counted, Person, count, people_of
from mitune.survey.design import ATTENTION, ROUND, Survey
from mitune.survey.strengths import strengths

AVERAGE = "average"
SCHEMA = 1
Scores = Mapping[tuple[str, str], Mapping[str, float]]


def analysed(
    survey: Survey,
    participants: Sequence[Participant],
    answers: Sequence[Answer],
    scores: Scores | None = None,
) -> dict[str, Any]:
    """Work out all tables. ``scores``: of (prompt, picture), where they are known."""
    people = people_of(survey, participants, answers)
    counted = count(survey, people)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": survey.kind,
        "title": survey.title,
        "names": list(survey.names),
        "groups": list(counted.groups),
        "people": _people(counted.groups, people),
        "rules": vars(survey.rules),
        "answers": len(counted.person),
        "time": _times(counted),
    }
    if not len(counted.person):
        return found
    return found | {
        "combinations": _combinations(counted),
        "marginals": _rows(counted, shares.marginals(counted), counted.names),
        "differences": _differences(counted, survey.kind == "agree"),
        "categories": _categories(counted),
        "strengths": _strengths(counted) if survey.kind == "pairs" else None,
        "among_people": agree_among(counted, survey.kind == "pairs"),
        "with_scores": agree_with(counted, scores or {}, survey.kind == "agree"),
    }


def _people(groups: Sequence[str], people: Sequence[Person]) -> list[dict[str, Any]]:
    """How many of each group are counted, and why others are not; all together last."""
    there = [*groups, *sorted({one.group for one in people} - {*groups})]
    rows = []
    for name, own in [
        *((group, [one for one in people if one.group == group]) for group in there),
        ("all", list(people)),
    ]:
        verdicts = Counter(one.verdict for one in own)
        rows.append({"group": name, "participants": len(own), **{
            verdict: verdicts[verdict] for verdict in (COUNTED, NOT_BEGUN, *REASONS)
        }})  # fmt: skip
    return rows if len(there) > 1 else rows[-1:]


def _times(counted: Counted) -> list[dict[str, Any]]:
    """Quartiles of the seconds of an answer, by group, and of all."""
    rows = []
    group = counted.person_group[counted.person]
    for place, name in [*enumerate(counted.groups), (None, "all")]:
        own = counted.seconds if place is None else counted.seconds[group == place]
        if len(own):
            low, middle, high = np.quantile(own, [0.25, 0.5, 0.75]).tolist()
            rows.append({"group": name, "answers": len(own), "q1": low, "median": middle, "q3": high})
    return rows if len(counted.groups) > 1 else rows[-1:]


def _columns(counted: Counted) -> list[tuple[str, int]]:
    """The columns of a table, and their rows in :class:`shares.Shares`: the average of several groups last."""
    columns = [(name, place) for place, name in enumerate(counted.groups)]
    return [*columns, (AVERAGE, len(columns))] if len(columns) > 1 else columns


def _rows(counted: Counted, found: shares.Shares, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "by_group": {group: shares.told(found, place, cell) for group, place in _columns(counted)},
        }
        for cell, name in enumerate(names)
    ]


def _combinations(counted: Counted) -> list[dict[str, Any]] | None:
    found = shares.combinations(counted)
    if found is None:
        return None
    count_ = len(counted.names)
    rows = _rows(counted, found, [f"{number:0{count_}b}" for number in range(1 << count_)])
    for row in rows:
        row["chosen"] = [name for name, bit in zip(counted.names, row["name"], strict=True) if bit == "1"]
    return rows


def _differences(counted: Counted, alone: bool) -> list[dict[str, Any]]:
    if len(counted.names) < 2:
        return []
    pairs, found = shares.differences(counted, alone)
    rows = _rows(counted, found, [""] * len(pairs))
    return [
        {"name": counted.names[one], "other": counted.names[other], "by_group": row["by_group"]}
        for (one, other), row in zip(pairs, rows, strict=True)
    ]


def _categories(counted: Counted) -> list[dict[str, Any]]:
    """Table 4: by category, of each name the share of the rounds in which its picture was chosen; over the groups."""
    rows = []
    for place, (name, found) in enumerate(zip(counted.categories, shares.by_category(counted), strict=True)):
        own = counted.category == place
        rows.append({
            "category": name,
            "rounds": int(own.sum()),
            "by_name": {
                one: shares.told(found, -1, cell) for cell, one in enumerate(counted.names)
            },
        })  # fmt: skip
    return [row for row in rows if row["rounds"]]


def _strengths(counted: Counted) -> list[dict[str, Any]] | None:
    found = strengths(counted)
    if found is None:
        return None
    games = found.wins + found.wins.T
    return [
        {
            "name": name,
            "strength": float(found.value[place]),
            "ci95": [float(found.low[place]), float(found.high[place])],
            "won": float(found.wins[place].sum()),
            "pairs": float(games[place].sum()),
        }
        for place, name in enumerate(counted.names)
    ]


def by_round(survey: Survey, people: Sequence[Person]) -> list[dict[str, Any]]:
    """Give for each counted or attention round how many were asked it, and of each picture how many chose it."""
    asked: Counter[str] = Counter()
    chosen: dict[str, Counter[str]] = defaultdict(Counter)
    for one in people:
        for name, answer in one.answers.items() if one.verdict == COUNTED else ():
            asked[name] += 1
            chosen[name].update(answer.chosen)
    return [
        {
            "prompt": one.prompt,
            "category": one.category,
            "kind": one.kind,
            "asked": asked[one.id],
            "pictures": [
                {"file": own.file, "id": own.id, "shows": list(own.shows), "chosen": chosen[one.id][own.id]}
                for own in one.pictures
            ],
        }
        for one in survey.rounds
        if one.kind in (ROUND, ATTENTION) and asked[one.id]
    ]
