"""Balanced phrases as they are configured: which prompts have any, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omegaconf import DictConfig

from mitune.pixels.balance import distinct, worth_balancing
from mitune.pixels.excitation import REFINED
from mitune.pixels.phrases import phrases_of
from mitune.pixels.settings import BALANCES, BalancingConfig
from mitune.sampling.catalogue import SAMPLERS
from mitune.stages.inputs import settings_of
from mitune.stages.progress import say
from mitune.tasks import Task


def check_balance(config: DictConfig, tasks: Sequence[Task], key: str = "", quiet: bool = False) -> None:
    """Find the phrases of all prompts, before a model is loaded, and say which prompts are drawn as ever.

    Args:
        config: of the command.
        tasks: its prompts.
        key: names where they come from.
        quiet: say nothing.

    Raises UserError where they cannot be found.
    """
    balance = config.sampler.balance
    if balance is None:
        return
    counts = [len(phrases_of(task.text, _source(config))) for task in tasks]
    few = sum(count < 2 for count in counts)
    if few and not quiet:
        where = f" ({key})" if key else ""
        say(
            f"note: sampler.balance={balance}: {few} of {len(counts)} prompts{where} name fewer than two phrases, so"
            " they are drawn without it"
        )


def balancing_rows(config: DictConfig, tasks: Sequence[Task]) -> int:
    """Count the network rows that balancing one candidate of each prompt takes, at most; 0 where it is off."""
    balance = config.sampler.balance
    if balance is None or not BALANCES[balance].asks:
        return 0
    found = [phrases_of(task.text, _source(config)) for task in tasks]
    few = 0 if BALANCES[balance].gradient else 1
    counts = [count for own in found if worth_balancing(own) and (count := len(distinct(own))) > few]
    own = settings_of(BalancingConfig, config.sampler.balancing).filled(balance)
    early = max(1, math.ceil(float(own.share or 1) * config.sampler.steps - 1e-9))
    if BALANCES[balance].gradient:
        return len(counts) * (early + len(REFINED) * int(own.refinements or 0))
    # The prompt and each of its phrases, at every evaluation of an early step. Of heun the second one of the last such
    # step is at the time of the next.
    each = SAMPLERS[config.sampler.name].evaluated(config.sampler.steps)
    evaluations = sum(each[:early]) - (each[early - 1] - 1)
    return evaluations * sum(1 + count for count in counts)


def bounds_balancing(config: DictConfig) -> bool:
    """Tell whether balancing may take fewer rows than are counted: goals may be reached at once."""
    balance = config.sampler.balance
    if balance is None or not BALANCES[balance].gradient:
        return False
    return bool(settings_of(BalancingConfig, config.sampler.balancing).filled(balance).refinements)


def _source(config: DictConfig) -> str:
    return str(config.sampler.balancing.phrases or "auto")
