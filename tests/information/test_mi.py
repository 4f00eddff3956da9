"""``mi`` against the paper's algorithm written out, and its continuous form against the exact divergence."""

from __future__ import annotations

import pytest
import torch
from analytic import exact_kl, three_clouds, within_three_errors
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.information import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling import Sampler, candidate_noise, sample


def algorithm_2(denoiser, label: str, seed: int, steps: int, guidance: float, t_min: int) -> float:
    """Wang et al., Algorithm 2 with eq. 2, plainly: DDPM ancestral sampling, MI added up on the way."""
    T = 1000
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, 0)
    noise = candidate_noise(seed, denoiser.latent_shape, steps).double()
    z, terms = noise[0:1], []
    stride = T // steps
    for i, t in enumerate(reversed(range(0, T, stride))):
        eps_c = denoiser.epsilon(z, t, denoiser.encode_prompts([label]))
        eps_0 = denoiser.epsilon(z, t, denoiser.null(1))
        if t > t_min:
            kappa = beta[t] * T / (2 * (1 - beta[t]) * (1 - alpha_bar[t]))
            terms.append(kappa * ((eps_c - eps_0) ** 2).sum())
        eps = eps_0 + guidance * (eps_c - eps_0)
        before = alpha_bar[t - stride] if t >= stride else torch.tensor(1.0, dtype=torch.float64)
        step_alpha = alpha_bar[t] / before
        z = (z - (1 - step_alpha) / (1 - alpha_bar[t]).sqrt() * eps) / step_alpha.sqrt()
        variance = (1 - before) / (1 - alpha_bar[t]) * (1 - step_alpha)
        z = z + variance.sqrt() * noise[i + 1]
    return float(sum(terms) / len(terms))


@pytest.mark.parametrize(("guidance", "t_min"), [(7.5, 50), (1.0, 0), (2.0, 500)])
def test_mi_is_the_papers_algorithm(guidance, t_min):
    denoiser = three_clouds()
    labels, seeds = ["a", "b", "b"], [11, 12, 13]
    observer = PathMI(denoiser.schedule, t_min=t_min)
    sample(
        denoiser, denoiser.encode_prompts(labels), seeds, Sampler("ddpm", 50, guidance=guidance), [observer]
    )
    for ours, label, seed in zip(observer.result().tolist(), labels, seeds, strict=True):
        assert ours == pytest.approx(algorithm_2(denoiser, label, seed, 50, guidance, t_min), rel=1e-6)


def test_continuous_mi_averages_to_the_divergence():
    denoiser = three_clouds()
    n = 300
    observer = PathMI(denoiser.schedule, "continuous", t_min=0)
    sample(
        denoiser, denoiser.encode_prompts(["a"] * n), range(n), Sampler("ddpm", 250, guidance=1.0), [observer]
    )
    assert observer.name == "mi_continuous"
    assert within_three_errors(observer.result(), exact_kl(denoiser, "a"))


def test_continuous_weights_cover_the_range_and_near_the_papers_on_a_dense_grid():
    class Constant:
        squared_gap = torch.ones(1, dtype=torch.float64)

    schedule = NoiseSchedule.ddpm()
    for steps in (1, 10, 1000):
        grid = schedule.timesteps(steps, "trailing").tolist()
        totals = {}
        for weighting in ("continuous", "paper"):
            observer = PathMI(schedule, weighting, t_min=50)
            observer.start(1, torch.device("cpu"))
            for t, t_prev in zip(grid, [*grid[1:], -1], strict=True):
                step = Constant()
                step.t, step.t_prev = t, t_prev
                observer.observe(step)
            totals[weighting] = float(observer.result())
        whole = 0.5 * float(schedule.log_snr(50) - schedule.log_snr(999))
        assert totals["continuous"] == pytest.approx(whole, rel=1e-12)
    assert totals["paper"] * (1 - 51 / 1000) == pytest.approx(whole, rel=0.02)


@given(
    seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True),
    guidance=st.floats(0, 10),
    weighting=st.sampled_from(["paper", "continuous"]),
)
@settings(max_examples=15, deadline=None)
def test_mi_is_never_negative_and_does_not_depend_on_the_order(seeds, guidance, weighting):
    denoiser = three_clouds()
    observer = PathMI(denoiser.schedule, weighting)
    sampler = Sampler("ddpm", 6, guidance=guidance)
    c = denoiser.encode_prompts(["a"] * len(seeds))
    sample(denoiser, c, seeds, sampler, [observer])
    scores = observer.result()
    assert (scores >= 0).all()
    sample(denoiser, c, seeds[::-1], sampler, [observer])
    assert torch.equal(observer.result(), scores.flip(0))


def test_mi_of_the_null_prompt_is_zero():
    denoiser = three_clouds()
    observer = PathMI(denoiser.schedule)
    sample(denoiser, denoiser.null(3), range(3), Sampler("ddim", 5), [observer])
    assert observer.result().tolist() == [0, 0, 0]


def test_bad_settings_are_refused():
    denoiser = three_clouds()
    with pytest.raises(UserError, match="did you mean 'continuous'"):
        PathMI(denoiser.schedule, "continous")
    observer = PathMI(denoiser.schedule, t_min=990)
    sample(denoiser, denoiser.encode_prompts(["a"]), [0], Sampler("ddim", 5), [observer])
    with pytest.raises(UserError, match="t_min=990"):
        observer.result()
