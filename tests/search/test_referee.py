"""Score distillation in closed form, each rule of the climb written out, then the climb as a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.closed_form import LatentReward
from mitune.analytic import AnalyticDenoiser
from mitune.errors import UserError
from mitune.noise import NoiseSchedule
from mitune.sampling.seeds import candidate_noise, candidate_seed
from mitune.search.catalogue import DistillConfig, RefereeConfig, RestartConfig, ViewsConfig
from mitune.search.referee import (
    Effort,
    balanced,
    begins_anew,
    climb,
    distill_weight,
    distillation,
    heard,
    last_step,
    learning_rate,
    random_times,
)
from tests.analytic import three_clouds, within_three_errors

VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()
KINDS = {"epsilon": VP, "v_prediction": VP, "sample": VP, "flow": FLOW}
AS_IT_IS = ViewsConfig(number=0)


def seen(slope: list[float]) -> LatentReward:
    """A judge of the grey strips of an analytic model: their points, weighed."""
    weights = torch.tensor(slope)
    return LatentReward("points", lambda shown, _: shown.mean(1)[:, 0] @ weights)


def one_cloud(kind: str) -> AnalyticDenoiser:
    return AnalyticDenoiser([[0.5, -0.3]], [[0.7, 1.4]], {"a": [1.0]}, {"a": 1.0}, KINDS[kind], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_distillation_of_one_cloud_is_as_its_score_says(kind: str) -> None:
    denoiser = one_cloud(kind)
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(64, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.linspace(50, 940, 64, dtype=torch.float64).round()
    alpha, sigma = (curve(t)[:, None] for curve in (denoiser.schedule.alpha, denoiser.schedule.sigma))
    found = distillation(denoiser, z, noise, t, denoiser.encode_prompts(["a"] * 64), 1.0)
    # ε̂ = σ (z_t − α m) / v, so ε̂ − ε is a pull to m, and noise of mean 0.
    spread = alpha**2 * denoiser.variances + sigma**2
    pull = sigma * alpha * (z - denoiser.means) / spread
    torch.testing.assert_close(found, pull + (sigma**2 / spread - 1) * noise, rtol=1e-6, atol=1e-7)


def test_its_mean_over_the_noise_leads_to_the_prompt_s_pictures() -> None:
    denoiser, n = one_cloud("epsilon"), 20_000
    z = torch.tensor([[2.0, -1.0]], dtype=torch.float64).expand(n, 2)
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.full((n,), 500.0)
    found = distillation(denoiser, z, noise, t, denoiser.encode_prompts(["a"] * n), 1.0)
    alpha, sigma = float(VP.alpha(500)), float(VP.sigma(500))
    truth = sigma * alpha * (z[0] - denoiser.means[0]) / (alpha**2 * denoiser.variances[0] + sigma**2)
    assert all(within_three_errors(found[:, i], float(truth[i])) for i in range(2))


def test_guidance_is_in_it() -> None:
    denoiser = three_clouds()
    generator = torch.Generator().manual_seed(2)
    z, noise = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([100, 200, 300, 400, 500])
    condition = denoiser.encode_prompts(["a"] * 5)
    found = distillation(denoiser, z, noise, t, denoiser.widened(condition), 7.5)
    noisy = VP.add_noise(z, noise, t)
    null, told = denoiser.epsilon(noisy, t, denoiser.null(5)), denoiser.epsilon(noisy, t, condition)
    torch.testing.assert_close(found, null + 7.5 * (told - null) - noise)


def test_a_flow_and_a_diffusion_say_the_same_at_one_ratio_of_noise() -> None:
    flow, diffusion = three_clouds(FLOW, "flow"), three_clouds(VP, "v_prediction")
    generator = torch.Generator().manual_seed(3)
    z, noise = (torch.randn(4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    same = torch.tensor(VP.times_at((sigma / (1 - sigma)).tolist()), dtype=torch.float64)
    condition = flow.encode_prompts(["a"] * 4)
    straight = distillation(flow, z, noise, 1000 * sigma, flow.widened(condition), 4.0)
    curved = distillation(diffusion, z, noise, same, diffusion.widened(condition), 4.0)
    torch.testing.assert_close(straight, curved, rtol=1e-6, atol=1e-7)


def test_the_referee_s_move_has_the_length_asked_for() -> None:
    generator = torch.Generator().manual_seed(4)
    pull, own = (torch.randn(4, 2, 3, generator=generator) for _ in range(2))
    pull = pull * torch.tensor([1e-20, 1.0, 1e6, 1.0])[:, None, None]
    pull[3] = 0
    found = balanced(pull, own, 2.0)
    lengths = own.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), 2 * lengths * torch.tensor([1.0, 1, 1, 0]))
    torch.testing.assert_close(found[1] / found[1].norm(), pull[1] / pull[1].norm())
    # Without distillation: of root mean square 2. What is not finite moves nothing, and nobody else.
    pull[0, 0, 0] = math.nan
    found = balanced(pull, None, 2.0)
    sizes = found.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(sizes, torch.tensor([0.0, 2, 2, 0]))


def test_the_defaults_are_the_published_schedule() -> None:
    own = RefereeConfig()
    assert [step for step in range(160) if begins_anew(own, step)] == [40, 100]
    assert [heard(own, step) for step in (0, 149, 150, 159)] == [True, True, False, False]
    rates = [learning_rate(own, step) for step in range(160)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[85] == pytest.approx(0.75)
    assert rates[159] == pytest.approx(0.5, abs=1e-3)
    # 800 to 400, times 2 over a latent of 64 x 64.
    weights = [distill_weight(own, step) * 4096 / 2 for step in (0, 80, 160)]
    assert weights == pytest.approx([800, 600, 400])
    times = random_times(three_clouds(), torch.linspace(0, 1, 10_001, dtype=torch.float64), own.distill)
    assert (float(times.min()), float(times.max())) == (50, 948)
    assert (times == times.round()).all()
    counts = times.bincount() if not times.is_floating_point() else times.long().bincount()
    assert set(counts[50:949].tolist()) <= {11, 12, 13}
    smooth = random_times(three_clouds(FLOW, "flow"), torch.tensor([0.0, 0.5, 1.0]), own.distill)
    torch.testing.assert_close(smooth, torch.tensor([50.0, 499.0, 948.0]))


def test_nothing_follows_the_referee_where_there_is_no_distillation() -> None:
    silent = DistillConfig(weight=[0.0, 0.0])
    assert last_step(RefereeConfig(distill=silent)) == 150
    assert last_step(RefereeConfig(distill=silent, referee_steps=None)) == 160
    denoiser, effort = three_clouds(), Effort()
    settings = RefereeConfig(steps=5, referee_steps=3, views=AS_IT_IS, distill=silent, warmup=0)
    climb(denoiser, ["a"], [1], seen([1.0, 0.0]), settings, effort=effort)
    assert denoiser.forwards == 0
    assert effort.counts == {"judged": 3, "looked": 0, "decoded": 3, "silent": 0}


def test_a_climb_is_the_plain_loop() -> None:
    denoiser, slope = three_clouds(), torch.tensor([0.6, -0.8], dtype=torch.float64)
    settings = RefereeConfig(
        steps=7, referee_steps=5, referee_weight=1.5, lr=0.8, min_lr=0.3, warmup=2, noise=0.1, end_noise=0.02,
        views=AS_IT_IS, distill=DistillConfig(weight=[0.3, 0.1], guidance=3.0, times=[0.1, 0.9]),
        restart=RestartConfig(decay=0.7, start=2, every=2),
    )  # fmt: skip
    seed = 1234
    found = climb(denoiser, ["b"], [seed], seen(slope.tolist()), settings)

    def numbers(what: str) -> Tensor:
        return candidate_noise(candidate_seed(seed, what, 0), (2,), 20).double()

    times = torch.Generator().manual_seed(candidate_seed(seed, "time", 0))
    shakes, noises = iter(numbers("langevin")), iter(numbers("distill"))
    z = candidate_noise(seed, (2,), 0)[0].double()
    mean = z
    for step in range(7):
        if step in (2, 4):
            z = mean
        referee = step < 5
        t = math.floor(100 + float(torch.rand(1, generator=times, dtype=torch.float64)) * 801)
        alpha, sigma, noise = float(VP.alpha(t)), float(VP.sigma(t)), next(noises)
        noisy = (alpha * z + sigma * noise)[None]
        null = denoiser.epsilon(noisy, t, denoiser.null(1))[0]
        told = denoiser.epsilon(noisy, t, denoiser.encode_prompts(["b"]))[0]
        weight = 0.1 + 0.1 * (1 + math.cos(math.pi * step / 7))
        own = weight * (null + 3 * (told - null) - noise)
        shake = 0.1 if referee else 0.02
        if referee:
            rate = 0.8 * (step + 1) / 2 if step < 2 else 0.3 + 0.25 * (1 + math.cos(math.pi * (step - 2) / 5))
            z = z - rate * (-1.5 * own.norm() * slope / slope.norm() + shake * next(shakes))
        z = z - own + shake * next(shakes)
        mean = 0.7 * mean + 0.3 * z
    # The judge sees float32.
    torch.testing.assert_close(found[0], z, rtol=1e-6, atol=1e-6)


def test_a_judge_is_climbed_and_distillation_holds_back() -> None:
    denoiser, right = three_clouds(), seen([1.0, 0.0])
    prompts, seeds = ["a"] * 64, list(range(64))

    def end(**changes) -> Tensor:
        own = {
            "steps": 60,
            "warmup": 0,
            "noise": 0.05,
            "views": AS_IT_IS,
            "restart": RestartConfig(every=None),
        }
        return climb(denoiser, prompts, seeds, right, RefereeConfig(**{**own, **changes}))

    mild = DistillConfig(weight=[0.3, 0.1], guidance=1.0)
    alone = end(referee_weight=0.0, distill=mild)[:, 0].mean()
    both = end(referee_weight=0.7, distill=mild)[:, 0].mean()
    away = end(referee_weight=0.2, distill=DistillConfig(weight=[0.0, 0.0]), referee_steps=None)[:, 0].mean()
    assert alone + 0.3 < both
    # No picture of "a", whose clouds are at 1 and -1: up to where a strip is white, and shows no more.
    assert float(away) > 3.5 > 2.5 > float(both)


def views_of(number: int, **more) -> ViewsConfig:
    return ViewsConfig(number=number, size=8, **more)


@pytest.mark.parametrize("views", [AS_IT_IS, views_of(3), views_of(4, hardest=2)])
@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_a_latent_is_the_same_whatever_its_batch(kind: str, views: ViewsConfig) -> None:
    denoiser, judge = three_clouds(KINDS[kind], kind), LatentReward("mean", _mean)
    settings = RefereeConfig(
        steps=6, referee_steps=5, warmup=1, views=views, restart=RestartConfig(start=2, every=2)
    )
    prompts, seeds = ["a", "b", "a", "b", "b"], [5, 6, 7, 8, 9]
    together = climb(denoiser, prompts, seeds, judge, settings)
    split = climb(denoiser, prompts, seeds, judge, settings, batch_size=2)
    assert (together == split).all()
    back = climb(denoiser, prompts[::-1], seeds[::-1], judge, settings).flip(0)
    assert (together == back).all()
    for row in range(5):
        alone = climb(denoiser, prompts[row : row + 1], seeds[row : row + 1], judge, settings)
        assert (alone[0] == together[row]).all()


def _mean(shown: Tensor, prompts: list[str]) -> Tensor:
    signs = torch.tensor([1.0 if prompt == "a" else -1.0 for prompt in prompts])
    return signs * shown.flatten(1).square().mean(1)


def test_the_hardest_views_are_those_that_count() -> None:
    judged: list[int] = []

    def score(shown: Tensor, prompts: list[str]) -> Tensor:
        judged.append(len(shown))
        return shown.flatten(1).mean(1)

    effort = Effort()
    settings = RefereeConfig(steps=1, referee_steps=1, warmup=0, views=views_of(6, hardest=2))
    climb(three_clouds(), ["a", "b"], [1, 2], LatentReward("mean", score), settings, effort=effort)
    assert judged == [12, 4]
    assert effort.counts == {"judged": 4, "looked": 12, "decoded": 2, "silent": 0}

    kept: list[Tensor] = []
    whole: list[Tensor] = []

    def watched(shown: Tensor, prompts: list[str]) -> Tensor:
        (kept if len(shown) == 4 else whole).append(shown.detach().flatten(1).mean(1))
        return shown.flatten(1).mean(1)

    climb(three_clouds(), ["a", "b"], [1, 2], LatentReward("mean", watched), settings)
    least = whole[0].view(2, 6).sort(1).values[:, :2]
    torch.testing.assert_close(kept[0].view(2, 2), least)


def test_it_starts_where_it_is_told_to() -> None:
    settings = RefereeConfig(
        steps=1, referee_steps=0, referee_weight=0.0, end_noise=0.0, distill=DistillConfig(weight=[0.0, 0.0])
    )
    start = torch.randn(2, 2, dtype=torch.float64)
    found = climb(three_clouds(), ["a", "b"], [1, 2], seen([1.0, 0.0]), settings, start)
    assert (found == start).all()
    noise = torch.stack([candidate_noise(seed, (2,), 0)[0] for seed in (1, 2)]).double()
    assert (climb(three_clouds(), ["a", "b"], [1, 2], seen([1.0, 0.0]), settings) == noise).all()


@pytest.mark.parametrize(
    ("function", "differentiable", "hint"),
    [
        (
            lambda shown, _: shown.flatten(1).mean(1),
            False,
            "needs a reward with a gradient, and 'one' has none",
        ),
        (lambda shown, _: shown.detach().flatten(1).mean(1), True, "no gradient reaches its score"),
    ],
)
def test_a_judge_without_gradient_is_refused(
    function: Callable[..., Tensor], differentiable: bool, hint: str
) -> None:
    with pytest.raises(UserError, match=hint):
        climb(three_clouds(), ["a"], [1], LatentReward("one", function, differentiable))


def test_a_score_that_is_no_number_moves_nothing_of_its_own_alone() -> None:
    def broken(shown: Tensor, prompts: list[str]) -> Tensor:
        good = shown.flatten(1).mean(1)
        return torch.where(torch.tensor([prompt == "a" for prompt in prompts]), good, good / 0)

    settings = RefereeConfig(steps=3, referee_steps=3, warmup=0, views=AS_IT_IS)
    found = climb(three_clouds(), ["a", "b"], [1, 2], LatentReward("broken", broken), settings)
    whole = climb(three_clouds(), ["a"], [1], LatentReward("broken", broken), settings)
    assert found.isfinite().all()
    assert (found[0] == whole[0]).all()


def test_latents_that_the_judge_leaves_alone_are_counted() -> None:
    def flat(shown: Tensor, prompts: list[str]) -> Tensor:
        told = torch.tensor([1.0 if prompt == "a" else 0.0 for prompt in prompts])
        return told * shown.flatten(1).mean(1)

    settings, effort = RefereeConfig(steps=2, referee_steps=2, warmup=0, views=AS_IT_IS), Effort()
    climb(three_clouds(), ["a", "b", "b"], [1, 2, 3], LatentReward("flat", flat), settings, effort=effort)
    assert effort.silent == 2


@pytest.mark.parametrize("hardest", [None, 3])
def test_the_judge_never_sees_more_views_at_once_than_it_may(hardest: int | None) -> None:
    seen_at_once: list[int] = []

    def score(shown: Tensor, prompts: list[str]) -> Tensor:
        seen_at_once.append(len(shown))
        return _mean(shown, prompts)

    settings = RefereeConfig(steps=2, referee_steps=2, warmup=0, views=views_of(5, hardest=hardest))
    prompts, seeds = ["a", "b", "a"], [1, 2, 3]
    whole = climb(three_clouds(), prompts, seeds, LatentReward("mean", score), settings)
    assert max(seen_at_once) == 15
    seen_at_once.clear()
    few = Effort()
    found = climb(
        three_clouds(), prompts, seeds, LatentReward("mean", score), settings, batch_size=2, effort=few
    )
    assert max(seen_at_once) == 2
    assert few.judged == 2 * 3 * (hardest or 5)
    assert (found == whole).all()
