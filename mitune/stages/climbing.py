"""Referee Can Play as it is configured: candidates that climb a judge, each by itself (``sampler=inversion``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.referees.reward import Reward
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.search.catalogue import RefereeConfig
from mitune.search.referee import Effort, climb
from mitune.stages.progress import warn
from mitune.tasks import Task


@dataclass
class Climb:
    """Draws candidates up a judge, whatever batch they are in.

    Attributes:
        settings: the section ``search.rcp``.
        reward: the judge.
        batch_size: views that it sees at once.
        effort: counts what was spent beside network rows.
    """

    settings: RefereeConfig
    reward: Reward
    batch_size: int
    effort: Effort = field(default_factory=Effort)

    @property
    def judges(self) -> dict[str, str]:
        """Name whose weights the pictures depend on."""
        return {"reward": self.reward.identity}

    @property
    def said(self) -> dict[str, Any]:
        """Say what a finished batch depends on beside its judge."""
        return dataclasses.asdict(self.settings)

    def draw(
        self, denoiser: Denoiser, tasks: Sequence[Task], seeds: Sequence[int], sampler: SamplerConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a latent for each of n ``tasks`` and ``seeds``; gives them and ``reward`` [n], of the picture as it is.

        ``sampler`` draws what they start from, where they start from a picture.
        """
        own, texts, start = self.settings, [task.text for task in tasks], None
        if own.start == "sample":
            if own.start_guidance is not None:
                sampler = dataclasses.replace(sampler, guidance=own.start_guidance)
            start = sample(denoiser, denoiser.encode_prompts(texts), seeds, sampler)
        silent = self.effort.silent
        latents = climb(denoiser, texts, seeds, self.reward, own, start, self.batch_size, self.effort)
        if silent := self.effort.silent - silent:
            warn(
                f"search.reward={self.reward.name}: no gradient at any step for {silent} of {len(latents)} pictures,"
                " so distillation alone drew them (clip has one everywhere with scorer.clip.form=cosine)"
            )
        with torch.no_grad():
            scores = self.reward.score(denoiser.decode(latents), texts)
        self.effort.looked += len(latents)
        return latents, {"reward": scores}


def climbing_figures(config: DictConfig, table: pd.DataFrame, spent: Mapping[str, int]) -> dict[str, Any]:
    """Sum up candidates that climbed: ``reward``, the mean over them, and what was ``spent`` on it."""
    return {"reward_by": config.search.reward, "reward": float(table["reward"].mean()), **spent}
