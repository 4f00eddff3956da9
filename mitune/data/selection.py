"""Selection: the k best candidates of each prompt by any score column, and the controls beside it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from mitune.data.settings import SelectConfig
from mitune.data.store import KEYS, LATENT_ROW, LEFT, PICTURE, RACE, ROOT, UNIT
from mitune.errors import UserError, nearest
from mitune.scores import Term, columns, terms, weigh

NOT_SCORES = {
    *KEYS, *RACE, LEFT, ROOT, PICTURE, UNIT, LATENT_ROW, "preferred", "score", "rank", "weight", "real",
}  # fmt: skip


def scorers(table: pd.DataFrame) -> list[str]:
    """Give the names of the score columns of a candidate table."""
    return scorers_among(table.columns)


def scorers_among(columns: Iterable[str]) -> list[str]:
    """Give those names of a candidate table's columns that are scores."""
    return [name for name in columns if name not in NOT_SCORES]


def parts_among(names: Iterable[str], by: str) -> list[str]:
    """Give those of a candidate table's columns that ``by`` is read from: none for ``random``. Raises UserError where
    it is no score of such a table.
    """
    there = scorers_among(names)
    if by == "random":
        return []
    if by in there:
        return [by]
    known = [*there, "random"]
    if not by.isidentifier() and all(name in known for name in columns([by], own=_own(there))):
        return columns([by], own=_own(there))
    raise UserError(f"select.by={by}: no such score{nearest(by, known)}; there are {', '.join(known)}")


def needed(names: Iterable[str], by: str, choice: SelectConfig) -> list[str]:
    """Give the columns that :func:`choose` reads, of a candidate table that has ``names``. Raises UserError as
    :func:`parts_among`."""
    found = ["prompt_id", "prompt", "category", "candidate", LEFT, *parts_among(names, by)]
    if choice.difficulty != 0 and by != "random":
        found += columns([by], own=_own(scorers_among(names)))
    return list(dict.fromkeys(found))


def select(
    table: pd.DataFrame, by: str, k: int, highest: bool = True, losers: int = 0, seed: int = 0
) -> pd.DataFrame:
    """Give the top ``k`` rows of each prompt, best first, and the ``losers`` worst, worst first.

    Args:
        table: candidates; needs prompt_id, candidate and the column ``by``.
        by: a score column (higher = better), a weighted sum of columns (:mod:`mitune.scores`), or ``random``:
            an order drawn from (seed, prompt, candidate), the control every result needs beside it.
        k: rows a prompt, exactly.
        highest: False turns the order round.
        losers: further rows a prompt, from the other end, with ``preferred=False`` (for preference training).

    Returns the chosen rows with ``score`` (the value of ``by``), ``rank`` (0 = best) and ``preferred`` added.
    Ties go to the lower candidate number. The order of the rows of ``table`` does not matter. One that left the race
    before it had this score is not chosen.

    Raises UserError: unknown ``by``, a score that is not finite, k + losers above a prompt's candidates.
    """
    SelectConfig(k=k, losers=losers).check("select.")
    if not len(table):
        raise UserError("select: there are no candidates to choose from; run the generate stage first")
    score = _scores(table, by, seed)
    if LEFT in table:
        there = np.isfinite(score)
        table, score = table[there], score[there]
    prompt, candidate = _numbers(table["prompt_id"]), table["candidate"].to_numpy()
    if pd.DataFrame({"prompt": prompt, "candidate": candidate}, copy=False).duplicated().any():
        raise UserError(
            "select: a candidate appears twice in the table; were two runs written to one folder?"
        )
    order = np.lexsort([candidate, -score if highest else score, prompt])
    size = np.bincount(prompt)[prompt[order]]
    rank = np.arange(len(order)) - np.searchsorted(prompt[order], prompt[order])
    short = size < k + losers
    if short.any():
        row = table.iloc[order[np.argmax(short)]]
        wanted = f"k={k}" if not losers else f"k={k} and {losers} losers"
        text = row["prompt"] if "prompt" in table else row["prompt_id"]
        raise UserError(
            f"select: {wanted} asked for, but prompt {text!r} has only {int(size[short][0])} candidates"
            " (M); lower k or generate more candidates"
        )
    chosen = (rank < k) | (rank >= size - losers)
    order, rank, size = order[chosen], rank[chosen], size[chosen]
    # Losers are listed from the worst up: the i-th loser of a prompt is the partner of its i-th winner.
    listed = np.lexsort([np.where(rank < k, rank, 2 * size - rank), prompt[order]])
    order, rank = order[listed], rank[listed]
    rows = table.iloc[order].reset_index(drop=True).assign(score=score[order], rank=rank, preferred=rank < k)
    return rows.astype({name: rows[name].cat.categories.dtype for name in rows if _is_coded(rows[name])})


def choose(table: pd.DataFrame, by: str, choice: SelectConfig, seed: int = 0) -> pd.DataFrame:
    """Give the rows of a training set with their ``weight``: :func:`select`, :func:`reaching`, :func:`clearest` and
    :func:`prompt_weights`, as ``choice`` says. ``by`` is the score, whatever ``choice.by`` calls it.
    """
    rows = select(table, by, choice.k, losers=choice.losers, seed=seed)
    if choice.threshold is not None:
        rows = reaching(rows, choice.threshold)
    rows = clearest(rows, table, by, choice.fraction, seed=seed, balance=choice.balance)
    return rows.assign(weight=prompt_weights(rows, table, by, choice.difficulty))


