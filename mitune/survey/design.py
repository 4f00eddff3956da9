"""What a survey asks: its pictures, its rounds, and what each participant sees in which order. No torch here.

A survey folder holds ``survey.json`` (what is here), ``scores.json`` (of the pictures, for the report alone),
``pictures/ID.png``, ``answers.sqlite`` and ``report/``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mitune.errors import UserError, short
from mitune.files import write_json
from mitune.reading import is_file, is_number, is_whole, read_json

SURVEY, PICTURES, SCORES = "survey.json", "pictures", "scores.json"
KINDS = {
    "best_of_scores": "which of the pictures that several scores find best represent the prompt",
    "methods": "which of several methods' pictures represent the prompt",
    "pairs": "which of two pictures represents the prompt better",
    "agree": "whether one picture represents its prompt",
}
GROUP = 200  # letters of a group's name
ROUND, ATTENTION, PRACTICE = "round", "attention", "practice"
_ROUNDS = (ROUND, ATTENTION, PRACTICE)
_ID = re.compile(r"[0-9a-f]{8,64}")
_WAY_OUT = "build the survey anew, or restore the file"


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        id: hex digits of a digest; nothing in it tells the prompt or the method.
        file: its place in the survey folder.
        shows: the scores or methods that it stands for: the same picture may be the best of several.
    """

    id: str
    file: str
    shows: tuple[str, ...]


@dataclass(frozen=True)
class Round:
    """A question: a prompt and its pictures.

    Attributes:
        id: hex digits of a digest.
        prompt, category: of the pictures.
        pictures: in the order of ``Survey.names``; :func:`plan_of` has the order on the page.
        kind: ``round`` counts; ``attention`` tells who attends; ``practice`` is not counted.
        right: the ids of the pictures that a person who attends would choose, of attention and practice.
    """

    id: str
    prompt: str
    category: str
    pictures: tuple[Picture, ...]
    kind: str = ROUND
    right: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """Says beforehand whose answers are left out of the tables.

    Attributes:
        attention: the least share of attention checks that must be passed.
        answered: the least share of the rounds that must be answered.
        seconds: the least median time of an answer.
    """

    attention: float = 0.5
    answered: float = 1.0
    seconds: float = 1.0


@dataclass(frozen=True)
class Survey:
    """A whole survey.

    Attributes:
        kind: one of ``KINDS``.
        title, question: as the page has them.
        names: the scores or methods that are compared.
        seed: of all orders.
        multiple: whether any number of pictures may be chosen in a round.
        rounds: all of them, of each kind.
        blocks: the rounds of a participant by their ids, without practice; participant n answers block n, counted
            round and round.
        groups: of participants; empty where there is one.
        languages: of the page, the first one by default.
        rules: whose answers are left out.
        plan: the power that it was planned for, as :func:`mitune.survey.power.planned` says it.
    """

    kind: str
    title: str
    question: str
    names: tuple[str, ...]
    seed: int
    multiple: bool
    rounds: tuple[Round, ...]
    blocks: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    schema: int = 1
    rules: Rules = Rules()
    plan: Mapping[str, Any] = field(default_factory=dict)


def plan_of(survey: Survey, number: int) -> list[tuple[Round, tuple[Picture, ...]]]:
    """Give what participant ``number`` (0, 1, …) sees: the rounds in order, each with its pictures in order.

    Practice comes first. The order is a function of the seed and the number alone. Of the participants who are asked a
    round, as many in a row as it has pictures see each of them once at every place.
    """
    rounds = {one.id: one for one in survey.rounds}
    turn, place = divmod(number, len(survey.blocks))
    block, within = survey.blocks[place], Counter(chain.from_iterable(survey.blocks))
    before = Counter(chain.from_iterable(survey.blocks[:place]))
    asked = {name: turn * within[name] + before[name] for name in block}
    practice = [one for one in survey.rounds if one.kind == PRACTICE]
    counted = [rounds[name] for name in _shuffled(block, survey.seed, number)]
    return [(one, _placed(one, survey.seed, asked.get(one.id, number))) for one in (*practice, *counted)]


def _placed(one: Round, seed: int, asked: int) -> tuple[Picture, ...]:
    """The pictures of a round as the one sees them before whom so many were asked it: a shuffle for as many as there
    are pictures, turned by a place from one to the next."""
    count = len(one.pictures)
    turned, shift = divmod(asked, count)
    order = _shuffled(range(count), seed, one.id, turned)
    return tuple(one.pictures[order[(place + shift) % count]] for place in range(count))


