"""What a number is called: nats only where the times span the information, by the closed form of Gaussian pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from mitune.config import ScorerConfig
from mitune.information.catalogue import NATS_FROM, is_in_nats
from mitune.noise import NoiseSchedule
from mitune.scores import LATENT_SCORERS, SCORERS, SCORES, meaning

DEFAULTS: Any = OmegaConf.to_container(OmegaConf.structured(ScorerConfig))
WHOLE = {"t_min": 0, "t_max": 1000}


def share_above(schedule: NoiseSchedule, t: float, correlation: float) -> float:
    """Share of the information of a Gaussian pair that its first half, noised to ``t``, still has of the second:
    log(1 − ρ² ᾱ_t) / log(1 − ρ²), with the variance of the noised half brought to 1.
    """
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    signal = alpha**2 / (alpha**2 + sigma**2)
    return float(np.log1p(-(correlation**2) * signal) / np.log1p(-(correlation**2)))


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()], ids=["vp", "flow"]
)
def test_from_the_times_called_nats_on_next_to_nothing_is_lost_and_from_the_default_on_much(
    schedule: NoiseSchedule,
) -> None:
    for correlation in (0.1, 0.5, 0.9, 0.98):
        assert share_above(schedule, NATS_FROM, correlation) > 0.95
        assert share_above(schedule, DEFAULTS["elbo"]["t_min"], correlation) < 0.75


@pytest.mark.parametrize("name", LATENT_SCORERS)
def test_on_a_part_of_the_times_a_score_has_no_unit_but_its_range(name: str) -> None:
    said = meaning(name, DEFAULTS)
    assert said is not None
    if name == "cas":  # along the whole ODE
        assert said.endswith("nats")
        return
    own = DEFAULTS[name]
    assert said.endswith(f"ranking score over t {own['t_min']}…{own['t_max']}")
    assert "nats" not in said


@pytest.mark.parametrize("name", ["elbo", "mi_image", "llr_image"])
def test_over_all_times_with_the_likelihoods_weights_it_is_nats(name: str) -> None:
    def said(**changed: Any) -> str:
        return str(meaning(name, DEFAULTS | {name: DEFAULTS[name] | WHOLE | changed}))

    assert said().endswith("nats")
    for changed in (
        {"t_min": 50}, {"t_max": 999}, {"weighting": "uniform"}, {"weighting": "paper"}, {"strategy": "small"}
    ):  # fmt: skip
        assert "nats" not in said(**changed), changed
    assert not is_in_nats(SCORES["llr_image"].own(DEFAULTS, **WHOLE, guidance=4.0))


def test_contrast_is_told_from_a_few_prompts_and_never_called_nats() -> None:
    assert "nats" not in str(meaning("contrast", DEFAULTS | {"contrast": DEFAULTS["contrast"] | WHOLE}))


def test_every_score_has_a_meaning_and_a_sum_none() -> None:
    assert all(meaning(name, DEFAULTS) for name in (*SCORERS, "exact"))
    assert meaning("contrast+0.5*elbo", DEFAULTS) is None


def test_scores_of_the_path_name_their_range_and_which_papers_they_are() -> None:
    changed = DEFAULTS | {"mi": {"t_min": 70}}
    for name, paper in (("mi", "MI-Tune"), ("rfmi", "RFMI")):
        said = str(meaning(name, changed))
        assert paper in said
        assert said.endswith("ranking score over t above 70")
