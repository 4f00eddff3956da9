"""Real pictures in the training set: chosen by the score that chooses candidates, in the place of some of these.

Where winners and losers are told apart, real pictures are neither: they are what the model shall stay close to.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from torch import Tensor

from mitune.data.decoding import decode_picture
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures
from mitune.data.prompts import make_prompt
from mitune.data.selection import thin
from mitune.data.settings import WORLD
from mitune.denoiser import Denoiser
from mitune.distributed import broadcast, state
from mitune.errors import UserError
from mitune.information.scoring import check_judges
from mitune.runs import RunFolder
from mitune.scores import ON_PICTURES, SCORERS, Term, scorers_of, terms, weigh
from mitune.stages.inputs import check_real, load_model, previous_adapter, prompt_pool, scoring_of
from mitune.stages.picture_scores import ScoredPictures
from mitune.stages.sharing import real_name, shared

CATEGORY = "real"
LOOKED_AT = 4  # pictures of the embedded world that are looked at for each one needed


@dataclass(frozen=True, eq=False)
class RealPictures:
    """Holds the chosen pictures: ``picked``, their rows of ``source``, the best first; ``figures`` for the summary. On
    the first process ``rows``, too: as :func:`mitune.data.selection.select` gives them.
    """

    rows: pd.DataFrame | None
    picked: list[int]
    source: Pictures
    figures: dict[str, Any]

    def read(self, row: int) -> bytes:
        """Read the contents of the file of a row of ``source``. UserError where it cannot be read."""
        assert self.source.read is not None
        return self.source.read(row)

    def decode(self, row: int, data: bytes, denoiser: Denoiser) -> Tensor:
        """Give the picture [3, H, W] of a row whose file has the contents ``data``. UserError where it is none."""
        return decode_picture(data, denoiser.picture_size, self.source.what(row))[0]


def stand_in(score: str, combined: str = "") -> tuple[Term, ...]:
    """Give the parts of a score that finished pictures can have: ``mi_image`` for ``mi``, ``llr_image`` for ``llr``."""
    return tuple(
        Term(term.weight, ON_PICTURES.get(term.name, term.name), term.normalised)
        for term in terms(score, combined)
    )


def count_real(config: DictConfig, pictures: int) -> int:
    """Count how many of the training set's ``pictures`` are real."""
    return round(config.select.real_fraction * pictures) if config.select.real is not None else 0


def choose_real(config: DictConfig, run: RunFolder, number: int, count: int) -> RealPictures:
    """Choose ``count`` real pictures, the best for their captions, by the score of ``select.by``; all processes score
    them.

    Scores stay in ``round-N/real``. With ``select.by=random`` nothing is scored. z(…) is taken over all real pictures,
    as each caption has but one. Raises UserError for a source with too few pictures.
    """
    settings = config.select
    source = _open(config, count)
    by = settings.by
    _enough(len(source), count, source.where)
    if source.read is None:
        raise UserError(f"select.real={settings.real}: these are candidates of a model, not real pictures")
    frame = pd.DataFrame(
        {
            "prompt_id": [make_prompt(text).id for text in source.texts],
            "prompt": source.texts,
            "category": CATEGORY,
            "candidate": range(len(source)),
            "seed": 0,
        }
    )
    figures: dict[str, Any] = {"source": source.where, "looked_at": len(source), "pictures": count}
    if by == "random":
        chosen = thin(frame, count, config.seed).assign(score=0.0)
    else:
        chosen = _best(config, run, number, source, frame, count, figures)
    if chosen is not None:
        _enough(len(chosen), count, source.where)
        chosen = chosen.assign(rank=0, preferred=True, weight=1.0, real=True).reset_index(drop=True)
    picked = broadcast(lambda: chosen["candidate"].tolist())  # type: ignore[index]
    return RealPictures(chosen, picked, source, figures)


def _best(
    config: DictConfig,
    run: RunFolder,
    number: int,
    source: Pictures,
    frame: pd.DataFrame,
    count: int,
    figures: dict[str, Any],
) -> pd.DataFrame | None:
    """Score all pictures, and give the best on the first process, None on others.

    Args:
        config, run, number, count: as of :func:`choose_real`.
        source: the pictures.
        frame: a row of each.
        figures: gets what the scores are.
    """
    skip, by = config.score.skip, config.select.by
    parts = stand_in(by, config.scorer.combined)
    names = scorers_of(dict.fromkeys(part.name for part in parts))
    check_judges(names, list(dict.fromkeys(source.texts)), "select.by", config.scorer)
    work = ScoredPictures(run.round(number) / "real", source, config.generate.rows_per_unit)

    @functools.cache
    def model() -> Any:
        denoiser = load_model(config, previous_adapter(run, number))
        check_real(config, denoiser)
        return denoiser

    def judge() -> tuple[Any, Any]:
        return model(), scoring_of(
            config, model(), names, lambda: [*prompt_pool(config.prompts), *source.texts]
        )

    name = ""
    if config.sweep.share is not None:
        name = _shared_name(config, work, names, skip, model().identity)
    with shared(config, work.folder, name):
        title = f"round {number}: real pictures"
        work.score(judge, config.seed, config.generate.batch_size, skip, title)
        # Read while nobody else may write: another job may find other pictures there, and score them again.
        scored = work.table() if state().is_main_process else None
    if scored is None:
        return None
    work.report(scored)
    scores = {name: scored[name] for name in scored if name in SCORERS or name == "exact"}
    frame = frame.iloc[scored["row"]].reset_index(drop=True).assign(**scores, score=weigh(scored, parts))
    chosen = frame.sort_values(["score", "candidate"], ascending=[False, True], kind="stable").head(count)
    figures |= {
        "score": float(chosen["score"].mean()),
        "pool": float(frame["score"].mean()),
        **work.cost().total,
    }
    return chosen


def _shared_name(
    config: DictConfig, work: ScoredPictures, names: list[str], skip: bool, identity: str
) -> str:
    """Where runs of a sweep share the scores; where this run's already lie, if an earlier version named that."""
    plan = work.plan
    before = real_name(config, plan, names, skip, identity)
    if work.folder.is_symlink() and work.folder.resolve().name == before:
        return before
    return real_name(config, plan, names, skip, identity, config.select.real)


def most_looked_at(config: DictConfig, count: int) -> int | None:
    """Count the real pictures that are looked at for the sake of ``count``, at most; None: all there are."""
    settings = config.select
    return settings.real_limit or (LOOKED_AT * count if settings.real == WORLD else None)


def _open(config: DictConfig, count: int) -> Pictures:
    """The source of real pictures, without rows that it marks as held out."""
    settings = config.select
    return load_pictures(
        settings.real,
        limit=most_looked_at(config, count),
        skip=config.score.skip,
        seed=config.seed,
        outside=config.score.outside,
        caption=config.score.caption,
        training=True,
    )


def _enough(there: int, needed: int, where: str) -> None:
    if there < needed:
        raise UserError(
            f"select.real: {where} has {there} pictures, {needed} are needed; lower select.real_fraction"
        )
