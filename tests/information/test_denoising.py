"""Denoising errors of many conditions on shared noise, against their definition and themselves in other batches."""

from __future__ import annotations

import pytest
import torch

from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.information.denoising import denoising_errors, denoising_terms, gaps
from mitune.information.elbo import elbo
from mitune.information.noising import Noising
from mitune.information.times import Weighting, time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.seeds import candidate_noise, candidate_seed
from tests.analytic import scene, three_clouds
from tests.information.mixtures import mixture, pictures, rmse

SCHEDULE = NoiseSchedule.ddpm()


def test_independent_errors_are_their_definition():
    denoiser, z0, labels = scene(4)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 3, 100, 900)
    both = denoising_errors(
        denoiser, z0, [denoiser.null(4), c], Noising(t, weights, [1, 2, 3, 4]), reference=0
    )
    for i, seed in enumerate([1, 2, 3, 4]):
        maps = candidate_noise(candidate_seed(seed, "forward", 0), (2,), 2).double()
        error, mi = torch.zeros(2, dtype=torch.float64), 0.0
        for noise, time, weight in zip(maps, t.tolist(), weights, strict=True):
            z = SCHEDULE.add_noise(z0[i : i + 1], noise, time)
            eps = [denoiser.epsilon(z, time, k) for k in (denoiser.null(1), c[i])]
            error += weight * torch.stack([(e - noise).square().sum() for e in eps])
            mi += float(weight * (eps[1] - eps[0]).square().sum())
        torch.testing.assert_close(both.error[i], error, rtol=1e-6, atol=1e-6)
        assert both.mi is not None
        assert float(both.mi[i, 1]) == pytest.approx(mi, rel=1e-6)
        assert float(both.mi[i, 0]) == 0


