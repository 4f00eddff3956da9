"""How strongly each phrase stands for what is in the picture: S = γ^n of its loss; a map is raised to the power 1/S.

Zhou et al. (ELBO-T2IAlign, arXiv 2506.09740) stretch the losses of one picture to 0…1, whatever they are: with two
phrases a coin decides which map is pressed down. Here the loss of a phrase is by default what the prompt's error loses
or gains with it, and n counts from none: a phrase that helps is left alone, however much the others help, and one
without which the network does better, which is therefore not in the picture, is pressed down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.pixels.catalogue import HeatmapConfig


def strengths(losses: Tensor, settings: HeatmapConfig) -> Tensor:
    """S [P] in [γ, 1] of the losses [times, P] of the phrases of one picture, float64; the best phrase has 1.

    ``settings``: without nulls. "constant": γ for all; "flipped": as if the losses had the other sign.

    >>> strengths(torch.tensor([[1.0, 3.0]]), HeatmapConfig(calibration="elbo", normalise="minmax").filled()).tolist()
    [1.0, 0.3333333333333333]
    """
    kind, gamma = settings.calibration, float(settings.gamma or 1.0)
    if kind == "none":
        return torch.ones(losses.shape[-1], dtype=torch.float64)
    if kind == "constant":
        return torch.full((losses.shape[-1],), gamma, dtype=torch.float64)
    return gamma ** shares(
        -losses if kind == "flipped" else losses, str(settings.normalise), settings.scale or 1.0
    )


def shares(losses: Tensor, normalise: str, scale: float) -> Tensor:
    """n [P] in [0, 1] of losses [times, P]: 0 for the least.

    Args:
        normalise: "minmax" stretches them; "scale": (loss − least) / scale; "error": (loss − least) in units of
            ``scale`` standard errors, over the times, of that difference; "zero": loss in those of the loss itself, so
            that n is 0 for every loss below 0.
    """
    losses = losses.double()
    mean = losses.mean(0)
    more = mean - mean.min()
    if normalise == "minmax":
        return more / more.max() if more.max() > 0 else more
    if normalise in ("error", "zero"):
        difference = losses if normalise == "zero" else losses - losses[:, mean.argmin()].unsqueeze(1)
        more = mean.clamp_min(0) if normalise == "zero" else more
        spread = difference.std(0, correction=min(1, len(losses) - 1)) / len(losses) ** 0.5
        more = torch.where(spread > 0, more / spread, more.sign() * torch.inf)
    return (more / scale).clamp(0, 1).nan_to_num(0.0)


def calibrated(maps: Tensor, strength: Tensor) -> Tensor:
    """Maps [P, h, w] in [0, 1], each to the power 1/S: of a weak phrase only the peak is left."""
    return maps ** (1 / strength).to(maps).reshape(-1, 1, 1)
