"""Conditions, the concrete half of ``Denoiser``, and the closed forms of the analytic one."""

from __future__ import annotations

import pytest
import torch

from mitune.analytic import AnalyticDenoiser
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.noise import NoiseSchedule
from tests.analytic import exact_kl, three_clouds, within_three_errors


def condition(n: int) -> Condition:
    return Condition({"embedding": torch.arange(2.0 * n).reshape(n, 2), "ids": torch.arange(n)})


def test_condition_is_a_batch_however_it_is_indexed():
    c = condition(5)
    assert len(c) == 5
    assert c[-1].tensors["ids"].tolist() == [4]
    assert c[1].tensors["embedding"].shape == (1, 2)
    assert c[1:3].tensors["ids"].tolist() == [1, 2]
    assert c[[4, 0]].tensors["ids"].tolist() == [4, 0]
    assert c[torch.tensor([3, 3])].tensors["ids"].tolist() == [3, 3]
    assert c[:2].repeat_interleave(2).tensors["ids"].tolist() == [0, 0, 1, 1]
    assert Condition.cat([c[:1], c[4:]]).tensors["ids"].tolist() == [0, 4]


def test_condition_casts_only_what_floats():
    c = condition(2).to(dtype=torch.bfloat16)
    assert c.tensors["embedding"].dtype == torch.bfloat16
    assert c.tensors["ids"].dtype == torch.int64


def test_a_model_without_tokens_of_a_text_says_so() -> None:
    model = three_clouds()
    for look in (lambda: model.spans("a"), lambda: model.to_text("cross", torch.ones(1, 1, 1, 1))):
        with pytest.raises(UserError, match=r"analytic@.*no tokens of a text"):
            look()


def test_conditions_of_different_kinds_do_not_join():
    with pytest.raises(ValueError, match="different kinds"):
        Condition.cat([condition(1), Condition({"ids": torch.arange(1)})])


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guided_is_one_batched_forward_of_both_branches(scale):
    denoiser = three_clouds()
    z = torch.randn(4, 2, dtype=torch.float64)
    c = denoiser.encode_prompts(["a", "b", "a", "b"])
    for t in (300, torch.tensor([0, 300, 600, 999])):
        denoiser.forwards = 0
        cond, null, guided = denoiser.outputs(z, t, denoiser.widened(c), scale)
        assert denoiser.forwards == 8
        assert torch.equal(cond, denoiser.predict(z, t, c))
        assert torch.equal(null, denoiser.predict(z, t, denoiser.null(4)))
        torch.testing.assert_close(guided, null + scale * (cond - null))
    alone = denoiser.outputs(z, 300, c, scale)
    assert len(alone) == 1
    assert torch.equal(alone[0], denoiser.predict(z, 300, c))
    assert torch.equal(denoiser.outputs(z, 300, denoiser.widened(c), 1.0)[2], denoiser.predict(z, 300, c))


SCHEDULES = {"vp": NoiseSchedule.ddpm(), "flow": NoiseSchedule.rectified_flow()}


@pytest.mark.parametrize("kind", ["vp", "flow"])
@pytest.mark.parametrize("labels", [["a", "b", "a"], None])
@pytest.mark.parametrize("t", [1, 400, torch.tensor([5, 300, 990])])
def test_epsilon_is_the_score(kind, labels, t):
    denoiser = three_clouds(SCHEDULES[kind])
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (score,) = torch.autograd.grad(denoiser.log_prob_t(z, t, labels).sum(), z)
    c = denoiser.null(3) if labels is None else denoiser.encode_prompts(labels)
    sigma = denoiser.schedule.sigma(t)
    expected = -(sigma if sigma.ndim == 0 else sigma[:, None]) * score
    torch.testing.assert_close(denoiser.epsilon(z, t, c), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_says_the_same(prediction_type):
    reference, denoiser = three_clouds(), three_clouds(prediction_type=prediction_type)
    z = torch.randn(6, 2, dtype=torch.float64)
    c = denoiser.encode_prompts(["a"] * 6)
    for t in (0, 500, 999):
        torch.testing.assert_close(denoiser.epsilon(z, t, c), reference.epsilon(z, t, c))
    flow = three_clouds(SCHEDULES["flow"]), three_clouds(SCHEDULES["flow"], "flow")
    torch.testing.assert_close(*(d.epsilon(z, 500.0, c) for d in flow))


def test_information_averages_to_the_divergence():
    denoiser = three_clouds()
    n = 20_000
    z = denoiser.sample(["a"] * n, torch.Generator().manual_seed(0))
    assert within_three_errors(denoiser.information(z, ["a"] * n), exact_kl(denoiser, "a"))


def test_densities_are_normalised_and_marginals_add_up():
    denoiser = three_clouds()
    axis = torch.linspace(-6, 6, 301, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    cell = float(axis[1] - axis[0]) ** 2
    total = torch.zeros(len(z), dtype=torch.float64)
    for label in ("a", "b"):
        density = denoiser.log_prob(z, [label] * len(z)).exp()
        assert float(density.sum() * cell) == pytest.approx(1, abs=1e-6)
        total += 0.5 * density
    torch.testing.assert_close(denoiser.log_prob(z, None).exp(), total)
    assert float(denoiser.log_prob_t(z, 500, None).exp().sum() * cell) == pytest.approx(1, abs=1e-5)


def test_diagonal_covariances():
    arguments = ({"x": [1.0]}, {"x": 1.0}, NoiseSchedule.ddpm())
    wide = AnalyticDenoiser([[0.0, 1.0]], [[4.0, 0.25]], *arguments)
    z = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, 0.5]).double())
    torch.testing.assert_close(wide.log_prob(z, ["x"]), normal.log_prob(z).sum(1))
    draws = wide.sample(["x"] * 4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.std(0), torch.tensor([2.0, 0.5]).double(), rtol=0.05, atol=0)


def test_pictures_of_latents_come_back():
    denoiser = three_clouds()
    z = denoiser.sample(["a", "b", "b"], torch.Generator().manual_seed(0))
    pictures = denoiser.decode(z)
    assert pictures.shape == (3, 3, *denoiser.picture_size)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    torch.testing.assert_close(denoiser.encode_image(pictures), z, rtol=0, atol=1e-5)


def test_unknown_label_is_refused():
    with pytest.raises(UserError, match="no label 'c'"):
        three_clouds().encode_prompts(["a", "c"])


def test_labels_and_shapes_must_agree():
    with pytest.raises(ValueError, match="same labels"):
        AnalyticDenoiser([[0.0]], [1.0], {"a": [1]}, {"b": 1.0}, NoiseSchedule.ddpm())
    with pytest.raises(ValueError, match="component weights"):
        AnalyticDenoiser([[0.0]], [1.0], {"a": [1, 1]}, {"a": 1.0}, NoiseSchedule.ddpm())


def test_identity_follows_the_parameters():
    assert three_clouds().identity == three_clouds().identity
    other = AnalyticDenoiser([[0.0]], [1.0], {"a": [1]}, {"a": 1.0}, NoiseSchedule.ddpm())
    assert other.identity != three_clouds().identity
