"""The steered population against targets known in closed form, then its bookkeeping, then what it refuses.

With one Gaussian cloud every step is linear in z, so the sampler's own distribution, and its tilt, are exact at any
number of steps: nothing but Monte-Carlo error is left. Mixtures take the same code through several modes.
"""

from __future__ import annotations

import dataclasses
import math
import secrets

import pytest
import torch
from torch import Tensor

from benchmarks.closed_form import LatentPotential, LatentReward, quadratic, tilted
from benchmarks.steering import CommonNoise, draw
from mitune.analytic import AnalyticDenoiser
from mitune.errors import UserError
from mitune.information.llr import PathLLR
from mitune.noise import NoiseSchedule
from mitune.referees.weighted import WeightedSum
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.search.catalogue import SearchConfig
from mitune.search.path_contrast import PathContrast
from mitune.search.potentials import PathPotential, RewardPotential
from mitune.search.smc import Steered, steer
from mitune.search.tempering import temper_table
from tests.analytic import coefficients, three_clouds, within_three_errors

pytestmark = pytest.mark.fresh_draws

VP = NoiseSchedule.ddpm(rescale_zero_terminal_snr=True)
FLOW = NoiseSchedule.rectified_flow()
ANCESTRAL = SamplerConfig("ddpm", 10, guidance=1.0, spacing="trailing")
KINDS = {
    "vp": (VP, "v_prediction", ANCESTRAL),
    "vp, eta 0.6": (VP, "v_prediction", SamplerConfig("ddim", 10, eta=0.6, guidance=1.0, spacing="trailing")),
    "flow": (FLOW, "flow", SamplerConfig("ddim", 10, eta=1.0, guidance=1.0, spacing="leading")),
}
# Under the steep line a few particles carry all the weight: a mean of 300 populations is then far from normal.
REWARDS = {
    "linear": ([0.5, -0.7], [0.0, 0.0]),
    "steep": ([0.8, -1.1], [0.0, 0.0]),
    "quadratic": ([1.0, 0.2], [2.0, 0.7]),
}


def reward(kind: str, differentiable: bool = True) -> LatentReward:
    slope, curvature = REWARDS[kind]
    return LatentReward(kind, lambda z, _: quadratic(z, slope, curvature), differentiable)


def one_cloud(schedule: NoiseSchedule, prediction_type: str) -> AnalyticDenoiser:
    return AnalyticDenoiser([[0.5, -0.3]], [[0.7, 1.4]], {"a": [1.0]}, {"a": 1.0}, schedule, prediction_type)


def as_sampled(denoiser: AnalyticDenoiser, sampler: SamplerConfig) -> AnalyticDenoiser:
    """What the sampler makes of one cloud: each step is z' = (a + b c) z + … + std n, so it stays one."""
    schedule, m, s = denoiser.schedule, denoiser.means, denoiser.variances
    mean, variance = torch.zeros_like(m), torch.ones_like(s)
    for at in coefficients(schedule, sampler):
        alpha, sigma = float(schedule.alpha(at.t)), float(schedule.sigma(at.t))
        slope = sigma / (alpha**2 * s + sigma**2)  # ε̂ = slope (z − α m)
        factor = at.a + at.b * slope
        mean = factor * mean - at.b * slope * alpha * m
        variance = factor**2 * variance + at.std**2
    return AnalyticDenoiser(mean, variance, {"a": [1.0]}, {"a": 1.0}, schedule, denoiser.prediction_type)


def run(
    denoiser: AnalyticDenoiser, repeats: int, particles: int, potential, sampler: SamplerConfig, **settings
) -> Steered:
    """``repeats`` independent populations of one prompt, with fresh noise."""
    seeds = [secrets.randbits(62) for _ in range(repeats * particles)]
    noise = CommonNoise(len(seeds), denoiser.latent_shape, secrets.randbits(62))
    steering = SearchConfig(**settings)
    return steer(
        denoiser, ["a"] * repeats, seeds, sampler, potential, steering, noise=noise, batch_size=10_000
    )


