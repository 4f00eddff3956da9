"""Scores measured in passes are those measured at once, to the bit, whatever noise their times take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mitune.information.in_passes import Contest
from mitune.information.scoring import Scoring
from mitune.tasks import Task
from tests.analytic import scene
from tests.cli import compose

CANDIDATES, TIMES = 8, 8


def scoring(denoiser: Any, name: str, noise: str) -> Scoring:
    changed = {name: {"noise": noise, "times": TIMES}, "contrast": {"negatives": "list"}}
    settings: Any = OmegaConf.to_container(OmegaConf.merge(compose().scorer, changed))
    return Scoring([name], settings, denoiser, given=["a", "b"])


@pytest.mark.parametrize("noise", ["independent", "antithetic", "coupled"])
@pytest.mark.parametrize("name", ["elbo", "contrast"])
def test_who_stays_has_the_score_to_the_bit(name: str, noise: str) -> None:
    denoiser, z0, labels = scene(2 * CANDIDATES)
    tasks, seeds = [Task.of(label) for label in labels], list(range(2 * CANDIDATES))
    judge = scoring(denoiser, name, noise)
    whole = judge.on_latents(z0, tasks, seeds)[name].double()
    spent = judge.forwards[name]
    judge.forwards.clear()
    found = judge.race(z0, tasks, seeds, {}, Contest(name, judge.terms(name), 1, 1, 0.4))
    stayed = torch.tensor([passes == 0 for passes in found.left_after])
    assert 0 < stayed.sum() < len(stayed)
    assert torch.equal(found.scores[name][stayed], whole[stayed])
    assert not torch.equal(found.scores[name][~stayed], whole[~stayed])  # foretold
    assert found.whole == {name: spent}
    assert found.forwards == dict(judge.forwards)
    assert judge.forwards[name] < spent