def _shuffled(items: Sequence[Any], *key: object) -> list[Any]:
    """The items in an order that depends on the key and the items alone, on any machine and in any version."""
    return sorted(items, key=lambda item: hashlib.sha256(repr((*key, item)).encode()).digest())


def plan_digest(survey: Survey) -> str:
    """Give a digest of all that decides who sees what: answers to one plan are none to another."""
    rounds = [
        {name: value for name, value in dataclasses.asdict(one).items() if name not in ("category", "right")}
        for one in survey.rounds
    ]
    plan = [survey.kind, survey.seed, survey.multiple, survey.blocks, rounds]
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


# -- survey.json -------------------------------------------------------------------------------------------------------


def write_survey(folder: Path, survey: Survey) -> None:
    """Write ``survey.json``."""
    write_json(folder / SURVEY, dataclasses.asdict(survey))


def read_survey(folder: Path) -> Survey:
    """Read ``survey.json``. Raises UserError where there is none, or one that does not fit together."""
    path = Path(folder) / SURVEY
    if not is_file(path):
        raise UserError(f"{folder} holds no survey (no {SURVEY}); make one with mitune survey build")
    found = read_json(path, _WAY_OUT)
    try:
        survey = _survey(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is no survey of this version ({short(said)}); {_WAY_OUT}") from error
    return survey


def _survey(found: Mapping[str, Any]) -> Survey:
    """The survey that a value read from JSON says; ValueError and its kind where it says none."""
    if found["schema"] != Survey.schema:
        raise ValueError(f"its schema is {found['schema']!r}, not {Survey.schema}")
    rounds = tuple(_round(one) for one in found["rounds"])
    survey = Survey(
        kind=_text(found["kind"]),
        title=_text(found["title"]),
        question=_text(found["question"]),
        names=_texts(found["names"]),
        seed=found["seed"],
        multiple=found["multiple"],
        rounds=rounds,
        blocks=tuple(_texts(block) for block in found["blocks"]),
        groups=_texts(found["groups"]),
        languages=_texts(found["languages"]),
        rules=Rules(**found["rules"]),
        plan=dict(found["plan"]),
    )
    check(survey)
    return survey


def check(survey: Survey) -> None:
    """Raise ValueError for a survey that does not fit together."""
    rounds = {one.id: one for one in survey.rounds}
    asked = {name for block in survey.blocks for name in block}
    wrong = {
        "its kind is not known": survey.kind not in KINDS,
        "its seed is no whole number": not is_whole(survey.seed),
        "multiple is neither true nor false": not isinstance(survey.multiple, bool),
        "it names nothing to compare": not survey.names,
        "it has no language": not survey.languages,
        "it has no blocks": not all(survey.blocks) or not survey.blocks,
        "two rounds have one id": len(rounds) < len(survey.rounds),
        "a block asks a round twice": any(len({*block}) < len(block) for block in survey.blocks),
        "a block asks a round that there is not": not asked <= rounds.keys(),
        "a rule is no number": not all(map(is_number, dataclasses.astuple(survey.rules))),
        "a name is given twice": any(
            len({*names}) < len(names) for names in (survey.names, survey.groups, survey.languages)
        ),
    }
    for one in survey.rounds:
        ids = [picture.id for picture in one.pictures]
        shown = {name for picture in one.pictures for name in picture.shows}
        wrong |= {
            f"round {one.id} has no id of hex digits": not _ID.fullmatch(one.id),
            f"round {one.id} is of a kind that is not known": one.kind not in _ROUNDS,
            f"round {one.id} has no picture, or one twice": not ids or len({*ids}) < len(ids),
            f"round {one.id} shows what is not compared": not shown <= {*survey.names},
            f"round {one.id} has a right picture that it does not show": not {*one.right} <= {*ids},
        }
    if said := next((said for said, is_wrong in wrong.items() if is_wrong), None):
        raise ValueError(said)


def _round(found: Mapping[str, Any]) -> Round:
    pictures = []
    for one in found["pictures"]:
        picture = Picture(_text(one["id"]), _text(one["file"]), _texts(one["shows"]))
        if not _ID.fullmatch(picture.id) or picture.file != place_of(picture.id):
            raise ValueError(f"{short(picture.file, 40)!r} is no place of a picture")
        pictures.append(picture)
    texts = {name: _text(found[name]) for name in ("id", "prompt", "category", "kind")}
    return Round(**texts, pictures=tuple(pictures), right=_texts(found["right"]))


def place_of(picture: str) -> str:
    """Name the file of a picture in the survey folder."""
    return f"{PICTURES}/{picture}.png"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{short(repr(value), 40)} is no text")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{short(repr(values), 40)} is no list")
    return tuple(map(_text, values))
