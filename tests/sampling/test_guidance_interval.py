"""Guidance within an interval of times: what the network is told, what it costs, and what the path's scores mean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mitune.errors import UserError
from mitune.information.contrast import soft_least
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SPACINGS, SamplerConfig
from mitune.sampling.loop import Guide, Step, sample
from mitune.sampling.racing import Cut, Racing, rows_of
from mitune.sampling.seeds import candidate_noise
from mitune.search.path_contrast import PathContrast
from mitune.stages.racing import rows_of_steps
from tests.analytic import coefficients, three_clouds

LABELS, SEEDS = ["a", "b", "a", "b"], [3, 4, 5, 6]
VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()


class Recorder:
    """Keeps every step."""

    name = "recorder"

    def start(self, n, device):
        self.steps: list[Step] = []

    def observe(self, step):
        self.steps.append(step)

    def select(self, rows):
        raise AssertionError("nobody is dropped here")

    def result(self):
        return torch.zeros(len(LABELS))


def settings(name: str = "ddpm", guidance: float = 3.0, **others) -> SamplerConfig:
    others = {"guidance_interval": [300, 700], "spacing": "trailing", **others}
    return SamplerConfig(name, 12, guidance=guidance, **others)


def drawn(schedule, sampler, observers=(), guide=None, batch_size=None):
    denoiser = three_clouds(schedule)
    denoiser.forwards = 0
    z = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, sampler, observers, guide, batch_size)
    return denoiser, z


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_outside_of_the_interval_the_walk_follows_the_prompt_alone(schedule):
    sampler = settings()
    denoiser, z = drawn(schedule, sampler)
    for row, (label, seed) in enumerate(zip(LABELS, SEEDS, strict=True)):
        noise = candidate_noise(seed, (2,), sampler.steps).double()
        x = noise[:1]
        for index, step in enumerate(coefficients(schedule, sampler)):
            eps = denoiser.epsilon(x, step.t, denoiser.encode_prompts([label]))
            if 300 <= step.t <= 700:
                null = denoiser.epsilon(x, step.t, denoiser.null(1))
                eps = null + 3.0 * (eps - null)
            x = step.a * x + step.b * eps + step.std * noise[index + 1 : index + 2]
        torch.testing.assert_close(z[row : row + 1], x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("observers", [[], [PathLLR()]], ids=["alone", "observed"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_null_branch_costs_rows_within_the_interval_only(observers, batch_size):
    sampler = settings()
    inside = sum(300 <= step.t <= 700 for step in coefficients(VP, sampler))
    assert 0 < inside < 12
    denoiser, _ = drawn(VP, sampler, observers, batch_size=batch_size)
    assert denoiser.forwards == len(LABELS) * (12 + inside)


def test_an_interval_of_all_times_is_none_at_all():
    everywhere = drawn(VP, settings(guidance_interval=[0, 1000]), [PathLLR(), PathMI(VP)])
    plain = drawn(VP, settings(guidance_interval=None), [PathLLR(), PathMI(VP)])
    assert torch.equal(everywhere[1], plain[1])
    assert everywhere[0].forwards == plain[0].forwards


def test_candidates_do_not_depend_on_their_batch():
    whole, parts = drawn(VP, settings(), [PathLLR()])[1], drawn(VP, settings(), [PathLLR()], batch_size=3)[1]
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [VP, FLOW], ids=["vp", "flow"])
def test_mi_counts_the_steps_within(schedule):
    """The integral is over the stretch of λ that the steps within stand for, the paper's mean over their number."""
    sampler, recorder = settings(), Recorder()
    continuous, paper = PathMI(schedule, "continuous", t_min=0), PathMI(schedule, t_min=0)
    drawn(schedule, sampler, [recorder, continuous, paper])
    within = [step for step in recorder.steps if 300 <= step.t <= 700]
    assert all(step.guided == (step in within) for step in recorder.steps)
    primitive, total, mean = continuous.weighting.primitive, 0.0, 0.0
    times = [step.t for step in recorder.steps]
    for step in within:
        before, after = times[step.index - 1], times[step.index + 1]
        edges = [float(primitive(step.t) + primitive(other)) / 2 for other in (before, after)]
        gap = (step.eps_cond - step.eps_null).square().flatten(1).sum(1)
        total = total + (edges[0] - edges[1]) * gap
        mean = mean + float(schedule.kappa(step.t)) * gap / len(within)
    torch.testing.assert_close(continuous.result(), total)
    torch.testing.assert_close(paper.result(), mean)


@pytest.mark.parametrize("interval", [[1, 2], [0.2, 0.8], [700, 300]])
def test_an_interval_that_holds_no_step_is_refused(interval):
    with pytest.raises(UserError, match=r"none of the steps' times, 999 to 82, lies within"):
        drawn(VP, settings(guidance_interval=interval))


def test_mi_says_when_no_visited_time_lies_within_and_above_t_min():
    observer = PathMI(VP, t_min=500)
    drawn(VP, settings(guidance_interval=[100, 400]), [observer])
    with pytest.raises(UserError, match=r"sampler\.guidance_interval"):
        observer.result()