CASES = [
    ("vp", "linear", "gradient", "linear", "ssp"),
    ("vp", "quadratic", "bootstrap", "linear", "systematic"),
    ("vp, eta 0.6", "quadratic", "gradient", "gamma", "residual"),
    ("flow", "linear", "bootstrap", "exponential", "multinomial"),
    ("flow", "quadratic", "gradient", "constant", "stratified"),
]


@pytest.mark.parametrize(("kind", "which", "proposal", "tempering", "resampling"), CASES)
@pytest.mark.parametrize("cap", [1.0, 0.25])
def test_evidence_and_moments_are_exact(kind, which, proposal, tempering, resampling, cap):
    schedule, prediction_type, sampler = KINDS[kind]
    denoiser = one_cloud(schedule, prediction_type)
    log_z, target = tilted(as_sampled(denoiser, sampler), "a", *REWARDS[which])
    out = run(
        denoiser, 300, 24, LatentPotential(reward(which), denoiser), sampler, proposal=proposal,
        tempering=tempering, gamma=0.07, resampling=resampling, ess=1.0, cap=cap,
    )  # fmt: skip
    assert out.resampled.sum() > 0
    ratio = (out.log_evidence - log_z).exp()
    # E Ẑ = Z at any number of particles; false alarm 1e-4 by 4 errors, and the error itself is small enough to tell.
    error = float(ratio.std()) / 300**0.5
    assert error < 0.1
    assert abs(float(ratio.mean()) - 1) < 4 * error
    # Ẑ-weighted means are ratios of unbiased estimates, and of all 300 populations together.
    for values, truth in (
        (out.latents, target.means[0]),
        (out.latents.square(), target.means[0].square() + target.variances[0]),
    ):
        off = ratio.unsqueeze(1) * (out.mean(values) - truth)
        assert (off.mean(0).abs() < 4 * off.std(0) / 300**0.5).all()


def test_more_particles_come_closer():
    denoiser = one_cloud(VP, "v_prediction")
    _, target = tilted(as_sampled(denoiser, ANCESTRAL), "a", *REWARDS["linear"])
    error = {}
    for particles, repeats in ((16, 256), (256, 64)):
        out = run(denoiser, repeats, particles, LatentPotential(reward("linear", False), denoiser), ANCESTRAL)
        error[particles] = float((out.mean(out.latents) - target.means[0]).square().mean().sqrt())
    # 256 and 64 repeats of two numbers place each error within 3 % and 6 %: the ratio of 4 within 0.3 (one sigma).
    slope = math.log(error[256] / error[16]) / math.log(16)
    assert -0.68 < slope < -0.32


@pytest.mark.parametrize("dimensions", [2, 16])
@pytest.mark.parametrize("adaptive", [True, False])
def test_modes_of_a_mixture_get_their_masses(dimensions, adaptive):
    means = torch.zeros(2, dimensions, dtype=torch.float64)
    means[:, 0] = torch.tensor([2.5, -2.5])
    denoiser = AnalyticDenoiser(means, [1.0, 1.0], {"a": [1, 2]}, {"a": 1.0}, VP, "v_prediction")
    slope = torch.zeros(dimensions, dtype=torch.float64)
    slope[:2] = torch.tensor([0.5, 1.0])
    log_z, target = tilted(denoiser, "a", slope, 0.0)
    mass = float(target.encode_prompts(["a"]).tensors["log_weights"][0, 0].exp())  # 0.86, of 1/3 before
    potential = LatentPotential(LatentReward("line", lambda z, _: quadratic(z, slope, 0.0)), denoiser)
    # The wide variance is exact for clouds of unit variance; 40 steps are within 0.02 of the limit (Z within 4 %).
    sampler = SamplerConfig("ddpm", 40, variance="large", guidance=1.0, spacing="trailing")
    tempering = "adaptive" if adaptive else "linear"
    out = run(denoiser, 24, 128, potential, sampler, tempering=tempering)
    found = out.mean((out.latents[..., 0] > 0).double())
    truth = mass + (1 - mass) * 0.02275 / 2 - mass * 0.00135  # tails across the middle: means 3.0 and −2.0
    assert abs(float(found.mean()) - truth) < 4 * float(found.std()) / 24**0.5 + 0.03
    heights = out.mean(out.latents[..., 1])
    assert abs(float(heights.mean()) - 1.0) < 4 * float(heights.std()) / 24**0.5 + 0.03
    if not adaptive:
        ratio = (out.log_evidence - log_z).exp()
        assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 24**0.5 + 0.06


