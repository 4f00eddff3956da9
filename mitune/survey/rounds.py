"""The rounds of a survey, from the pictures of its sources: what is shown with what, and who is asked it.

Nothing is opened before it is known to be shown.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Resampling

from mitune.errors import UserError, listed, short
from mitune.files import write_bytes
from mitune.survey.blocks import blocks
from mitune.survey.design import ATTENTION, PRACTICE, ROUND, Picture, Round, place_of
from mitune.survey.sources import Shot, Source

Spot = tuple[int, int]  # a source and a row of it
AGREE = "agree"


@dataclass(frozen=True)
class Choice:
    """The pictures that may be shown for a prompt: for each name its picture's place."""

    prompt: str
    category: str
    spots: tuple[Spot, ...]


def best_of(source: Source, names: Sequence[str]) -> list[Choice]:
    """For each prompt the picture that is best by each of the scores; prompts without all the scores are left out."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, shot in enumerate(source.shots):
        if all(name in shot.scores for name in names):
            rows[shot.prompt].append(row)
    found = []
    for prompt, own in rows.items():
        if len(own) > 1:
            tops = [max(own, key=lambda row: source.shots[row].scores[name]) for name in names]
            found.append(Choice(prompt, source.shots[own[0]].category, tuple((0, row) for row in tops)))
    return found


def alike(sources: Sequence[Source]) -> list[Choice]:
    """For each prompt that all sources have, a picture of each, drawn from the same seed; where seeds are not known,
    the first of each.

    Raises UserError where all know their seeds and none is common: what differed would be chance.
    """
    tables: list[dict[str, dict[Any, int]]] = []
    seeded = all(shot.seed is not None for source in sources for shot in source.shots)
    for source in sources:
        table: dict[str, dict[Any, int]] = defaultdict(dict)
        for row, shot in enumerate(source.shots):
            table[shot.prompt].setdefault(shot.seed if seeded else shot.number, row)
        tables.append(table)
    prompts = [prompt for prompt in tables[0] if all(prompt in table for table in tables)]
    found = []
    for prompt in prompts:
        common = [key for key in tables[0][prompt] if all(key in table[prompt] for table in tables)]
        if common:
            spots = tuple((place, table[prompt][common[0]]) for place, table in enumerate(tables))
            found.append(Choice(prompt, sources[0].shots[spots[0][1]].category, spots))
    if prompts and not found:
        raise UserError(
            f"{listed([source.where for source in sources])} have no picture of one prompt and one seed; draw them"
            " with the same seed= and as many pictures a prompt"
        )
    return found


def spread(choices: Sequence[Choice], count: int, rng: np.random.Generator) -> list[Choice]:
    """Draw so many, evenly over the categories as far as they go; the first ``count``, and then the rest in turn."""
    by_category: dict[str, list[Choice]] = defaultdict(list)
    for place in rng.permutation(len(choices)).tolist():
        by_category[choices[place].category].append(choices[place])
    ordered = [
        own[turn]
        for turn in range(max(map(len, by_category.values()), default=0))
        for own in by_category.values()
        if turn < len(own)
    ]
    return ordered[:count]


@dataclass(eq=False)
class Album:
    """The pictures of a survey: each is opened once, written under the digest of its content, and has its scores.

    Attributes:
        folder: of the survey.
        sources: of the pictures.
        judge: further scores of a picture and its prompt, by name.
        side: pixels; larger pictures are reduced.
    """

    folder: Path
    sources: Sequence[Source]
    judge: Any
    side: int
    scores: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    _ids: dict[Spot, str] = field(default_factory=dict)

    def add(self, spots: Sequence[Spot]) -> None:
        """Open the pictures, source by source."""
        for place, source in enumerate(self.sources):
            rows = sorted({row for own, row in spots if own == place and (own, row) not in self._ids})
            for row, image in zip(rows, source.open(rows) if rows else (), strict=True):
                shot, judged = source.shots[row], self.judge(image, source.shots[row].prompt)
                buffer = io.BytesIO()
                image = image.convert("RGB")
                image.thumbnail((self.side, self.side), Resampling.LANCZOS)
                image.info = {}  # what the file said of itself: generators write the prompt into it
                image.save(buffer, "PNG")
                name = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
                write_bytes(self.folder / place_of(name), buffer.getvalue())
                self._ids[place, row] = name
                self.scores.setdefault((shot.prompt, name), {}).update({**judged, **shot.scores})

    def keep(self, names: Collection[str]) -> None:
        """Delete the pictures that turned out not to be shown, and forget their scores."""
        for name in {*self._ids.values()} - {*names}:
            (self.folder / place_of(name)).unlink()
        self.scores = {key: own for key, own in self.scores.items() if key[1] in names}

    def id_of(self, spot: Spot) -> str:
        """Give the id of an opened picture."""
        return self._ids[spot]

    def shot(self, spot: Spot) -> Shot:
        """Give what is known of a picture."""
        return self.sources[spot[0]].shots[spot[1]]


@dataclass(frozen=True)
class Asking:
    """Says how participants are asked.

    Attributes:
        kind: of the survey.
        names: that are compared.
        shown: names in a round.
        rounds: of a participant, without the two below.
        participants: that are planned.
        attention: rounds of a participant that tell whether he or she attends.
        practice: rounds before the first.
        seed: of what is left open.
    """

    kind: str
    names: tuple[str, ...]
    shown: int
    rounds: int
    participants: int
    attention: int
    practice: int
    seed: int


def make_rounds(
    asking: Asking, choices: Sequence[Choice], spare: Sequence[Choice], album: Album
) -> tuple[tuple[Round, ...], tuple[tuple[str, ...], ...]]:
    """Give the rounds and the blocks. ``spare``: prompts that are not counted, for attention and practice."""
    rng = np.random.default_rng([asking.seed, 1])
    asked = blocks(
        len(choices), len(asking.names), asking.shown, asking.rounds, asking.participants, asking.seed
    )
    used = sorted({item for own in asked for item in own})
    checks = _checks(asking, choices, spare, asked, rng)
    practice = list(spare[: asking.practice]) or list(choices[: asking.practice])
    wrong = {
        one: _other(one, (*choices, *spare)) for one in {*practice, *(one for own in checks for one in own)}
    }
    album.add([choices[prompt].spots[name] for prompt, names in used for name in names])
    album.add([spot for one, other in wrong.items() for spot in (*one.spots, *other.spots)])
    counted = {item: _round(asking, choices[item[0]], item[1], album) for item in used}
    odd = {
        (one, kind): _odd_round(asking, one, other, kind, album)
        for one, other in wrong.items()
        for kind in (ATTENTION, PRACTICE)
    }
    rounds = {own.id: own for own in counted.values()}
    rounds |= {own.id: own for own in (odd[one, ATTENTION] for checked in checks for one in checked)}
    rounds |= {own.id: own for own in (odd[one, PRACTICE] for one in practice)}
    parts = [
        (*(counted[item].id for item in own), *(odd[one, ATTENTION].id for one in checked))
        for own, checked in zip(asked, checks, strict=True)
    ]
    return tuple(rounds.values()), tuple(parts)


def _checks(
    asking: Asking,
    choices: Sequence[Choice],
    spare: Sequence[Choice],
    asked: Sequence[Sequence[tuple[int, tuple[int, ...]]]],
    rng: np.random.Generator,
) -> list[list[Choice]]:
    """The prompts of each participant's attention checks: spare ones, or else those not in the block, where there are
    any; each as often as any other, as far as that goes."""
    pool = (
        list(spare[asking.practice :]) if len(spare) >= asking.practice + asking.attention else list(choices)
    )
    often: Counter[str] = Counter()
    found = []
    for own in asked:
        counted = {choices[prompt].prompt for prompt, _ in own}
        ordered = [pool[place] for place in rng.permutation(len(pool)).tolist()]
        ordered.sort(key=lambda one: (one.prompt in counted, often[one.prompt]))
        found.append(ordered[: asking.attention])
        often.update(one.prompt for one in found[-1])
    return found


def _other(one: Choice, among: Sequence[Choice]) -> Choice:
    """The prompt that has least in common with one: its picture will not do."""
    words = {*one.prompt.lower().split()}

    def common(other: Choice) -> tuple[float, str]:
        own = {*other.prompt.lower().split()}
        digest = hashlib.sha256(f"{one.prompt}\n{other.prompt}".encode()).hexdigest()
        return len(words & own) / len(words | own), digest

    return min((other for other in among if other.prompt != one.prompt), key=common)


def _pictures(asking: Asking, choice: Choice, names: Sequence[int], album: Album) -> tuple[Picture, ...]:
    """The pictures of some names; what is the same picture comes once, and stands for several."""
    shows: dict[str, list[str]] = defaultdict(list)
    for name in names:
        shows[album.id_of(choice.spots[name])].append(asking.names[name])
    return tuple(Picture(name, place_of(name), tuple(own)) for name, own in shows.items())


def _round(asking: Asking, choice: Choice, names: Sequence[int], album: Album) -> Round:
    pictures = _pictures(asking, choice, names, album)
    shown = [[picture.id, *picture.shows] for picture in pictures]
    return Round(_id(ROUND, choice.prompt, shown), choice.prompt, choice.category, pictures, ROUND)


def _odd_round(asking: Asking, choice: Choice, other: Choice, kind: str, album: Album) -> Round:
    """A round with a picture of another prompt: beside right ones, or alone where pictures are shown alone."""
    wrong = next(
        (
            album.id_of(spot)
            for spot in other.spots
            if album.id_of(spot) not in map(album.id_of, choice.spots)
        ),
        None,
    )
    if wrong is None:
        raise UserError(
            f"the pictures of {short(choice.prompt, 60)!r} and {short(other.prompt, 60)!r} are the same; say"
            " attention=0 practice=0, or give other pictures"
        )
    right: list[Picture] = []
    if asking.kind != AGREE:
        right = [replace(own, shows=()) for own in _pictures(asking, choice, range(asking.shown), album)]
        right = right[: max(1, asking.shown - 1)]
    pictures = (*right, Picture(wrong, place_of(wrong), ()))
    identity = _id(kind, choice.prompt, [picture.id for picture in pictures])
    return Round(identity, choice.prompt, choice.category, pictures, kind, tuple(own.id for own in right))


def _id(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
