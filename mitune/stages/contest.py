"""Scoring in passes as it is configured (``generate.passes``): what candidates race for."""

from __future__ import annotations

from omegaconf import DictConfig

from mitune.information.in_passes import Contest
from mitune.information.scoring import Scoring
from mitune.scores import terms
from mitune.stages.inputs import selecting


def contest_of(config: DictConfig, scoring: Scoring) -> Contest | None:
    """Give what the candidates race for; None where ``generate.passes`` is off, or ``select.by`` goes by no score that
    ``scoring`` can measure in passes: then all get all of their scores."""
    level = config.generate.passes
    by, choice = selecting(config), config.select
    if level is None or by == "random":
        return None
    found = Contest(by, terms(by, config.scorer.combined), choice.k, choice.losers, level)
    return found if scoring.racing(found) else None
