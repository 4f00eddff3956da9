"""Scoring in passes as it is configured (``generate.passes``): what candidates race for, and what it can choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from mitune.errors import UserError
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


def check_chosen(config: DictConfig, made: Mapping[str, Any] | None) -> None:
    """Raise UserError where ``select`` asks for others than were raced for; ``made``: the mark of generate."""
    raced = (made or {}).get("passes")
    if raced is None:
        return
    by, choice = selecting(config), config.select
    wrong = [f"select.by={by}"] if by != raced["by"] else []
    wrong += [f"select.{end}={choice[end]}" for end in ("k", "losers") if choice[end] > raced[end]]
    if wrong:
        raise UserError(
            f"{wrong[0]}: these candidates were scored in passes, in full only where they might be of the best"
            f" {raced['k']} and the worst {raced['losers']} by {raced['by']}; choose among these, or draw in another"
            " run= folder"
        )