def test_coupled_error_is_minus_the_log_likelihood_of_walking_back():
    # Two times by hand: z_s at t = 400, z_t at t = 600, starting from z_300; reverse step variance 1 − ᾱ_t/ᾱ_s.
    denoiser, z0, labels = scene(2)
    c = denoiser.encode_prompts(labels)
    t = torch.tensor([400, 600])
    ours = elbo(denoiser, z0, c, Noising(t, torch.ones(2), [8, 9], noise="coupled"))
    bar = {time: SCHEDULE.alpha_bar[time] for time in (300, 400, 600)}
    for i, seed in enumerate((8, 9)):
        maps = candidate_noise(candidate_seed(seed, "forward", 0), (2,), 2).double()
        z = bar[300].sqrt() * z0[i : i + 1] + (1 - bar[300]).sqrt() * maps[0]
        llr = 0.0
        for s, time, noise in ((300, 400, maps[1]), (400, 600, maps[2])):
            beta = 1 - bar[time] / bar[s]
            z_s, z = z, (1 - beta).sqrt() * z + beta.sqrt() * noise
            for sign, condition in ((1, c[i]), (-1, denoiser.null(1))):
                eps = denoiser.epsilon(z, time, condition)
                mean = (z - beta / (1 - bar[time]).sqrt() * eps) / (1 - beta).sqrt()
                llr -= sign * float((z_s - mean).square().sum() / (2 * beta))
        assert float(ours[i]) == pytest.approx(llr, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("times", [6, 7])
def test_antithetic_times_take_a_noise_and_its_negative(times):
    denoiser, z0, labels = scene(2)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, times, 100, 900)
    error = denoising_terms(denoiser, z0, [c], Noising(t, weights, [4, 5], noise="antithetic")).error
    for i, seed in enumerate((4, 5)):
        maps = candidate_noise(candidate_seed(seed, "forward", 0), (2,), (times + 1) // 2 - 1).double()
        for j in range(times):
            noise = maps[j // 2 : j // 2 + 1] * (1 if j % 2 == 0 else -1)
            z = SCHEDULE.add_noise(z0[i : i + 1], noise, int(t[j]))
            expected = weights[j] * (denoiser.epsilon(z, int(t[j]), c[i]) - noise).square().sum()
            assert float(error[i, j, 0]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("dimensions", [2, 64])
def test_antithetic_noise_is_nearer_the_truth_for_the_same_forwards(dimensions):
    denoiser = mixture(dimensions)
    z0, labels = pictures(denoiser, 400, seed=dimensions)
    exact = denoiser.information(z0, labels)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 20, 20, 1000)
    off = {
        noise: rmse(elbo(denoiser, z0, c, Noising(t, weights, range(400), 4000, noise)), exact)
        for noise in ("independent", "antithetic")
    }
    assert off["antithetic"] < 0.95 * off["independent"]


def test_the_orthogonal_form_is_the_velocitys_product():
    # RFMI: (1−t)/t · v̂_c·(v̂_c − v̂_∅), by hand with the raw outputs of a flow network.
    flow = NoiseSchedule.rectified_flow()
    denoiser = mixture(3, schedule=flow, prediction_type="flow")
    z0, labels = pictures(denoiser, 4, seed=0)
    c, null = denoiser.encode_prompts(labels), denoiser.null(4)
    t = torch.tensor([150.0, 400.0, 820.0], dtype=torch.float64)
    weights = flow.kappa_continuous(t)
    mi = denoising_terms(
        denoiser, z0, [null, c], Noising(t, weights, [1, 2, 3, 4]), reference=0, form="orthogonal"
    ).mi
    assert mi is not None
    for i in range(4):
        maps = candidate_noise(candidate_seed(i + 1, "forward", 0), (3,), 2).double()
        for j, time in enumerate(t.tolist()):
            z = flow.add_noise(z0[i : i + 1], maps[j], time)
            velocity = denoiser.predict(z, time, c[i])
            against = denoiser.predict(z, time, null[i])
            share = (1 - time / 1000) / (time / 1000)
            expected = share * float((velocity * (velocity - against)).sum())
            assert float(mi[i, j, 1]) == pytest.approx(expected, rel=1e-6)
    assert float(mi[:, :, 0].abs().max()) == 0


@pytest.mark.parametrize("schedule", [SCHEDULE, NoiseSchedule.rectified_flow()], ids=["vp", "flow"])
def test_a_path_has_the_marginals_of_its_schedule(schedule):
    # Noise of each time: standard normal; that of neighbouring times: correlated by (α_t/α_s) σ_s/σ_t.
    denoiser = mixture(2, schedule=schedule)
    seen = []
    epsilon = denoiser.epsilon
    denoiser.epsilon = lambda z, t, condition: (seen.append(z), epsilon(z, t, condition))[1]
    n = 4000
    t, weights = time_grid(schedule, 3, 100, 900)
    gaps(
        denoiser,
        torch.zeros(n, 2, dtype=torch.float64),
        [denoiser.null(n)],
        Noising(t, weights, range(n), 4 * n, "coupled"),
    )
    noise = torch.cat(seen).reshape(n, 3, 2) / schedule.sigma(t)[:, None]
    for j in range(3):
        error = (2 / (2 * n)) ** 0.5
        assert abs(float(noise[:, j].square().mean()) - 1) <= 4 * error
    for s, time in ((0, 1), (1, 2)):
        ratio = (
            schedule.alpha(t[time]) / schedule.alpha(t[s]) * schedule.sigma(t[s]) / schedule.sigma(t[time])
        )
        assert abs(float((noise[:, s] * noise[:, time]).mean() - ratio)) <= 4 * (2 / (2 * n)) ** 0.5


def test_an_emphasis_multiplies_the_terms_of_a_path():
    denoiser, z0, labels = scene(4)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 5, 50, 1000)
    emphasis = Weighting(SCHEDULE, "uniform", 50, 1000).emphasis(t)
    plain = denoising_terms(denoiser, z0, [c], Noising(t, weights, range(4), noise="coupled")).error
    tilted = denoising_terms(
        denoiser, z0, [c], Noising(t, weights, range(4), noise="coupled", emphasis=emphasis)
    ).error
    torch.testing.assert_close(tilted, plain * emphasis[:, None])
    with pytest.raises(ValueError, match="emphasis"):
        denoising_terms(denoiser, z0, [c], Noising(t, weights, range(4), emphasis=emphasis))


def test_another_path_is_another_draw_and_one_seed_is_one_noise():
    denoiser, z0, labels = scene(4)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 5, 50, 1000)
    first, second = (
        denoising_errors(denoiser, z0, [c], Noising(t, weights, range(4), path=path)).error for path in (0, 1)
    )
    assert not torch.isclose(first, second).any()
    same = z0[:1].expand(3, -1)
    shared = denoising_errors(denoiser, same, [c[[0, 0, 0]]], Noising(t, weights, [7, 7, 7])).error
    assert torch.equal(shared, shared[:1].expand(3, 1))


