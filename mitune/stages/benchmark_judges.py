"""Who judges which category of a benchmark: named by keys, set as the benchmark has them, checked before anything is
drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mitune.errors import UserError, naming
from mitune.evaluate.benchmarks.compbench import ABOUT
from mitune.evaluate.benchmarks.judging import is_original, settings_for
from mitune.evaluate.benchmarks.lines import Asked, Line
from mitune.information.scoring import check_judges
from mitune.referees.catalogue import JUDGES
from mitune.referees.weighted import load_reward

THREE_IN_ONE = "three_in_one"
# Judges that others are a part of.
_HOLDS = {THREE_IN_ONE: ("blip_vqa", "clip")}


@dataclass(frozen=True)
class Chosen:
    """Says who judges a category.

    Attributes:
        name: of the judge.
        scores: it, and the judges that are a part of it, as a sum of their names.
        open: makes it; categories whose ``like`` is equal share one.
        like: what it is made of.
        original: whether it is the one of the published numbers.
        form: what it makes of its network's numbers, where it has a choice.
    """

    name: str
    scores: str
    open: Callable[[], Any]
    like: Any
    original: bool
    form: str


def chosen_judges(
    config: DictConfig, asked: Asked, lines: Sequence[Line], device: torch.device
) -> dict[str, Chosen]:
    """Choose the judge of each category of ``lines``. Raises UserError for one that is not there, cannot be had or
    judge these, or is not named.
    """
    found: dict[str, Chosen] = {}
    present = list(dict.fromkeys(line.category for line in lines))
    for name in present:
        own = list({line.text: line for line in lines if line.category == name}.values())
        kind = asked.benchmark.category(name).kind
        key, judge = f"benchmark.judge.{kind}", config.benchmark.judge[kind]
        if judge is None:
            others = ",".join(one for one in present if one != name)
            raise UserError(
                f"{key}: nobody judges {name}: name a judge of pictures, or leave it out:"
                f" benchmark.categories=[{others}]"
            )
        if judge == THREE_IN_ONE and any(ABOUT not in line.note for line in own):
            raise UserError(
                f"benchmark.source: {THREE_IN_ONE} judges a prompt by the list that it stands in: give the benchmark's"
                " prompt files beside the pictures"
            )
        settings = _settings(config, asked, name, judge, key)
        _check(judge, settings, own, key)
        original = is_original(asked.benchmark.category(name), judge, settings)
        opener = functools.partial(load_reward, judge, settings, device)
        scores = "+".join([judge, *_HOLDS.get(judge, ())])
        form = settings.get(judge, {}).get("form", "")
        found[name] = Chosen(judge, scores, opener, (judge, settings), original, form)
    return found


def _settings(config: DictConfig, asked: Asked, category: str, judge: str, key: str) -> dict[str, Any]:
    """Section ``scorer``, with the keys of a judge as the benchmark has them."""
    JUDGES.find(judge, key)
    scorer: Any = OmegaConf.to_container(config.scorer, resolve=True)
    return settings_for(asked.benchmark.category(category), judge, scorer)


def _check(judge: str, settings: dict[str, Any], lines: Sequence[Line], key: str) -> None:
    """Raise UserError, naming ``key``, for a judge that cannot judge these lines; no weights are read."""
    reward: Any = load_reward(judge, settings)
    if not hasattr(reward, "check_request"):
        check_judges([judge], [line.text for line in lines], key, settings)
        return
    for line in lines:  # it goes by what GenEval's file says of them, not by their texts
        with naming(key):
            reward.check_request(line.note, line.text)
