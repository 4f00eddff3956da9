"""One ELBO from score, ε, z_0, v and flow outputs: the weights of table I held one against the other."""

from __future__ import annotations

import pytest
import torch
from bounds import PREDICTIONS, elbo_density, elbo_weight, log_prob_bound, prediction_target

from mitune.errors import UserError
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.seeds import candidate_noise
from tests.information.mixtures import mixture, pictures

VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()


def output(schedule: NoiseSchedule, prediction: str, z: torch.Tensor, t: torch.Tensor, labels: list[str]):
    """What an exact network of this kind puts out: from the mixture's own formula for that kind, or the gradient."""
    if prediction == "score":
        denoiser = mixture(6, schedule=schedule)
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser.log_prob_t(z, t, labels).sum(), z)
        return gradient
    denoiser = mixture(6, schedule=schedule, prediction_type=prediction)
    return denoiser.predict(z, t, denoiser.encode_prompts(labels))


@pytest.mark.parametrize(
    ("schedule", "kinds"),
    [
        (VP, ("score", "epsilon", "sample", "v_prediction")),
        (FLOW, ("score", "epsilon", "sample", "flow")),
    ],
    ids=["vp", "flow"],
)
def test_every_prediction_gives_the_same_elbo(schedule, kinds):
    denoiser = mixture(6, schedule=schedule)
    z0, labels = pictures(denoiser, 5, seed=1)
    z0, labels = z0.repeat_interleave(9, 0), [label for label in labels for _ in range(9)]
    t = torch.linspace(20, 980, 9, dtype=torch.float64).repeat(5)
    noise = candidate_noise(3, (6,), len(z0) - 1).double()
    z = schedule.add_noise(z0, noise, t)
    terms = {
        kind: elbo_density(schedule, output(schedule, kind, z, t, labels), z0, noise, t, kind)
        for kind in kinds
    }
    eps = denoiser.epsilon(z, t, denoiser.encode_prompts(labels))
    expected = schedule.kappa_continuous(t) * (eps - noise).square().sum(1)
    for kind, term in terms.items():
        torch.testing.assert_close(term, expected, rtol=1e-7, atol=1e-9, msg=kind)


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "flow"])
def test_the_bound_does_not_depend_on_what_the_network_predicts(kind):
    schedule = FLOW if kind == "flow" else VP
    t, weights = time_grid(schedule, 30, 20, 1000)
    bounds = []
    for prediction in ("epsilon", kind):
        denoiser = mixture(6, schedule=schedule, prediction_type=prediction)
        z0, labels = pictures(denoiser, 8, seed=2)
        bounds.append(
            log_prob_bound(denoiser, z0, denoiser.encode_prompts(labels), Noising(t, weights, range(8)))
        )
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-5, atol=1e-5)


def test_the_flows_weight_is_the_published_one():
    # −λ' (1 − t)² / 2 = (1 − t)/t (arXiv 2503.14358).
    t = torch.tensor([100.0, 500.0, 900.0], dtype=torch.float64)
    torch.testing.assert_close(elbo_weight(FLOW, t, "flow") / 2, (1 - t / 1000) / (t / 1000))
    torch.testing.assert_close(elbo_weight(VP, t, "epsilon") / 2, VP.kappa_continuous(t))


def test_targets_and_numbers_for_time():
    z0, noise = torch.ones(2, 3), torch.full((2, 3), 2.0)
    sigma = float(VP.sigma(400))
    torch.testing.assert_close(prediction_target(VP, z0, noise, 400, "score"), -noise / sigma)
    for kind in PREDICTIONS:
        schedule = FLOW if kind == "flow" else VP
        target = prediction_target(schedule, z0, noise, 400, kind)
        assert elbo_density(schedule, target, z0, noise, 400, kind).tolist() == [0, 0]
        off = elbo_density(schedule, target + 1, z0, noise, 400, kind)
        torch.testing.assert_close(off, 1.5 * elbo_weight(schedule, 400, kind).expand(2))


def test_unknown_predictions_are_refused():
    with pytest.raises(UserError, match="did you mean 'epsilon'"):
        elbo_weight(VP, 5, "epsilom")
    with pytest.raises(UserError, match="known: score"):
        prediction_target(VP, torch.ones(1, 2), torch.ones(1, 2), 5, "x")