@pytest.mark.parametrize("noise", ["independent", "antithetic", "coupled"])
def test_results_do_not_depend_on_batching_or_company(noise):
    denoiser, z0, _labels = scene(6)
    a, b = (denoiser.encode_prompts([label] * 6) for label in ("a", "b"))
    conditions = [denoiser.null(6), a, b]
    t, weights = time_grid(SCHEDULE, 5, 20, 1000)
    whole = gaps(denoiser, z0, conditions, Noising(t, weights, range(6), 1000, noise))
    assert whole.shape == (6, 3)
    assert whole.dtype == torch.float32
    for batch_size in (1, 2, 7, 16):
        assert torch.equal(
            gaps(denoiser, z0, conditions, Noising(t, weights, range(6), batch_size, noise)), whole
        )
    order = [4, 1]
    few = gaps(denoiser, z0[order], [k[order] for k in conditions], Noising(t, weights, order, 4, noise))
    assert torch.equal(few, whole[order])
    torch.testing.assert_close(
        whole[:, 0] - whole[:, 1],
        elbo(denoiser, z0, a, Noising(t, weights, range(6), 8, noise)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_forwards_are_no_more_than_needed_and_no_larger_than_asked():
    denoiser, z0, labels = scene(4)
    conditions = [denoiser.encode_prompts(labels)] * 3
    sizes = []
    predict = denoiser.predict
    denoiser.predict = lambda z, t, condition: (sizes.append(len(z)), predict(z, t, condition))[1]
    t, weights = time_grid(SCHEDULE, 7, 0, 1000)
    for batch_size, forwards in ((12, 7), (84, 1), (2, 56)):
        sizes.clear()
        denoiser.forwards = 0
        gaps(denoiser, z0, conditions, Noising(t, weights, range(4), batch_size))
        assert denoiser.forwards == sum(sizes) == 4 * 7 * 3
        assert max(sizes) <= batch_size
        assert len(sizes) == forwards


def test_large_latents_keep_the_decimals_that_rank():
    # Errors of a 4×64×64 latent are of order 10⁵ nats, where float32 steps by 0.01: gaps must still tell 10⁻³.
    class Flat:
        schedule, prediction_type = SCHEDULE, "epsilon"
        device, dtype = torch.device("cpu"), torch.float32

        def epsilon(self, z, t, condition):
            return condition.tensors["bias"].reshape(-1, 1, 1, 1).expand_as(z)

    z0 = torch.zeros(1, 4, 64, 64)
    one, other = (Condition({"bias": torch.tensor([bias])}) for bias in (0.0, 1e-4))
    t, weights = torch.tensor([500]), torch.tensor([6.0], dtype=torch.float64)
    pair = gaps(Flat(), z0, [one, other], Noising(t, weights, [5]))  # type: ignore[arg-type]
    noise = candidate_noise(candidate_seed(5, "forward", 0), (4, 64, 64), 0).double()
    bias = torch.tensor(1e-4, dtype=torch.float32).double()
    exact = 6 * ((bias - noise).square() - noise.square()).sum()
    assert float(pair[0, 1] - pair[0, 0]) == pytest.approx(float(exact), abs=1e-3)


def test_forward_noise_is_not_the_noise_the_candidate_was_made_of():
    denoiser = three_clouds()
    seen = []
    epsilon = denoiser.epsilon
    denoiser.epsilon = lambda z, t, condition: (seen.append(z), epsilon(z, t, condition))[1]
    t, weights = torch.tensor([999]), torch.ones(1)
    gaps(denoiser, torch.zeros(1, 2, dtype=torch.float64), [denoiser.null(1)], Noising(t, weights, [5]))
    assert not torch.allclose(seen[0] / SCHEDULE.sigma(999), candidate_noise(5, (2,), 0).double())


def test_mistakes_are_refused():
    denoiser, z0, labels = scene(2)
    c = denoiser.encode_prompts(labels)
    t, weights = time_grid(SCHEDULE, 3, 0, 1000)
    with pytest.raises(UserError, match="did you mean 'coupled'"):
        gaps(denoiser, z0, [c], Noising(t, weights, [0, 1], noise="couple"))
    with pytest.raises(UserError, match="did you mean 'orthogonal'"):
        denoising_terms(denoiser, z0, [c], Noising(t, weights, [0, 1]), reference=0, form="orthogonl")
    with pytest.raises(ValueError, match="as many seeds"):
        gaps(denoiser, z0, [c], Noising(t, weights, [0]))
    with pytest.raises(ValueError, match="as many weights"):
        gaps(denoiser, z0, [c], Noising(t, weights[:2], [0, 1]))
    with pytest.raises(ValueError, match="rising"):
        gaps(denoiser, z0, [c], Noising(t.flip(0), weights, [0, 1], noise="coupled"))
