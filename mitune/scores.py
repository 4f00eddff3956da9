"""Names of scores: the scorers there are, and weighted sums of them such as ``z(contrast)+0.5*z(elbo)``.

A sum is a score like any other: it selects, evaluates, filters and is compared. ``z(name)`` stands for the score less
its mean over the candidates of the same prompt, divided by their standard deviation: scores of different units are
then of one size, and an easy prompt counts no more than a hard one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mitune.errors import UserError, nearest, short
from mitune.information.catalogue import SCORES as MODELS
from mitune.information.catalogue import Score
from mitune.parts import Catalogue
from mitune.referees.catalogue import JUDGES
from mitune.settings import Settings, key, section

if TYPE_CHECKING:
    import numpy as np

SCORES: Catalogue[Score] = Catalogue("score", *MODELS.values(), *JUDGES.values())
SCORERS = SCORES.names
PATH_SCORERS = SCORES.where(lambda score: score.where == "path")
LATENT_SCORERS = SCORES.where(lambda score: score.where == "latent")
PICTURE_SCORERS = SCORES.where(lambda score: score.where == "picture")
RACERS = SCORES.where(lambda score: score.races)
INFORMATION = SCORES.where(lambda score: score.steers)  # it can steer in a reward's place
IN_PASSES = SCORES.where(lambda score: bool(score.opens))  # it can be measured at a few times first
NEEDS_NOISE = SCORES.where(lambda score: score.needs_noise)
LOOKING = SCORES.where(lambda score: score.looks)
# Columns that come with a scorer of another name, and what stands in for a score of the sampler's path.
COLUMNS = {column: score.name for score in SCORES.values() for column in score.columns}
ON_PICTURES = {score.name: score.on_pictures for score in SCORES.values() if score.on_pictures}
# What a search says of its particles (:mod:`mitune.stages.search`): their log-weight, and what it steered by.
STEERED = ("das", "reward")
# The score whose parts ``scorer.combined`` names.
COMBINED = "combined"

_sections = {score.home: score.settings for score in SCORES.values() if score.settings is not None}
_Sections: Any = dataclasses.make_dataclass(
    "_Sections", [(name, kind, section(kind)) for name, kind in _sections.items()], bases=(Settings,)
)


@dataclass
class ScorerConfig(_Sections):  # type: ignore[misc]
    """The section ``scorer``: the keys of every score that has any, and these two."""

    profile: str | None = key(
        None,
        "where the information is, for weighting=profile and strategy=importance; score.profile measures it",
        path=True,
    )
    combined: str = key(
        "z(contrast)+z(elbo)", "the score 'combined': a weighted sum; z() = standardised within a prompt"
    )


def meaning(name: str, scorer: Mapping[str, Any]) -> str | None:
    """Say what a score's number is, with its unit or its range of times; None for a sum, which says it itself.

    ``scorer``: that section of the configuration.
    """
    if name in COLUMNS:
        return SCORES[COLUMNS[name]].columns[name]
    if name not in SCORES:
        return None
    score = SCORES[name]
    unit = score.unit(score.own(scorer))
    return f"{score.meaning}: {unit}" if unit else score.meaning


_TERM = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<weight>\d+\.?\d*(?:[eE]-?\d+)?)\*)?(?P<z>z\()?(?P<name>[A-Za-z_]\w*)(?P<close>\))?"
)


@dataclass(frozen=True)
class Term:
    """``weight`` times a column, or times its z-score within the prompt.

    >>> terms("z(contrast)+0.5*elbo")
    (Term(weight=1.0, name='contrast', normalised=True), Term(weight=0.5, name='elbo', normalised=False))
    """

    weight: float
    name: str
    normalised: bool = False


def offered(name: str, known: Sequence[str]) -> str:
    """Say which of the ``known`` scores ``name`` may be a slip of, and what there is."""
    own = [one for one in known if one not in JUDGES]
    return (
        f"{nearest(name, known)}; choose among {', '.join(own)}, or a judge of pictures (mitune help scores)"
    )


def terms(score: str, combined: str = "", own: Collection[str] = ()) -> tuple[Term, ...]:
    """The parts of a score; a plain name is its own only part. ``combined``: what the score of that name stands for.
    ``own``: names that are scores too, such as a user's functions.

    Raises UserError for a name that is none, or a sum that cannot be read.
    """
    given = re.sub(r"\s*([-+*()])\s*", r"\1", (combined if score == COMBINED else score).strip())
    where = f"scorer.combined={short(combined)}" if score == COMBINED else f"score '{short(score)}'"
    known = [*SCORERS, *COLUMNS, *STEERED, *([] if score == COMBINED else [COMBINED])]
    known += [name for name in own if name not in known]
    found, at = [], 0
    while at < len(given):
        match = _TERM.match(given, at)
        if not match or bool(match["z"]) != bool(match["close"]) or (at > 0 and not match["sign"]):
            raise UserError(
                f"{where} cannot be read at {short(given[at:], 80)!r}: give a score, or a weighted sum such as"
                " contrast+0.5*elbo or z(contrast)+z(elbo)"
            )
        if match["name"] not in known or (match["name"] == COMBINED and match.end() < len(given)):
            raise UserError(
                f"{where}: there is no score '{short(match['name'], 80)}'{offered(match['name'], known)}"
            )
        weight = float(match["weight"] or 1) * (-1 if match["sign"] == "-" else 1)
        found.append(Term(weight, match["name"], bool(match["z"])))
        at = match.end()
    if not found:
        raise UserError(f"{where} is empty: give a score, or a weighted sum such as contrast+0.5*elbo")
    return tuple(found)


def is_sum(score: str, own: Collection[str] = ()) -> bool:
    """Tell whether a score is made of others."""
    return not any(score in names for names in (SCORERS, COLUMNS, STEERED, own))


def columns(scores: Iterable[str], combined: str = "", own: Collection[str] = ()) -> list[str]:
    """The columns that ``scores`` are made of, each once, in their order."""
    return list(dict.fromkeys(term.name for score in scores for term in terms(score, combined, own)))


def scorers_of(scores: Iterable[str], combined: str = "", own: Collection[str] = ()) -> list[str]:
    """The scorers that must run for ``scores``; what a search says comes with its population."""
    found = (COLUMNS.get(name, name) for name in columns(scores, combined, own) if name not in STEERED)
    return list(dict.fromkeys(found))


def passes(own: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group scorers of latents by the passes through the network that they take: the scorer whose pass it is -> the
    columns that it gives, with those of others that are set alike.

    ``own``: the settings of each scorer asked for, in their order; those that are measured elsewhere take none.
    """
    found = {name: [name] for name in own if name in SCORES and SCORES[name].where == "latent"}
    for name in [*found]:
        for other in SCORES[name].shares_pass_with:
            if other in found and name in found and _alike(own[name], own[other]):
                found[name] += found.pop(other)
    return found


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two settings have the same values of the keys that both have."""
    first, second = ({} if own is None else dataclasses.asdict(own) for own in (one, other))
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def normalised(score: str, combined: str = "", own: Collection[str] = ()) -> bool:
    """Tell whether a score compares the candidates of a prompt, and so means nothing across prompts or models."""
    return any(term.normalised for term in terms(score, combined, own))


def weigh(
    table: Mapping[str, Any], parts: Sequence[Term], groups: Sequence[Any] | np.ndarray | None = None
) -> np.ndarray:
    """The sum of ``parts`` over the columns of ``table``, float64 [rows].

    ``groups`` [rows]: the prompt of each row, within which z(…) is taken; None takes it over all rows. A score that
    is the same for all candidates of a prompt tells them apart by nothing: its z is 0.
    """
    import numpy as np

    member = None
    total: np.ndarray | None = None
    for term in parts:
        values = np.asarray(table[term.name], dtype=np.float64)
        if term.normalised:
            if member is None:
                labels = np.zeros(len(values), dtype=np.int64) if groups is None else np.asarray(groups)
                _, member = np.unique(labels, return_inverse=True)
            values = _standardise(values, member)
        total = term.weight * values if total is None else total + term.weight * values
    assert total is not None
    return total


def sums(
    table: Mapping[str, Any],
    scores: Iterable[str],
    combined: str = "",
    groups: Sequence[Any] | None = None,
    own: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Add up those of ``scores`` that are made of others, each by :func:`weigh`.

    Args:
        table: has the columns.
        scores: names and sums.
        combined, own: as of :func:`terms`.
        groups: as of :func:`weigh`.
    """
    wanted = [score for score in dict.fromkeys(scores) if is_sum(score, own)]
    return {score: weigh(table, terms(score, combined, own), groups) for score in wanted}


def _standardise(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    import numpy as np

    count = np.bincount(member)
    centred = values - (np.bincount(member, values) / count)[member]
    spread = np.sqrt(np.bincount(member, centred**2) / count)[member]
    # Equal scores differ by rounding alone: that is no spread.
    flat = spread <= 1e-12 * np.maximum(np.abs(values), 1e-300)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, spread))