def test_before_its_first_step_mi_is_nothing_so_that_a_search_may_ask():
    found = {}

    class Ask(Guide):
        reads_steps = True

        def after(self, step, population):
            found[step.t] = population.observers["mi"].result()

    drawn(VP, settings(guidance_interval=[300, 700]), [PathMI(VP)], Ask())
    assert all(bool((values > 0).all()) == (t <= 700) for t, values in found.items())


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_the_rows_of_each_step_are_those_that_are_spent(name, spacing):
    own = SamplerConfig(name, 8, guidance=3.0, spacing=spacing)
    for at in coefficients(VP, own)[1:-1]:  # heun's t of linspace is not quite what the network is told
        sampler = replace(own, guidance_interval=[0, (at.t + at.time) / 2])
        denoiser, _ = drawn(VP, sampler, [PathLLR()])
        assert denoiser.forwards == len(LABELS) * sum(rows_of_steps(denoiser, sampler))


def log_ratio(denoiser, steps: list[Step], sampler: SamplerConfig, other: list[str] | None) -> torch.Tensor:
    """log of the densities of the path under the two processes, written out from the published update rules.

    Both are told the prompts outside of the interval; within, one is told ``other`` (None: nothing).
    """
    schedule, total = denoiser.schedule, torch.zeros(len(LABELS), dtype=torch.float64)
    own = denoiser.encode_prompts(LABELS)
    others = denoiser.null(len(LABELS)) if other is None else denoiser.encode_prompts(other)
    before: list[torch.Tensor] = []
    gain_before = math.inf
    for step in steps:
        inside = sampler.guidance_interval is None or 300 <= step.t <= 700
        alpha, sigma = float(schedule.alpha(step.t)), float(schedule.sigma(step.t))
        conditions = [own, others if inside else own]
        seen = [(step.z - sigma * denoiser.epsilon(step.z, step.t, c)) / alpha for c in conditions]
        if step.noise is None:
            break
        alpha_prev, sigma_prev = float(schedule.alpha(step.t_prev)), float(schedule.sigma(step.t_prev))
        gain = math.log(alpha_prev / sigma_prev) - math.log(alpha / sigma)
        aimed = seen
        if sampler.name == "dpmpp_2m_sde" and before:
            ratio = gain / (2 * gain_before)
            aimed = [new + ratio * (new - old) for new, old in zip(seen, before, strict=True)]
        decay = math.exp(-gain)
        means = [sigma_prev / sigma * decay * step.z - alpha_prev * math.expm1(-2 * gain) * x for x in aimed]
        errors = [(step.z_prev - mean).square().flatten(1).sum(1) for mean in means]
        total += (errors[1] - errors[0]) / (2 * step.wide**2)
        before, gain_before = seen, gain
    return total


NOISY = ["ddpm", "dpmpp_2m_sde"]


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("interval", [None, [300, 700]], ids=["everywhere", "within"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_llr_is_the_ratio_of_the_two_processes_with_their_own_histories(name, interval, guidance):
    sampler, recorder, llr = settings(name, guidance, guidance_interval=interval), Recorder(), PathLLR()
    denoiser, _ = drawn(VP, sampler, [recorder, llr])
    expected = log_ratio(denoiser, recorder.steps, sampler, None)
    torch.testing.assert_close(llr.result(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("interval", [None, [300, 700]], ids=["everywhere", "within"])
def test_contrast_along_the_path_is_that_ratio_to_other_prompts(name, interval):
    denoiser, sampler = three_clouds(), settings(name, guidance_interval=interval)
    swapped = ["b" if label == "a" else "a" for label in LABELS]
    negatives = [denoiser.encode_prompts(swapped), denoiser.null(len(LABELS))]
    recorder, observer = Recorder(), PathContrast(denoiser, negatives)
    denoiser.forwards = 0
    sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, sampler, [recorder, observer])
    inside = sum(step.guided for step in recorder.steps)
    noisy = sum(step.guided and step.noise is not None for step in recorder.steps)
    assert denoiser.forwards == len(LABELS) * (12 + inside + 2 * noisy)
    ratios = [log_ratio(denoiser, recorder.steps, sampler, other) for other in (swapped, None)]
    torch.testing.assert_close(observer.result(), soft_least(torch.stack(ratios, 1)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NOISY)
def test_a_race_leaves_the_survivors_paths_as_they_would_have_been(name):
    sampler = settings(name)
    alone = PathLLR()
    denoiser = three_clouds()
    finished = sample(denoiser, denoiser.encode_prompts(LABELS), SEEDS, sampler, [alone])
    race = Racing([Cut(step=7, survivors=1)], groups=torch.tensor([0, 1, 0, 1]), by="llr")
    raced = PathLLR()
    denoiser, z = drawn(VP, sampler, [raced], race)
    left = torch.nonzero(race.dropped_at == 0).flatten()
    assert len(left) == 2
    torch.testing.assert_close(z, finished[left])
    torch.testing.assert_close(raced.result(), alone.result()[left])
    each = [2 if 300 <= step.t <= 700 else 1 for step in coefficients(VP, sampler)]
    assert denoiser.forwards == 2 * rows_of([Cut(7, 1)], 2, 12, branches=each)


def test_a_guide_that_reads_steps_sees_all_of_them():
    seen = []

    class Watch(Guide):
        reads_steps = True

        def after(self, step, population):
            seen.append(step.guided)

    drawn(VP, settings(guidance=1.0), guide=Watch())
    assert len(seen) == 11
    assert set(seen) == {True, False}
