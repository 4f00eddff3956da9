"""Scoring in passes as it is configured (``generate.passes``): what candidates race for."""

from __future__ import annotations

from omegaconf import DictConfig

from mitune.information.in_passes import Contest
from mitune.scores import IN_PASSES, terms
from mitune.stages.inputs import selecting


def contest_of(config: DictConfig) -> Contest | None:
    """Give what the candidates race for; None where ``generate.passes`` is off, or ``select.by`` goes by no score that
    is measured in passes: then all get all of their scores."""
    level = config.generate.passes
    by, choice = selecting(config), config.select
    if level is None or by == "random":
        return None
    parts = terms(by, config.scorer.combined)
    if not any(part.name in IN_PASSES for part in parts):
        return None
    return Contest(by, parts, choice.k, choice.losers, level)
