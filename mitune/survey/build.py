"""``mitune survey build``: a survey folder from pictures and their scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.config.values import parse
from mitune.errors import UserError, listed, nearest, printable, short
from mitune.files import atomic_folder, write_json
from mitune.reading import home, is_folder, is_there
from mitune.settings import CANDIDATES, ROWS, SEED, Settings, check_value, declared, key
from mitune.survey.design import GROUP, KINDS, SCORES, Rules, Survey, write_survey
from mitune.survey.languages import known
from mitune.survey.power import ALIKE, DIFFER, comparing, planned
from mitune.survey.sources import Decoder, Source, candidates_of, read_source, with_table

_BEST, _PAIRS, _AGREE = "best_of_scores", "pairs", "agree"


@dataclass
class BuildSettings(Settings):
    """Holds what ``mitune survey build`` is told; see :func:`main`."""

    kind: str = key("methods", "what is asked", choices=KINDS)
    scores: list[str] = key([], "the scores whose best pictures are compared (best_of_scores)")
    table: str | None = key(None, "a table of scores of the pictures, as mitune score writes it", path=True)
    prompts: int | None = key(
        None, "at most this many prompts, evenly over the categories (default: all)", low=1, high=ROWS
    )
    rounds: int = key(10, "rounds of a participant, without practice and attention checks", low=1, high=1000)
    participants: int = key(40, "participants that are planned for", low=1, high=CANDIDATES)
    shown: int | None = key(None, "methods in a round (default: all; pairs: 2)", low=2, high=16)
    attention: int = key(1, "attention checks of a participant: a picture of another prompt", low=0, high=100)
    practice: int = key(1, "practice rounds, which are not counted", low=0, high=10)
    seed: int = key(0, "of what is shown with what, and of all orders", low=0, high=SEED)
    side: int = key(
        1024,
        "longest side of a picture on the page; larger ones are reduced",
        unit="pixels",
        low=16,
        high=8192,
    )
    title: str = key("Pictures and their prompts", "the heading of the page")
    question: str | None = key(None, "what is asked above the pictures (default: as the kind has it)")
    multiple: bool | None = key(
        None, "any number of pictures may be chosen (default: of best_of_scores and methods)"
    )
    groups: list[str] = key([], "groups of participants, which the tables tell apart")
    languages: list[str] = key(["en", "zh", "de"], "languages of the page, the first by default", filled=True)
    difference: float = key(0.1, "the difference between two shares that is to be found", above=0, high=1)
    differ: float | None = key(
        None,
        "of the plan: share of rounds in which one of two is chosen alone (default: by kind)",
        above=0,
        high=1,
    )
    alike: float = key(ALIKE, "of the plan: correlation between the rounds of a participant", low=0, high=1)
    attention_share: float = key(
        Rules.attention, "who passes fewer of the attention checks is left out", low=0, high=1
    )
    answered_share: float = key(Rules.answered, "who answers fewer of the rounds is left out", low=0, high=1)
    seconds: float = key(Rules.seconds, "who answers faster, in the median, is left out", low=0, high=3600)


def main(words: Sequence[str], decode: Decoder) -> int:
    """``mitune survey build FOLDER [NAME=]SOURCE ... [key=value ...]``. Gives 0; UserError for what does not go.

    ``decode``: draws pictures from a run's latents.
    """
    if words and words[0] == "help":
        _help()
        return 0
    folder, places, settings = read(words)
    _check_free(folder)
    sources = _sources(places, settings, decode)
    with atomic_folder(folder) as partial:
        survey, notes = build(partial, sources, settings)
    for line in (*notes, *_told(survey, folder)):
        print(printable(line))
    return 0


def read(words: Sequence[str]) -> tuple[Path, list[tuple[str, str]], BuildSettings]:
    """Read the words: the folder, (name, place) of the sources, the settings. Raises UserError."""
    keys = {one.name: one for one in declared(BuildSettings)}
    values: dict[str, Any] = {}
    places: list[tuple[str, str]] = []
    for word in words[1:]:
        name, sign, text = word.partition("=")
        if sign and name in keys:
            values[name] = parse(keys[name], text)
            check_value(keys[name], values[name])
        elif sign and not is_there(home(word)):
            if not is_there(home(text)):
                raise UserError(
                    f"survey build: {short(name, 40)}= is neither a key{nearest(name, keys)} nor the name of a source"
                    f" that is there ({short(text, 80)}); mitune survey build help lists the keys"
                )
            places.append((name, text))
        else:
            places.append(("", word))
    if not words or "=" in words[0] or not places:
        what = "the survey's folder" if not words or "=" in words[0] else "a source of pictures"
        raise UserError(f"survey build: {what} is missing; give FOLDER [NAME=]SOURCE ... [key=value ...]")
    settings = BuildSettings(**values)
    _check_texts(settings)
    return home(words[0]), places, settings


def _check_texts(settings: BuildSettings) -> None:
    """Raise UserError for groups and languages that a server would refuse, or whose people could not begin."""
    for name in ("groups", "languages"):
        given = getattr(settings, name)
        if twice := [one for one in given if given.count(one) > 1]:
            raise UserError(f"survey build: {name}= has '{short(twice[0], 40)}' twice; say it once")
    for one in settings.groups:
        if not one.strip() or len(one) > GROUP:
            raise UserError(
                f"survey build: groups= has '{short(one, 40)}'; give each group a name, of {GROUP} letters at most"
            )
    for one in settings.languages:
        if one not in known():
            raise UserError(
                f"survey build: languages= has '{short(one, 40)}'{nearest(one, known())}, in which there are no"
                f" pages; there are {listed([*known()], 20)}"
            )


def _help() -> None:
    print("mitune survey build FOLDER [NAME=]SOURCE ... [key=value ...]\n")
    print(
        "SOURCE: a run's folder, the folder of mitune sample, a folder or table of pictures with prompts.\n"
    )
    for one in declared(BuildSettings):
        default = "" if one.default in (None, []) else f" [{one.default}]"
        choices = f" ({', '.join(one.limits.choices)})" if one.limits.choices else ""
        print(f"  {one.name}={default}\n      {one.meaning}{choices}")


def _check_free(folder: Path) -> None:
    """Raise UserError where something is that would be written over: answers may be among it."""
    if os.path.lexists(folder) and not (is_folder(folder) and not any(folder.iterdir())):
        raise UserError(f"survey build: {folder} is there already; move it away, or choose another folder")


def _sources(places: Sequence[tuple[str, str]], settings: BuildSettings, decode: Decoder) -> list[Source]:
    best = settings.kind == _BEST
    sources = [
        source
        for name, place in places
        for source in read_source(candidates_of(place) if best else place, name, decode)
    ]
    names = [source.name for source in sources]
    if len({*names}) < len(names):
        raise UserError(f"survey build: two sources are called {listed(names)}; name them, NAME=SOURCE")
    if best and len(sources) > 1:
        raise UserError(f"survey build: kind={_BEST} takes one source, not {len(sources)}")
    if not best and settings.kind != _AGREE and len(sources) < 2:
        raise UserError(f"survey build: kind={settings.kind} compares two sources or more; give another one")
    if settings.table is not None:
        if len(sources) > 1:
            raise UserError(
                "survey build: table= goes with one source; give each source's scores beside its pictures"
            )
        sources = [with_table(sources[0], home(settings.table))]
    return sources


def build(folder: Path, sources: Sequence[Source], settings: BuildSettings) -> tuple[Survey, list[str]]:
    """Write a survey into ``folder``; gives it, and what the user is to know. Raises UserError where it cannot be."""
    import numpy as np

    from mitune.survey.rounds import Album, Asking, Choice, alike, best_of, make_rounds, spread

    names = _names(sources, settings)
    choices = best_of(sources[0], names) if settings.kind == _BEST else alike(sources)
    ordered: list[Choice] = spread(choices, len(choices), np.random.default_rng([settings.seed, 0]))
    count = len(ordered) if settings.prompts is None else min(settings.prompts, len(ordered))
    album = Album(folder, sources, _oracle, settings.side)
    notes = []
    if settings.kind == _PAIRS:
        album.add([spot for one in ordered for spot in one.spots])
        own = [one for one in ordered if len({*map(album.id_of, one.spots)}) == len(one.spots)]
        notes += [f"left out {len(ordered) - len(own)} prompts with two pictures that are the same"] * (
            own != ordered
        )
        ordered, count = own, min(count, len(own))
    counted, spare = ordered[:count], ordered[count:]
    _check_prompts(counted, ordered, settings, names)
    rounds = min(settings.rounds, len(counted))
    if rounds < settings.rounds:
        notes.append(
            f"rounds={rounds}: there are {len(counted)} prompts, and nobody is asked about one twice"
        )
    asking = Asking(
        settings.kind,
        names,
        _shown(settings, names),
        rounds,
        settings.participants,
        settings.attention,
        settings.practice,
        settings.seed,
    )
    made, blocks = make_rounds(asking, counted, spare, album)
    album.keep({own.id for one in made for own in one.pictures})
    survey = Survey(
        kind=settings.kind,
        title=settings.title,
        question=settings.question or "",  # the page has it in its language
        names=names,
        seed=settings.seed,
        multiple=settings.kind in (_BEST, "methods") if settings.multiple is None else settings.multiple,
        rounds=made,
        blocks=blocks,
        groups=tuple(settings.groups),
        languages=tuple(settings.languages),
        rules=Rules(settings.attention_share, settings.answered_share, settings.seconds),
        plan=_plan(settings, asking),
    )
    write_json(folder / SCORES, _scores(album.scores))
    write_survey(folder, survey)
    return survey, notes


def _names(sources: Sequence[Source], settings: BuildSettings) -> tuple[str, ...]:
    """What is compared. Raises UserError for scores that the source has not."""
    if settings.kind != _BEST:
        return tuple(source.name for source in sources)
    there = list(dict.fromkeys(name for shot in sources[0].shots for name in shot.scores))
    for name in settings.scores:
        if name not in there:
            raise UserError(
                f"survey build: {sources[0].where} has no score '{short(name, 40)}'{nearest(name, there)}; it has"
                f" {listed(there, 10)}"
            )
    names = tuple(dict.fromkeys(settings.scores or there))
    if len(names) < 2:
        raise UserError(
            f"survey build: {sources[0].where} has {len(names)} scores, and two or more are compared; add table=, a"
            " table of mitune score"
        )
    return names


def _shown(settings: BuildSettings, names: Sequence[str]) -> int:
    """How many names a round shows."""
    if settings.kind == _AGREE:
        return 1
    if settings.kind == _PAIRS:
        return 2
    return len(names) if settings.kind == _BEST else min(settings.shown or len(names), len(names))


def _check_prompts(
    counted: Sequence[Any], ordered: Sequence[Any], settings: BuildSettings, names: Sequence[str]
) -> None:
    if not counted:
        what = (
            f"two pictures or more with all of {listed(names, 6)}"
            if settings.kind == _BEST
            else "a picture in each source"
        )
        raise UserError(f"survey build: there is no prompt with {what}; look at the sources")
    if len(ordered) < 2 and (settings.attention or settings.practice):
        raise UserError(
            "survey build: attention checks and practice show a picture of another prompt, and there is one prompt;"
            " say attention=0 practice=0"
        )


def _plan(settings: BuildSettings, asking: Any) -> dict[str, Any]:
    share = comparing(settings.kind, len(asking.names), asking.shown)
    return planned(
        settings.difference,
        settings.participants,
        asking.rounds,
        share,
        _differ(settings, asking),
        settings.alike,
    )


def _differ(settings: BuildSettings, asking: Any) -> float:
    """How often one of two is chosen alone, where nobody has said it: of pairs always; of a single thing, that is
    compared with a number, its variance."""
    if settings.differ is not None:
        return settings.differ
    if settings.kind == _PAIRS:
        return 1.0
    return DIFFER / 2 if len(asking.names) == 1 else DIFFER


def _scores(scores: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, Any]:
    """What ``scores.json`` says."""
    rows = [
        {"prompt": prompt, "picture": picture, "scores": dict(own)}
        for (prompt, picture), own in scores.items()
    ]
    return {"schema": 1, "rows": rows}


def _oracle(image: Any, prompt: str) -> dict[str, float]:
    """The oracle's answer, where the prompt and the picture are the embedded world's."""
    import numpy as np

    from mitune.worlds.shapes import oracle_score, parse_prompt

    with contextlib.suppress(ValueError):
        parse_prompt(prompt)
        value = oracle_score(np.asarray(image.convert("RGB")), prompt)
        return {"oracle": value, "exact": float(value == 1.0)}
    return {}


def _told(survey: Survey, folder: Path) -> list[str]:
    """What was built, its power, and what comes next."""
    kinds = [one.kind for one in survey.rounds]
    plan = survey.plan
    lines = [
        f"survey: {folder.resolve()}",
        f"  {survey.kind} of {listed(survey.names, 8)}: {len({r.prompt for r in survey.rounds if r.kind == 'round'})}"
        f" prompts, {kinds.count('round')} rounds, {plan['rounds']} for each of {plan['participants']} participants",
        f"  {_power(plan)}",
    ]
    return [*lines, "next:", f"  mitune survey serve {folder}", f"  mitune survey report {folder}"]


def _power(plan: Mapping[str, Any]) -> str:
    """The power of the plan in words."""
    points = f"{100 * plan['difference']:.3g} points"
    said = f"a difference of {points} is found with {100 * plan['power']:.0f} %"
    for wanted, needed in plan["needed"].items():
        people, rounds = needed["participants"], needed["rounds"]
        more = f" or {rounds} rounds each" if rounds is not None else ""
        said += f"; {100 * float(wanted):.0f} % take {people or 'more than can be had'} participants{more}"
    return said
