"""The loop against the model's own distribution, its observers' contract and its resampling seam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Step, sample, sample_population
from mitune.sampling.seeds import candidate_noise
from tests.analytic import After, coefficients, three_clouds

SAMPLERS = [
    SamplerConfig("ddpm", 12, guidance=3.0, spacing="leading"),
    SamplerConfig("ddim", 12, guidance=1.0, eta=0.0, spacing="leading"),
    SamplerConfig("ddim", 12, eta=0.5, guidance=3.0, spacing="leading"),
]


class Recorder:
    """Keeps every step and every choice of rows."""

    name = "recorder"

    def start(self, n: int, device: torch.device) -> None:
        self.n, self.steps, self.chosen = n, [], []

    def observe(self, step: Step) -> None:
        self.steps.append(step)

    def select(self, rows: Tensor) -> None:
        self.chosen.append(rows.tolist())

    def result(self) -> Tensor:
        return torch.zeros(self.n)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_walk_is_the_one_written_out(sampler, prediction_type):
    denoiser = three_clouds(prediction_type=prediction_type)
    labels = ["a", "b", "a"]
    z = sample(denoiser, denoiser.encode_prompts(labels), [3, 4, 5], sampler)
    for row, (label, seed) in enumerate(zip(labels, (3, 4, 5), strict=True)):
        noise = candidate_noise(seed, (2,), sampler.steps).double()
        x = noise[:1]
        for index, step in enumerate(coefficients(denoiser.schedule, sampler)):
            eps_null = denoiser.epsilon(x, step.t, denoiser.null(1))
            eps_cond = denoiser.epsilon(x, step.t, denoiser.encode_prompts([label]))
            eps = eps_null + sampler.guidance * (eps_cond - eps_null)
            x = step.a * x + step.b * eps + step.std * noise[index + 1 : index + 2]
        torch.testing.assert_close(z[row : row + 1], x, rtol=1e-9, atol=1e-9)


def test_steps_say_what_happened():
    denoiser, sampler, recorder = (
        three_clouds(),
        SamplerConfig("ddpm", 6, guidance=2.0, spacing="leading"),
        Recorder(),
    )
    z = sample(denoiser, denoiser.encode_prompts(["a"] * 4), range(4), sampler, [recorder])
    assert [step.index for step in recorder.steps] == list(range(6))
    assert denoiser.forwards == 6 * 4 * 2
    for step, following in zip(recorder.steps, recorder.steps[1:], strict=False):
        assert step.z_prev is following.z
        assert step.t_prev == following.t
    last = recorder.steps[-1]
    assert last.t_prev == -1
    assert last.noise is None
    assert last.z_prev is z
    for step in recorder.steps:
        rebuilt = (
            step.a * step.z + step.b * step.eps + (step.std * step.noise if step.noise is not None else 0)
        )
        torch.testing.assert_close(step.z_prev, rebuilt)
        torch.testing.assert_close(step.eps, step.eps_null + 2.0 * (step.eps_cond - step.eps_null))
        torch.testing.assert_close(step.squared_gap, (step.eps_cond - step.eps_null).pow(2).sum(1))


def test_rows_do_not_depend_on_their_batch():
    denoiser, sampler = three_clouds(), SamplerConfig("ddpm", 8, guidance=4.0, spacing="leading")
    seeds, labels = list(range(10, 19)), ["a", "b", "b"] * 3
    observers = [PathMI(denoiser.schedule), PathLLR()]
    together = sample(denoiser, denoiser.encode_prompts(labels), seeds, sampler, observers)
    scores = [observer.result() for observer in observers]
    order = [8, 2, 5, 0]
    apart = sample(
        denoiser,
        denoiser.encode_prompts([labels[i] for i in order]),
        [seeds[i] for i in order],
        sampler,
        observers,
    )
    assert torch.equal(apart, together[order])
    for observer, score in zip(observers, scores, strict=True):
        assert torch.equal(observer.result(), score[order])


def test_unguided_ancestral_samples_follow_the_prompt():
    denoiser = three_clouds()
    n = 1500
    z = sample(
        denoiser,
        denoiser.encode_prompts(["b"] * n),
        range(n),
        SamplerConfig("ddpm", 100, guidance=1.0, spacing="leading"),
    )
    exact = denoiser.sample(["b"] * 20_000, torch.Generator().manual_seed(0))
    # A standard error is 0.03 of a mean and 0.04 of a variance; "a" and ∅ lie 0.5 and more away.
    torch.testing.assert_close(z.mean(0), exact.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(z.T.cov(), exact.T.cov(), rtol=0, atol=0.15)


def test_guidance_sharpens():
    denoiser = three_clouds()
    labels = ["a"] * 300
    c = denoiser.encode_prompts(labels)
    plain, guided = (
        denoiser.information(
            sample(denoiser, c, range(300), SamplerConfig("ddpm", 30, guidance=scale, spacing="leading")),
            labels,
        ).mean()
        for scale in (1.0, 4.0)
    )
    assert guided > plain + 0.1


def test_flow_samples_follow_the_prompt():
    denoiser = three_clouds(NoiseSchedule.rectified_flow(), "flow")
    n = 1000
    z = sample(
        denoiser,
        denoiser.encode_prompts(["b"] * n),
        range(n),
        SamplerConfig("ddim", 60, guidance=1.0, eta=0.0, spacing="leading"),
    )
    exact = denoiser.sample(["b"] * 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), exact.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(z.T.cov(), exact.T.cov(), rtol=0, atol=0.2)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_null_branch_is_left_out_where_nothing_takes_it(batch_size):
    denoiser, labels, seeds = three_clouds(), ["a", "b", "a"], [3, 4, 5]
    condition = denoiser.encode_prompts(labels)

    def drawn(guidance: float, *observers: Recorder, **more) -> tuple[Tensor, int]:
        denoiser.forwards = 0
        sampler = SamplerConfig("ddpm", 6, guidance=guidance, spacing="leading")
        z = sample(denoiser, condition, seeds, sampler, observers, batch_size=batch_size, **more)
        return z, denoiser.forwards

    alone, rows = drawn(1.0)
    assert rows == 6 * 3
    watched, rows = drawn(1.0, Recorder())
    assert rows == 6 * 3 * 2
    torch.testing.assert_close(alone, watched, rtol=1e-12, atol=1e-12)
    assert drawn(1.0, guide=After(lambda step, population: None))[1] == 6 * 3 * 2
    assert drawn(1.5)[1] == 6 * 3 * 2


def test_dropped_rows_leave_the_others_untouched():
    denoiser, sampler = three_clouds(), SamplerConfig("ddpm", 9, guidance=3.0, spacing="leading")
    labels = ["a", "b", "a", "b", "a"]
    c, seeds = denoiser.encode_prompts(labels), [21, 22, 23, 24, 25]
    observers = [PathMI(denoiser.schedule), PathLLR(), Recorder()]
    population_seen = []

    def race(step: Step, population) -> Tensor | None:
        population_seen.append((step.index, population.rows.tolist(), list(population.seeds)))
        assert population.observers["llr"].result().shape == (len(population.rows),)
        return {2: torch.tensor([0, 2, 4]), 5: torch.tensor([2, 0])}.get(step.index)

    denoiser.forwards = 0
    survivors = sample_population(denoiser, c, seeds, sampler, observers, After(race))
    assert denoiser.forwards == 2 * (3 * 5 + 3 * 3 + 3 * 2)
    assert survivors.rows.tolist() == [4, 0]
    assert observers[2].chosen == [[0, 2, 4], [2, 0]]
    assert [index for index, _, _ in population_seen] == list(range(8))  # never after the last step
    assert population_seen[-1][1:] == ([4, 0], [25, 21])
    scores = [observer.result() for observer in observers[:2]]

    alone = sample(denoiser, c[[4, 0]], [25, 21], sampler, observers[:2])
    assert torch.equal(survivors.latents, alone)
    for observer, score in zip(observers[:2], scores, strict=True):
        assert torch.equal(observer.result(), score)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_null_prompt_is_asked_for_once_whoever_goes_on(batch_size, monkeypatch):
    """Where a text encoder is adapted each asking is a forward of it."""
    denoiser, asked = three_clouds(), []
    null = denoiser.null
    monkeypatch.setattr(denoiser, "null", lambda n: asked.append(n) or null(n))
    choices = {2: [4, 0, 0, 3, 1], 5: [1, 3, 2], 7: [2, 2, 0, 1]}
    drop = After(lambda step, _: torch.tensor(choices[step.index]) if step.index in choices else None)
    condition = denoiser.encode_prompts(["a", "b", "a", "b", "a"])
    sample(denoiser, condition, range(5), SAMPLERS[0], [Recorder()], drop, batch_size=batch_size)
    assert asked == [5]


def test_multiplied_rows_share_their_past_and_not_their_future():
    denoiser, sampler = three_clouds(), SamplerConfig("ddpm", 9, guidance=1.0, spacing="leading")
    c = denoiser.encode_prompts(["a", "b", "a"])

    def clone(step: Step, population) -> Tensor | None:
        return torch.tensor([1, 1, 1]) if step.index == 3 else None

    survivors = sample_population(denoiser, c, [1, 2, 3], sampler, guide=After(clone))
    assert survivors.rows.tolist() == [1, 1, 1]
    assert len({tuple(row.tolist()) for row in survivors.latents}) == 3
    assert torch.equal(survivors.latents[:1], sample(denoiser, c[1], [2], sampler))


class HalfPrecision:
    """A stand-in network in bfloat16: the loop must keep its latents in float32."""

    def __init__(self) -> None:
        self._exact = three_clouds()
        self.schedule, self.latent_shape = self._exact.schedule, (4, 2, 2)
        self.prediction_type, self.dtype, self.device = "epsilon", torch.bfloat16, torch.device("cpu")
        self.branches, self.moves = 2, False

    sampler_defaults = Denoiser.sampler_defaults

    def null(self, n: int) -> Condition:
        return Condition({"shift": torch.zeros(n, dtype=torch.bfloat16)})

    def widened(self, given: Condition) -> Condition:
        return Condition.cat([self.null(len(given)), given])

    def needs_branches(self, guidance: float) -> bool:
        return guidance != 1

    def outputs(self, z, t, pair, scale, tap=None):
        assert z.dtype == torch.float32
        out = torch.cat([z, z]).to(torch.bfloat16) * 0.5 + pair.tensors["shift"][:, None, None, None]
        null, cond = out.to(z.dtype).chunk(2)
        return cond, null, torch.lerp(null, cond, scale)


def test_latents_stay_in_float32_around_a_bf16_network():
    denoiser = HalfPrecision()
    condition = Condition({"shift": torch.ones(3, dtype=torch.bfloat16)})
    observers = [PathMI(denoiser.schedule), PathLLR()]
    z = sample(
        denoiser, condition, [1, 2, 3], SamplerConfig("ddpm", 4, guidance=7.5, spacing="leading"), observers
    )  # type: ignore[arg-type]
    assert z.dtype == torch.float32
    assert torch.isfinite(z).all()
    assert all(observer.result().dtype == torch.float64 for observer in observers)


def test_what_cannot_be_sampled_is_refused():
    denoiser = three_clouds()
    with pytest.raises(ValueError, match="2 seeds for 3 conditions"):
        sample(
            denoiser,
            denoiser.encode_prompts(["a"] * 3),
            [1, 2],
            SamplerConfig(name="ddpm", steps=50, guidance=7.5, spacing="leading"),
        )
    zero = NoiseSchedule.ddpm(rescale_zero_terminal_snr=True)
    blind = three_clouds(zero)
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        sample(
            blind,
            blind.encode_prompts(["a"]),
            [1],
            SamplerConfig(spacing="trailing", name="ddpm", steps=50, guidance=7.5),
        )
    seeing = three_clouds(zero, "v_prediction")
    z = sample(
        seeing,
        seeing.encode_prompts(["a"]),
        [1],
        SamplerConfig(steps=20, spacing="trailing", name="ddpm", guidance=7.5),
    )
    assert torch.isfinite(z).all()