def test_adaptive_tempering_keeps_the_sample_size():
    denoiser = three_clouds(VP, "v_prediction")
    steep = LatentReward("steep", lambda z, _: 8 * z[:, 0] - 5 * z.square().sum(1), differentiable=False)
    out = run(denoiser, 20, 60, LatentPotential(steep, denoiser), ANCESTRAL, ess=0.4)
    assert (out.tempers[-1] == 1).all()
    assert (out.tempers.diff(dim=0) >= 0).all()
    bound = temper_table("adaptive", 0.008, 10).unsqueeze(1)
    assert (out.tempers <= bound).all()
    held = (out.tempers < bound) & (out.tempers.diff(dim=0, prepend=torch.zeros(1, 20)) > 0)
    assert held.any()
    torch.testing.assert_close(out.sizes[held], torch.full_like(out.sizes[held], 24.0), rtol=0, atol=1e-2)


# -- the model's own information as potential -----------------------------------------------------------------


def test_llr_steers_to_the_sharpened_prompt():
    denoiser = three_clouds(VP, "v_prediction")
    sampler = SamplerConfig("ddpm", 40, guidance=1.0, spacing="trailing")
    out = run(denoiser, 64, 100, PathPotential(PathLLR()), sampler, tempering="linear")
    axis = torch.linspace(-5, 5, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    labels = ["a"] * len(grid)
    log_p = denoiser.log_prob(grid, labels)
    means = {
        power: ((log_p + power * denoiser.information(grid, labels)).softmax(0)[:, None] * grid).sum(0)
        for power in (0, 1)
    }
    found = out.mean(out.latents)
    # What p(z|a) (p(z|a)/p(z)) has for a mean, and p(z|a) has not.
    error = 4 * found.std(0) / 64**0.5 + 0.04
    assert ((found.mean(0) - means[1]).abs() < error).all()
    assert ((found.mean(0) - means[0]).abs() > error).any()


def test_contrast_with_the_null_prompt_is_llr():
    denoiser = three_clouds()
    labels = ["a", "b", "a"]
    null = denoiser.null(3)
    both = [PathLLR(), PathContrast(denoiser, [null], batch_size=2)]
    sample(
        denoiser,
        denoiser.encode_prompts(labels),
        [5, 6, 7],
        SamplerConfig("ddpm", 15, guidance=2.0, spacing="leading"),
        both,
    )
    torch.testing.assert_close(both[1].result(), both[0].result())
    out = steer(
        denoiser, ["a", "b"], list(range(16)), SamplerConfig("ddpm", 8, guidance=2.0, spacing="leading"),
        PathPotential(PathContrast(denoiser, [denoiser.encode_prompts(["b", "a"]).repeat_interleave(8)], 5)),
        SearchConfig(alpha=0.3, ess=0.9),
    )  # fmt: skip
    assert out.resampled.sum() > 0
    assert out.forwards == 8 * 16 * 2 + 7 * 16  # the last step has no noise, so no density
    seen = denoiser.information(out.latents.flatten(0, 1), ["a"] * 8 + ["b"] * 8)
    assert seen.mean() > 0.2
    with pytest.raises(ValueError, match="other prompt"):
        PathContrast(denoiser, [])


# -- bookkeeping -----------------------------------------------------------------------------------------------


def steered(prompts, seeds, batch_size=64, potential=None, sampler=None, **settings):
    denoiser = three_clouds(VP, "v_prediction")
    potential = potential or LatentPotential(reward("steep"), denoiser)
    settings = {"alpha": 0.2, "ess": 0.9, "resampling": "systematic"} | settings
    sampler = sampler or dataclasses.replace(ANCESTRAL, guidance=2.0)
    return steer(
        denoiser, prompts, seeds, sampler, potential, SearchConfig(**settings), batch_size=batch_size
    )


def test_neither_batches_nor_other_prompts_matter():
    prompts = ["a", "b", "a"]
    seeds = list(range(21))
    together = steered(prompts, seeds)
    assert (together.resampled > 0).all()
    small = steered(prompts, seeds, batch_size=4)
    torch.testing.assert_close(small.latents, together.latents, rtol=0, atol=1e-9)
    for row, prompt in enumerate(prompts):
        alone = steered([prompt], seeds[7 * row : 7 * row + 7])
        torch.testing.assert_close(alone.latents[0], together.latents[row], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.log_evidence[0], together.log_evidence[row])
        assert torch.equal(alone.roots[0], together.roots[row])
    assert together.forwards == 2 * 21 * 10


def test_ancestry_leads_back_to_the_roots():
    out = steered(["a", "b"], list(range(20)))
    roots = torch.arange(10).expand(2, 10)
    for chosen in out.ancestry:
        roots = roots.gather(1, chosen)
    assert torch.equal(roots, out.roots)
    assert any(len(row.unique()) < 10 for row in out.roots)
    assert out.log_weights.logsumexp(1).abs().max() < 1e-12


def test_no_ancestor_owns_more_than_the_cap():
    free, held = (
        steered(["a", "b"], list(range(80)), cap=cap, proposal="bootstrap", alpha=0.05) for cap in (1.0, 0.2)
    )

    def largest(out: Steered) -> int:
        return max(int(row.bincount().max()) for row in out.roots)

    assert largest(free) > 12
    assert largest(held) <= 0.2 * 40 + 1


def test_without_resampling_it_is_the_plain_sampler():
    denoiser = three_clouds()
    sampler = SamplerConfig("ddpm", 12, guidance=2.0, spacing="leading")
    out = steer(
        denoiser, ["a", "b"], list(range(6)), sampler, LatentPotential(reward("linear", False), denoiser),
        SearchConfig(ess=0.0), observers=[watched := PathLLR()],
    )  # fmt: skip
    plain = PathLLR()
    z = sample(denoiser, denoiser.encode_prompts(["a"] * 3 + ["b"] * 3), range(6), sampler, [plain])
    torch.testing.assert_close(out.latents.flatten(0, 1), z, rtol=0, atol=1e-9)
    torch.testing.assert_close(watched.result(), plain.result())
    torch.testing.assert_close(out.log_weights, quadratic(out.latents, *REWARDS["linear"]).log_softmax(1))
    assert (out.ancestry == torch.arange(3)).all()


def test_drift_is_bounded_and_still_exact():
    denoiser = one_cloud(VP, "v_prediction")
    log_z, _ = tilted(as_sampled(denoiser, ANCESTRAL), "a", *REWARDS["linear"])
    potential = LatentPotential(reward("linear"), denoiser)
    out = run(denoiser, 300, 24, potential, ANCESTRAL, max_drift=0.1, tempering="linear")
    ratio = (out.log_evidence - log_z).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 300**0.5
    assert not torch.equal(
        *(steered(["a"], [1, 2], max_drift=limit, ess=0.0).latents for limit in (None, 0.1))
    )


def test_rewards_of_pictures_and_sums_of_rewards():
    denoiser = three_clouds(VP, "v_prediction")

    class Light:
        name, differentiable = "light", True

        def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
            assert pictures.shape[1:] == (3, 1, 2)
            assert set(prompts) == {"a"}
            return 20 * pictures.mean((1, 2, 3))

    class Dark(Light):
        name = "dark"

        def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
            return -super().score(pictures, prompts)

    light, dark = Light(), Dark()
    both = WeightedSum([(1.5, light), (0.5, dark)])
    assert both.name == "1.5*light+0.5*dark"
    potential = [
        RewardPotential(each, denoiser) for each in (light, both, WeightedSum([(1.0, light), (1.0, dark)]))
    ]
    seeds = list(range(16))
    one, same, none = (steered(["a"], seeds, potential=each) for each in potential)
    torch.testing.assert_close(same.latents, one.latents, rtol=0, atol=1e-4)
    assert one.mean(one.latents).sum() > none.mean(none.latents).sum() + 0.5


def test_draws_follow_the_weights():
    out = steered(["a", "b"], list(range(8)))
    fixed = dataclasses.replace(out, log_weights=torch.tensor([[0.7, 0.3, 0, 0], [0, 0, 0, 1]]).log())
    chosen = draw(fixed, 4000, secrets.randbits(62))
    assert (chosen[1] == 3).all()
    assert set(chosen[0].tolist()) == {0, 1}
    assert (
        within_three_errors((chosen[0] == 0).double(), 0.7)
        or abs(float((chosen[0] == 0).double().mean()) - 0.7) < 0.03
    )


# -- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("differentiable", [True, False])
def test_a_failed_reward_kills_its_particle_alone(bad, differentiable):
    def score(z: Tensor, prompts: list[str]) -> Tensor:
        line = z[:, 0] * 1.0
        return torch.where(line > 0.9, bad * line.detach().abs() + 0 * line, line)

    denoiser = three_clouds(VP, "v_prediction")
    potential = LatentPotential(LatentReward("spoilt", score, differentiable), denoiser)
    out = steered(["a", "b"], list(range(80)), potential=potential, alpha=1.0, ess=0.5)
    assert out.died.sum() > 0
    failed = ~out.potential.isfinite()
    assert failed.any()
    assert (out.log_weights[failed] == -math.inf).all()
    assert out.latents.isfinite().all()
    assert out.log_evidence.isfinite().all()
    assert out.mean(out.potential).isfinite().all()
    assert not failed.gather(1, draw(out, 500)).any()


def test_a_prompt_with_no_particle_left_is_named():
    def score(z: Tensor, prompts: list[str]) -> Tensor:
        return torch.tensor([math.nan if prompt == "b" else 1.0 for prompt in prompts])

    denoiser = three_clouds(VP, "v_prediction")
    potential = LatentPotential(LatentReward("never", score, False), denoiser)
    with pytest.raises(UserError, match=r"step 0 of 10 the reward is NaN or infinite.*'b'"):
        steered(["a", "b"], list(range(8)), potential=potential)


def test_settings_out_of_range_are_refused():
    for key, values in {
        "alpha": (0.0, -1.0, math.nan, math.inf), "ess": (-0.1, 1.1), "cap": (0.0, 1.5), "max_drift": (0.0,),
        "proposal": ("gradiant",), "resampling": ("sistematic",),
    }.items():  # fmt: skip
        for value in values:
            with pytest.raises(UserError, match=rf"search\.{key}"):
                SearchConfig(**{key: value}).check("search.")


def test_what_cannot_be_steered_is_refused():
    with pytest.raises(UserError, match=r"search\.particles must be at least 1"):
        steered(["a"], [])
    with pytest.raises(ValueError, match="do not divide"):
        steered(["a", "b"], [1, 2, 3])
    for sampler in (
        SamplerConfig("ddim", 10, eta=0.0, guidance=7.5, spacing="leading"),
        SamplerConfig("ddpm", 1, guidance=7.5, spacing="leading"),
    ):
        with pytest.raises(UserError, match="no noise"):
            steered(["a"], [1, 2], sampler=sampler)
    denoiser = three_clouds(VP, "v_prediction")
    with pytest.raises(
        UserError, match=r"proposal=gradient needs a differentiable reward, and 'linear' is not"
    ):
        steered(
            ["a"], [1, 2], potential=LatentPotential(reward("linear", False), denoiser), proposal="gradient"
        )
    with pytest.raises(UserError, match="'llr' is not"):
        steered(["a"], [1, 2], potential=PathPotential(PathLLR()), proposal="gradient")
    cut = LatentReward("cut", lambda z, _: z.detach().sum(1))
    with pytest.raises(UserError, match="'cut' says it is differentiable"):
        steered(["a"], [1, 2], potential=LatentPotential(cut, denoiser))
    with pytest.raises(ValueError, match="for 2 pictures"):
        steered(["a"], [1, 2], potential=LatentPotential(LatentReward("wide", lambda z, _: z), denoiser))
    blind = three_clouds(VP)
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        steer(blind, ["a"], [1], ANCESTRAL, LatentPotential(reward("linear"), blind))
