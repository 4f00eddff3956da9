"""What a pilot says of schedules that were never drawn: recall, loss, forwards, and what is proposed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mitune.evaluate.calibration import calibration, keep_best, markdown, plot, race, recall, winners_mean
from mitune.sampling.racing import Cut, best_of_groups

P, M, STEPS = 40, 8, 10


def pilot(noise: dict[int, float], seed: int | None = None):
    """(running scores that know the target the better the later, target)."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(P, M))
    return {step: target + width * rng.normal(size=(P, M)) for step, width in noise.items()}, target


def test_a_race_on_paper_is_the_race_of_the_loop() -> None:
    running, _ = pilot({2: 1.0, 5: 0.5})
    running[2][:, :4] = running[2][:, :1]  # ties
    alive = race(running, [Cut(2, 5), Cut(5, 2)])
    groups = torch.arange(P).repeat_interleave(M)
    rows = best_of_groups(torch.from_numpy(running[2].reshape(-1)), groups, 5)
    rows = rows[best_of_groups(torch.from_numpy(running[5].reshape(-1))[rows], groups[rows], 2)]
    assert np.flatnonzero(alive.reshape(-1)).tolist() == rows.tolist()


def test_recall_and_loss_by_hand() -> None:
    final = np.array([[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [5.0, 4.0, 4.0, 4.0]])
    alive = np.array([[False, True, True, False], [False, True, False, True], [False, True, True, False]])
    assert recall(final, alive, 1).tolist() == [0, 1, 0]  # any of those that tie will do
    assert recall(final, alive, 2).tolist() == [0.5, 0.5, 0.5]
    assert winners_mean(final, alive, 1).tolist() == [2, 1, 4]
    assert winners_mean(final, alive, 2).tolist() == [1.5, 0.5, 4]


@pytest.mark.parametrize("k", [1, 3])
def test_by_lot_a_share_is_kept_and_a_perfect_score_keeps_all(k: int) -> None:
    rng = np.random.default_rng()
    final, everyone = rng.normal(size=(4000, M)), np.ones((4000, M), dtype=bool)
    lot = recall(final, keep_best(rng.normal(size=final.shape), everyone, 4), k)
    assert abs(lot.mean() - 0.5) < 4 * lot.std() / 4000**0.5
    assert (recall(final, keep_best(final, everyone, 4), k) == 1).all()


def test_the_study_of_a_score_that_learns() -> None:
    running, target = pilot({step: 2.0 * (1 - step / STEPS) for step in range(1, STEPS + 1)}, seed=1)
    study = calibration({"llr": running}, target, STEPS, finish=4, wanted=0.9, resamples=200)
    rows = study["scores"]["llr"]["at"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["tau_own"]["mean"] == rows[-1]["tau_target"]["mean"] == pytest.approx(1)
    assert rows[0]["tau_target"]["mean"] < 0.6 < rows[-2]["tau_target"]["mean"]
    for row in rows:
        means = [cell["mean"] for cell in row["recall_target"]]
        assert means == sorted(means)  # more survivors lose nobody
    plan = study["proposals"]["llr"]
    cuts = [Cut(**cut) for cut in plan["cuts"]]
    alive = race(running, cuts)
    assert plan["recall"]["mean"] == pytest.approx(recall(target, alive, 1).mean())
    assert plan["recall"]["mean"] >= 0.9
    assert plan["recall_held_out"]["mean"] <= 1
    assert plan["saving"] > 1.2
    # By hand: rows of drawing at two a step and of scoring at four.
    steps = [next((cut.step for cut in cuts if rank >= cut.survivors), STEPS) for rank in range(M)]
    assert plan["rows"] == sum(2 * step + (4 if step == STEPS else 0) for step in steps)
    assert plan["saving"] == pytest.approx(M * (2 * STEPS + 4) / plan["rows"])
    # More recall costs more forwards.
    strict = calibration({"llr": running}, target, STEPS, finish=4, wanted=0.975, resamples=10)
    assert strict["proposals"]["llr"]["rows"] > plan["rows"]


def test_a_score_that_knows_nothing_proposes_little_and_held_out_recall_says_so() -> None:
    running, target = pilot(dict.fromkeys(range(1, STEPS + 1), 1000.0), seed=2)
    plan = calibration({"mi": running}, target, STEPS, wanted=0.9, resamples=10)["proposals"]["mi"]
    assert plan is None or plan["saving"] < 1.5
    # Looks that cost more than they can save leave nothing to propose.
    dear = calibration({"elbo": running}, target, STEPS, looks={"elbo": 100}, resamples=10)
    assert dear["proposals"]["elbo"] is None
    assert dear["best"] is None


def test_the_cheapest_score_is_the_best_proposal_and_a_judge_proposes_none() -> None:
    good, target = pilot(dict.fromkeys(range(1, STEPS + 1), 0.1), seed=3)
    bad = {
        step: values + np.random.default_rng(100 + step).normal(size=(P, M)) for step, values in good.items()
    }
    bad[STEPS] = good[STEPS]
    study = calibration({"mi": bad, "elbo": good}, target, STEPS, looks={"elbo": 2}, finish=20, resamples=10)
    assert study["best"] == "elbo"
    named = {"target": "contrast", "measured_only": False, "command": "sampler.racing.by=elbo", **study}
    text = markdown(named)
    assert "The cheapest: `sampler.racing.by=elbo`" in text
    assert "`contrast` (20 forwards a candidate)" in text
    assert plot(named).startswith(b"\x89PNG")
    judged = calibration({"mi": bad}, target, STEPS, propose=False, resamples=10)
    assert judged["proposals"] == {"mi": None}
    assert "`oracle` only judges" in markdown(
        {"target": "oracle", "measured_only": True, "command": None, **judged}
    )
