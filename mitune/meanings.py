"""What a score's number is, in words: its unit only where the settings make it one.

An estimate over a part of the times is no information in nats, however well it ranks: on pairs of Gaussians the default
range of ``elbo`` and ``mi_image`` (t 400 … 1000) holds 20 to 61 % of it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NATS_FROM = 5
"""Highest ``t_min`` (of 1000) at which what lies below may be left out of a number in nats: a twentieth and less of the
information of Gaussian pairs of correlation up to 0.98, see tests/test_meanings.py."""
ALL_TIMES = 1000
_WHOLE_RANGE = (
    "even",
    "stratified",
    "random",
    "importance",
)  # strategies whose times stand for all of the range

_ON_NOISE = {
    "mi_image": "how far the prompt moves the denoiser on the finished picture",
    "elbo": "how much better the prompt explains noise put on the picture than the null prompt does",
    "llr_image": "log-likelihood ratio, with the prompt against without, of forward paths from the picture",
    "contrast": "how much better the prompt explains the picture than minimal edits of it do",
}
_OTHERS = {
    "llr": "log-likelihood ratio of the sampler's path, with the prompt against without, nats",
    "cas": "log p(z|c) − log p(z) along the probability-flow ODE, nats",
    "oracle": "alignment as the embedded world's oracle sees it, 0 to 1",
    "exact": "share of pictures the oracle finds exactly right",
    "clip": "likeness of picture and prompt as CLIP sees it",
    "pickscore": "what people would pick for the prompt, by PickScore",
    "aesthetic": "how pleasing the picture is, by LAION's predictor, 1 to 10",
    "hpsv2": "what people would prefer for the prompt, by HPSv2",
    "imagereward": "how people would rate the picture for the prompt, by ImageReward",
    "jpeg": "minus the picture's kilobytes as JPEG",
}
_PATH = {
    "mi": "MI-Tune's point-wise mutual information along the sampler's path (its eq. 2)",
    "mi_continuous": "the same with the continuous weights ½(−λ')",
    "rfmi": "RFMI's product of velocities along a flow's path (arXiv 2503.14358)",
}


def meaning(name: str, settings: Mapping[str, Any]) -> str | None:
    """What the score ``name`` says, with its unit or its range of times; None for a sum, which says it itself.

    ``settings``: section ``scorer`` of the configuration.
    """
    if name in _PATH:
        return f"{_PATH[name]}: ranking score over t above {settings['mi']['t_min']}"
    if name in _ON_NOISE:
        own = settings[name]
        # ``contrast`` is told from a few prompts, not from all: never the information itself.
        unit = "nats" if name != "contrast" and is_in_nats(own) else f"ranking score over {times(own)}"
        return f"{_ON_NOISE[name]}: {unit}"
    return _OTHERS.get(name)


def is_in_nats(own: Mapping[str, Any]) -> bool:
    """Whether a scorer on forward noise, set so, estimates information itself: the likelihood's weights, all times."""
    return (
        own["weighting"] == "continuous"
        and own["strategy"] in _WHOLE_RANGE
        and own["t_min"] <= NATS_FROM
        and own["t_max"] >= ALL_TIMES
        and own.get("guidance", 1.0) == 1.0
    )


def times(own: Mapping[str, Any]) -> str:
    """The range of times, in words."""
    return f"t {own['t_min']}…{own['t_max']}"
