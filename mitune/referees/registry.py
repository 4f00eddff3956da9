"""Judges by name, with the settings of the configuration's section ``scorer``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from mitune.errors import UserError, check_known
from mitune.referees.aesthetic import AestheticReward, check_head
from mitune.referees.clip import Clip, ClipReward
from mitune.referees.hps import HpsReward
from mitune.referees.imagereward import ImageRewardReward
from mitune.referees.jpeg import JpegReward
from mitune.referees.oracle import OracleReward
from mitune.referees.reward import Reward
from mitune.referees.source import find_judge
from mitune.referees.weighted import WeightedSum
from mitune.scores import REFEREES, terms

Settings = Mapping[str, Any]
Device = torch.device | str


def _clip_of(name: str, settings: Settings, device: Device) -> Clip:
    source = find_judge(settings["path"], f"scorer.{name}.path", settings.get("revision"))
    other = settings.get("processor")
    processor = None if other is None else find_judge(other, f"scorer.{name}.processor")
    return Clip(source, device, settings["batch_size"], processor)


def _clip(settings: Settings, device: Device) -> Reward:
    return ClipReward("clip", _clip_of("clip", settings, device), settings["form"], settings["prefix"] or "")


def _pickscore(settings: Settings, device: Device) -> Reward:
    return ClipReward("pickscore", _clip_of("pickscore", settings, device), "logit")


def _aesthetic(settings: Settings, device: Device) -> Reward:
    head = check_head(settings["head"])
    return AestheticReward(_clip_of("aesthetic", settings, device), head)


def _hpsv2(settings: Settings, device: Device) -> Reward:
    if settings["path"] is not None:
        return ClipReward("hpsv2", _clip_of("hpsv2", settings, device), "cosine")
    return HpsReward(settings["version"], device, settings["batch_size"])


def _imagereward(settings: Settings, device: Device) -> Reward:
    return ImageRewardReward(settings["model"], device, settings["batch_size"])


_MAKERS: dict[str, Callable[[Settings, Device], Reward]] = {
    "clip": _clip,
    "pickscore": _pickscore,
    "aesthetic": _aesthetic,
    "hpsv2": _hpsv2,
    "imagereward": _imagereward,
    "jpeg": lambda settings, _: JpegReward(settings["quality"]),
    "oracle": lambda *_: OracleReward(),
}
REWARDS = tuple(_MAKERS)
assert set(REFEREES) <= set(REWARDS)


def load_reward(name: str, settings: Settings, device: Device = "cpu") -> Reward:
    """The reward called ``name``, or a weighted sum of rewards such as ``aesthetic+20*clip``.

    ``settings``: ``reward name -> parameters`` (section ``scorer`` of the configuration). What can be checked without
    the weights is checked here; they are read when the first picture is judged. Raises UserError: an unknown name, a
    model or head that is not there or is a pickle, a package that is not installed.
    """
    if name.isidentifier():
        check_known("reward", name, REWARDS)
        return _MAKERS[name](settings.get(name, {}), device)
    parts = terms(name)
    for part in parts:
        check_known(f"reward {name!r}: reward", part.name, REWARDS)
        if part.normalised:
            raise UserError(
                f"reward {name!r}: z({part.name}) compares candidates; a reward judges one picture"
            )
    return WeightedSum(
        [(part.weight, load_reward(part.name, settings, device)) for part in parts], name.replace(" ", "")
    )


def check_rewards(names: Iterable[str], settings: Settings) -> None:
    """Raise UserError if one of the judges cannot be had; no weights are read."""
    for name in names:
        load_reward(name, settings)