def clearest(
    chosen: pd.DataFrame, table: pd.DataFrame, by: str, fraction: float, seed: int = 0, balance: bool = False
) -> pd.DataFrame:
    """Give the rows of ``chosen`` whose prompts are the clearest ``fraction`` of all: at least one prompt.

    How clear the choice of a prompt is: the mean score of its winners less that of its losers or, without losers, of
    all its candidates. A score that ranks badly on average still ranks well where it says that a picture stands out.

    Args:
        chosen: from :func:`select`; ``table``, ``by``, ``seed``: what it was given.
        fraction: share of the prompts in (0, 1], rounded up; ties go to the prompt that comes first.
        balance: every category gets as many prompts: ``fraction`` of those that the smallest has, rounded up. Without
            it a category whose pictures are easy to tell apart takes the others' places.

    Raises UserError for a fraction outside (0, 1], and as :func:`select`.
    """
    SelectConfig(fraction=fraction).check("select.")
    if fraction == 1 and not balance:
        return chosen
    winners = chosen[chosen["preferred"]].groupby("prompt_id", sort=False)
    losers = chosen[~chosen["preferred"]]
    if len(losers):
        others = losers.groupby("prompt_id")["score"].mean()
    else:
        others = pd.Series(_scores(table, by, seed)).groupby(table["prompt_id"].to_numpy()).mean()
    margin = winners["score"].mean()
    margin = (margin - others.reindex(margin.index)).sort_values(ascending=False, kind="stable")
    if balance:
        of = winners["category"].first().reindex(margin.index)
        count = math.ceil(fraction * int(of.value_counts().min()))
        kept = margin[of.groupby(of, sort=False).cumcount() < count].index
    else:
        kept = margin.index[: math.ceil(fraction * len(margin))]
    return chosen[chosen["prompt_id"].isin(kept)].reset_index(drop=True)


def reaching(chosen: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Give the rows of ``chosen`` whose score is at least ``threshold``; a prompt may lose all of its own.

    Raises UserError where none is left, with the best score there was.
    """
    left = chosen[chosen["score"] >= threshold].reset_index(drop=True)
    if not len(left):
        raise UserError(
            f"select.threshold={threshold}: no candidate reaches it, the best has {chosen['score'].max():.4g}; lower it"
        )
    return left


def prompt_weights(chosen: pd.DataFrame, table: pd.DataFrame, by: str, difficulty: float) -> np.ndarray:
    """Give how much a row of ``chosen`` is to count in training, float64 [rows], with mean 1: exp(-difficulty·s) over
    its mean, s the mean score of the prompt's candidates, standardised over all prompts of ``table``.

    So with a positive ``difficulty`` the prompts count more whose pictures share little with them by the model's own
    measure. Of a sum every part is standardised over the prompts; choice by lot makes none harder than another.
    """
    if difficulty == 0 or by == "random":
        return np.ones(len(chosen))
    parts = [replace(term, normalised=True) for term in terms(by, own=_own(scorers(table)))]
    means = table.groupby(table["prompt_id"].to_numpy())[[term.name for term in parts]].mean()
    ease = weigh({"ease": weigh(means, parts)}, [Term(1.0, "ease", normalised=True)])
    weights = np.exp(-difficulty * pd.Series(ease, means.index).reindex(chosen["prompt_id"]).to_numpy())
    return weights / weights.mean()


def worst(table: pd.DataFrame, by: str, k: int, seed: int = 0) -> pd.DataFrame:
    """Give the ``k`` lowest rows of each prompt, lowest first; else as :func:`select`."""
    return select(table, by, k, highest=False, seed=seed)


def thin(chosen: pd.DataFrame, count: int, seed: int = 0) -> pd.DataFrame:
    """Give ``count`` rows of ``chosen`` in their order, drawn from (seed, prompt, candidate) alone."""
    pairs = zip(chosen["prompt_id"], chosen["candidate"], strict=True)
    draw = np.array([_uniform(f"{seed}:thin:{prompt}:{int(candidate)}") for prompt, candidate in pairs])
    return chosen.iloc[np.sort(np.argsort(draw, kind="stable")[:count])].reset_index(drop=True)


def _scores(table: pd.DataFrame, by: str, seed: int) -> np.ndarray:
    """The values to order by, float64 [rows]."""
    if by == "random":
        pairs = zip(table["prompt_id"], table["candidate"], strict=True)
        return np.array([_uniform(f"{seed}:{prompt}:{int(candidate)}") for prompt, candidate in pairs])
    parts_among(table.columns, by)
    if by in table:
        score = table[by].to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        score = weigh(table, terms(by, own=_own(scorers(table))), _numbers(table["prompt_id"]))
    bad = ~np.isfinite(score)
    if LEFT in table:
        bad &= table[LEFT].isna().to_numpy()
    if bad.any():
        row = table[bad].iloc[0]
        text = row["prompt"] if "prompt" in table else row["prompt_id"]
        raise UserError(
            f"select.by={by}: the score of candidate {int(row['candidate'])} of prompt {text!r} is {score[bad][0]};"
            " choose another score or generate again with model.dtype=float32"
        )
    return score


def _own(names: Iterable[str]) -> list[str]:
    """The scores that a sum can name: a user's functions among them."""
    return [name for name in names if name.isidentifier()]


def _is_coded(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)


def _numbers(prompts: pd.Series) -> np.ndarray:
    """A number for every prompt, in the order of their ids."""
    if not _is_coded(prompts):
        return pd.factorize(prompts, sort=True)[0]
    places, _ = pd.factorize(prompts.cat.categories, sort=True)
    return places[prompts.cat.codes.to_numpy()]


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
