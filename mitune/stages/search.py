"""Steering as it is configured: the candidates of a prompt drawn as populations from p · exp(reward/α)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from scipy.special import logsumexp, softmax

from mitune.data.store import ROOT
from mitune.denoiser import Denoiser
from mitune.errors import UserError, check_known, short
from mitune.information.scoring import Scoring, check_oracle
from mitune.referees.reward import Reward
from mitune.referees.weighted import load_reward
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Observer, Samples
from mitune.scores import INFORMATION, PICTURE_SCORERS, STEERED, scorers_of, terms
from mitune.search.catalogue import RefereeConfig, SearchConfig
from mitune.search.potentials import RewardPotential, path_potential
from mitune.search.referee import check_climbs
from mitune.search.smc import steer, wants_gradient
from mitune.stages.climbing import Climb
from mitune.stages.inputs import prompt_pool, scoring_of, settings_of
from mitune.stages.progress import warn
from mitune.tasks import Task


@dataclass(frozen=True)
class Search:
    """Draws populations.

    Attributes:
        settings: the section ``search``.
        reward: a judge, or None where the model's own information steers.
        scoring: finds the other prompts of reward=contrast.
        batch_size: particles a forward.
        scorer: the section ``scorer``: how what the path says is measured.
    """

    settings: SearchConfig
    reward: Reward | None
    scoring: Scoring | None
    batch_size: int
    scorer: Mapping[str, Any]

    @property
    def judges(self) -> dict[str, str]:
        """Whose weights the pictures depend on, by name."""
        return {} if self.reward is None else {"reward": self.reward.identity}

    def draw(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig,
        observers: Sequence[Observer],
    ) -> tuple[Samples, dict[str, list[float]]]:
        """Draw the living particles of P prompts; gives them and their columns ``STEERED`` and ``ROOT``.

        Args:
            denoiser, sampler: what draws.
            prompts: P texts.
            seeds: [P · M], what the particles start from.
            observers: of the path.

        ``das`` is log Ẑ + log(N w) of a population of N: the log of how many draws of p · exp(U/α) a particle stands
        for where one of p stands for one, so that the mean of exp(das) over a prompt's candidates is Ẑ. ``reward`` is
        U of the finished picture. Raises UserError as ``steer``.
        """
        own = len(seeds) // len(prompts)
        size = self.settings.particles or own
        texts = [text for text in prompts for _ in range(own // size)]
        potential = self._potential(denoiser, texts, size)
        out = steer(
            denoiser, texts, seeds, sampler, potential, self.settings, observers, batch_size=self.batch_size
        )
        for text, died in zip(texts, out.died.tolist(), strict=True):
            if died:
                warn(
                    f"search.reward={self.settings.reward}: {died} of {size} particles of {short(text)!r} died of a"
                    " reward that was NaN or infinite"
                )
        alive = (out.log_weights > -math.inf).flatten().nonzero().flatten()
        scale = out.log_evidence + math.log(size)
        populations = torch.arange(len(texts)).remainder(own // size)
        columns = {
            "das": out.log_weights + scale.unsqueeze(1),
            "reward": out.potential,
            ROOT: out.roots + size * populations.unsqueeze(1),
        }
        assert {*columns} == {*STEERED, ROOT}
        found = Samples(out.latents.flatten(0, 1)[alive.to(out.latents.device)], alive)
        return found, {name: values.flatten()[alive].tolist() for name, values in columns.items()}

    def _potential(self, denoiser: Denoiser, texts: Sequence[str], size: int) -> Any:
        if self.reward is not None:
            return RewardPotential(self.reward, denoiser)
        by, others = str(self.settings.reward), None
        if by == "contrast":
            assert self.scoring is not None
            # As many for all: a prompt with fewer is told from some of its own twice.
            mined = (self.scoring.edits(text) for text in texts)
            others = [list(itertools.islice(itertools.cycle(each), self.settings.edits)) for each in mined]
        return path_potential(denoiser, texts, size, by, others, self.batch_size, self.scorer)


def search_of(config: DictConfig, denoiser: Denoiser) -> Search | Climb | None:
    """Make the search of the configuration, with its judge; None where it is off."""
    own = config.search
    if own.by is None:
        return None
    if own.by == "rcp":
        judge = load_reward(own.reward, _scorers(config), denoiser.device)
        return Climb(settings_of(RefereeConfig, own.rcp), judge, config.generate.batch_size)
    scoring = None
    if own.reward == "contrast":
        edits: DictConfig = OmegaConf.merge(config, {"scorer": {"contrast": {"edits": own.edits}}})  # type: ignore[assignment]
        scoring = scoring_of(edits, denoiser, ["contrast"], lambda: prompt_pool(config.prompts))
    informed, scorer = own.reward in INFORMATION, _scorers(config)
    reward = None if informed else load_reward(own.reward, scorer, denoiser.device)
    return Search(settings_of(SearchConfig, own), reward, scoring, config.generate.batch_size, scorer)


def check_search(config: DictConfig, tasks: Sequence[Task], candidates: int) -> None:
    """Raise UserError unless the search can draw ``candidates`` of each of ``tasks``; no weights are read."""
    own = config.search
    if own.by is None:
        return
    if own.particles is not None and candidates % own.particles:
        raise UserError(
            f"search.particles={own.particles}: {candidates} candidates a prompt do not make whole populations; give a"
            " number that divides them"
        )
    for task in tasks:
        if task.picture is not None:
            raise UserError(
                f"search.by={own.by}: it draws candidates of a text alone, and the prompt {short(task.text)!r} has a"
                " picture; say search.by=null, and they are drawn without"
            )
    if own.reward in INFORMATION:
        return
    if own.reward.isidentifier():
        check_known("search.reward", own.reward, (*PICTURE_SCORERS, *INFORMATION))
    reward = load_reward(own.reward, _scorers(config))
    check_oracle([term.name for term in terms(own.reward)], [task.text for task in tasks], "search.reward")
    if own.by == "rcp":
        check_climbs(reward)
    else:
        wants_gradient(reward, own.proposal)


def steering_figures(config: DictConfig, table: pd.DataFrame) -> dict[str, Any]:
    """Sum up what the populations of a candidate table came to.

    ``reward``: weighted mean, over prompts; ``log_evidence``: mean log Ẑ; ``roots``: mean share of a prompt's first
    particles that have a living descendant; ``died``: particles lost to their reward.
    """
    groups = list(table.groupby("prompt_id", sort=False))
    candidates = config.generate.candidates
    evidence, rewards, roots = [], [], []
    for _, own in groups:
        log = own["das"].to_numpy()
        evidence.append(float(logsumexp(log) - math.log(candidates)))
        rewards.append(float(softmax(log) @ own["reward"].to_numpy()))
        roots.append(own[ROOT].nunique() / candidates)
    return {
        "reward_by": config.search.reward,
        "alpha": config.search.alpha,
        "reward": float(np.mean(rewards)),
        "log_evidence": float(np.mean(evidence)),
        "roots": float(np.mean(roots)),
        "died": len(groups) * candidates - len(table),
    }


def judged_by_oracle(config: DictConfig) -> bool:
    """Tell whether the embedded world's oracle steers: candidates of such a search are a control's."""
    own = config.search
    return own.by is not None and own.reward not in INFORMATION and "oracle" in scorers_of([own.reward])


def _scorers(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config.scorer, resolve=True)  # type: ignore[return-value]
