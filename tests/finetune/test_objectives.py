"""Objectives against their formulas, written out."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import torch

from mitune.analytic import AnalyticDenoiser
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.finetune.adapters import attach
from mitune.finetune.batches import load_training_set
from mitune.finetune.catalogue import OBJECTIVES, AdapterConfig
from mitune.finetune.objectives import Batch, LayoutWeight, dpo, kto, mse, nft, spin
from mitune.noise import NoiseSchedule
from tests.finetune.conftest import make_dataset

PROMPTS = ["a red circle", "two dogs", "a cat"]


def _draw(n: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    z0, loser, noise = (torch.randn(n, 4, 8, 8, generator=generator) for _ in range(3))
    return z0, loser, noise, torch.randint(500, 1000, (n,), generator=generator)


def test_mse_of_a_flow_is_the_error_of_its_velocity() -> None:
    """On N(m, 1), z_t ~ N(α m, α² + σ²): v̂ = ε̂ − ẑ_0 with ε̂ = σ (z − α m) / (α² + σ²), held against ε − z_0."""
    mean = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    schedule = NoiseSchedule.rectified_flow()
    denoiser = AnalyticDenoiser(mean, [1.0], {"a": [1.0]}, {"a": 1.0}, schedule, "flow")
    generator = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([50.0, 300.5, 700.0, 999.0])
    loss = mse(denoiser, Batch(z0, noise, t, denoiser.encode_prompts(["a"] * 4)))
    sigma = (t.double() / 1000)[:, None]
    alpha = 1 - sigma
    z = alpha * z0 + sigma * noise
    eps = sigma * (z - alpha * mean) / (alpha**2 + sigma**2)
    velocity = eps - (z - sigma * eps) / alpha
    assert torch.allclose(loss, (velocity - (noise - z0)).pow(2).mean(1), rtol=1e-9)


def _shaken(folder: Path, text_encoder: bool = False) -> StableDiffusionDenoiser:
    """A model whose adapter is not zero, so that it differs from its reference."""
    denoiser = load_denoiser({"path": str(folder), "device": "cpu"})
    parameters = attach(denoiser, AdapterConfig(rank=4, text_encoder=text_encoder))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return denoiser


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_mse_is_the_error_in_the_models_own_prediction(prediction_type: str) -> None:
    """On a one-component mixture N(m, 1) the exact ε̂ is known: ε̂ = σ (z − α m) / (α² + σ²)."""
    mean = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    denoiser = AnalyticDenoiser(mean, [1.0], {"a": [1.0]}, {"a": 1.0}, NoiseSchedule.ddpm(), prediction_type)
    generator = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([100, 300, 500, 700, 900])
    loss = mse(denoiser, Batch(z0, noise, t, denoiser.encode_prompts(["a"] * 5)))
    alpha_bar = denoiser.schedule.alpha_bar[t][:, None]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    z = alpha * z0 + sigma * noise
    eps = sigma * (z - alpha * mean)  # α² + σ² = 1
    z0_hat = (z - sigma * eps) / alpha
    output, target = {
        "epsilon": (eps, noise),
        "sample": (z0_hat, z0),
        "v_prediction": (alpha * eps - sigma * z0_hat, alpha * noise - sigma * z0),
    }[prediction_type]
    assert torch.allclose(loss, (output - target).pow(2).mean(1), rtol=1e-9)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_dpo_is_its_equation(text_encoder: bool, tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder, text_encoder)
    plain = load_denoiser(
        {"path": str(tiny_pipeline_folder), "device": "cpu"}
    )  # the reference, as a model of its own
    z0, loser, noise, t = _draw()
    beta = 40.0

    def errors(model: StableDiffusionDenoiser, latents: torch.Tensor) -> torch.Tensor:
        alpha_bar = model.schedule.alpha_bar[t].float()[:, None, None, None]
        z = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        text = model.encode_prompts(PROMPTS).tensors["text"]
        output = model.network(z, t, encoder_hidden_states=text).sample
        return (output - noise).pow(2).flatten(1).mean(1)

    inside = (errors(denoiser, z0) - errors(plain, z0)) - (errors(denoiser, loser) - errors(plain, loser))
    expected = -torch.log(1 / (1 + torch.exp(beta / 2 * inside)))
    reference = plain.encode_prompts(PROMPTS) if text_encoder else None
    batch = Batch(z0, noise, t, denoiser.encode_prompts(PROMPTS), rejected=loser, reference=reference)
    denoiser.forwards = 0
    loss = dpo(denoiser, batch, beta)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert (loss - math.log(2)).abs().min() > 1e-3  # the adapter does make a difference
    assert denoiser.forwards == 4 * 3  # winner and loser, each by the model and by its reference
    # The gradient flows through the adapter alone, and the adapter is on again.
    loss.sum().backward()
    gradients = [p.grad for p in denoiser.network.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.allclose(mse(denoiser, batch), errors(denoiser, z0), atol=1e-6)


def test_dpo_of_an_untrained_adapter_is_log_two(tiny_pipeline_folder: Path) -> None:
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    attach(denoiser, AdapterConfig(rank=4))
    z0, loser, noise, t = _draw()
    batch = Batch(z0, noise, t, denoiser.encode_prompts(PROMPTS), rejected=loser)
    assert torch.allclose(dpo(denoiser, batch, 2000.0), torch.full((3,), math.log(2)), atol=1e-2)
    with pytest.raises(ValueError, match="losers"):
        dpo(denoiser, Batch(z0, noise, t, batch.condition), 1.0)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_kto_is_its_equation(text_encoder: bool, tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder, text_encoder)
    plain = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    z0, _, noise, t = _draw()
    label, weight, beta = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0.5, 1.0, 3.0]), 60.0

    def errors(model: StableDiffusionDenoiser) -> torch.Tensor:
        alpha_bar = model.schedule.alpha_bar[t].float()[:, None, None, None]
        z = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise
        output = model.network(z, t, encoder_hidden_states=model.encode_prompts(PROMPTS).tensors["text"])
        return (output.sample - noise).pow(2).flatten(1).mean(1)

    utility = 1 / (1 + torch.exp(-label * weight * beta / 2 * (errors(plain) - errors(denoiser))))
    batch = Batch(
        z0, noise, t, denoiser.encode_prompts(PROMPTS),
        reference=plain.encode_prompts(PROMPTS) if text_encoder else None, weight=weight, label=label,
    )  # fmt: skip
    loss = kto(denoiser, batch, beta)
    assert torch.allclose(loss, 1 - utility, atol=1e-5)
    assert (loss - 0.5).abs().min() > 1e-3
    loss.sum().backward()
    assert all(p.grad is not None for p in denoiser.network.parameters() if p.requires_grad)


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("labels", [[1.0, -1.0, 1.0], [0.4, -1.0, 0.0]])
def test_nft_is_its_equation(labels: list[float], text_encoder: bool, tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder, text_encoder)
    plain = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    z0, _, noise, t = _draw()
    label, weight, beta = torch.tensor(labels), torch.tensor([0.5, 1.0, 3.0]), 0.2

    def output(model: StableDiffusionDenoiser) -> torch.Tensor:
        alpha_bar = model.schedule.alpha_bar[t].float()[:, None, None, None]
        z = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise
        text = model.encode_prompts(PROMPTS).tensors["text"]
        return model.network(z, t, encoder_hidden_states=text).sample

    new, old = output(denoiser), output(plain)
    positive, negative = (1 - beta) * old + beta * new, (1 + beta) * old - beta * new
    errors = [(side - noise).pow(2).flatten(1).mean(1) for side in (positive, negative)]
    expected = weight * ((1 + label) / 2 * errors[0] + (1 - label) / 2 * errors[1]) / beta
    batch = Batch(
        z0, noise, t, denoiser.encode_prompts(PROMPTS),
        reference=plain.encode_prompts(PROMPTS) if text_encoder else None, weight=weight, label=label,
    )  # fmt: skip
    loss = nft(denoiser, batch, beta)
    assert torch.allclose(loss, expected, rtol=1e-4)
    assert not torch.allclose(new, old, atol=1e-2)
    loss.sum().backward()
    assert all(p.grad is not None for p in denoiser.network.parameters() if p.requires_grad)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_nft_goes_past_the_winners_and_away_from_the_losers(soft: bool, beta: float) -> None:
    """A network whose output is one free vector: where the gradient vanishes, and what it is where one begins."""
    generator = torch.Generator().manual_seed(3)
    n = 12
    target, old = torch.randn(n, 4, generator=generator), torch.randn(4, generator=generator)
    label = torch.linspace(-1, 1, n) if soft else torch.where(torch.arange(n) < 5, 1.0, -1.0)

    class Constant:
        schedule, prediction_type = NoiseSchedule.ddpm(), "epsilon"

        def __init__(self) -> None:
            self.output = old.clone().requires_grad_(True)

        def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
            return self.output.expand(len(z), -1)

    denoiser = Constant()

    @contextlib.contextmanager
    def at_start():
        now, denoiser.output = denoiser.output, old
        yield
        denoiser.output = now

    batch = Batch(
        torch.zeros(n, 4), target, torch.full((n,), 500), Condition({}), label=label, anchor=at_start
    )  # the noise is the target

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(nft(denoiser, batch, beta).mean(), denoiser.output)[0]  # type: ignore[arg-type]

    assert torch.allclose(gradient(), (label[:, None] * 2 * (old - target)).mean(0) / 4, atol=1e-6)
    won = (1 + label) / 2  # each row's share in the winners
    p = won.mean()
    ahead, behind = ((share @ target) / share.sum() for share in (won, 1 - won))
    towards = p * (ahead - old) - (1 - p) * (behind - old)
    with torch.no_grad():
        denoiser.output.copy_(old + towards / beta)
    assert gradient().abs().max() < 1e-5


@pytest.mark.parametrize("beta", [0.12, 2.0])
def test_nft_regresses_on_real_pictures(beta: float, tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder)
    z0, _, noise, t = _draw()
    condition = denoiser.encode_prompts(PROMPTS)
    label = torch.tensor([-1.0, 0.3, 0.0])
    plain = nft(denoiser, Batch(z0, noise, t, condition, label=label), beta)
    mixed = Batch(z0, noise, t, condition, label=label, real=torch.tensor([True, False, True]))
    denoiser.forwards = 0
    loss = nft(denoiser, mixed, beta)
    assert denoiser.forwards == 2 * 3
    error = mse(denoiser, Batch(z0, noise, t, condition))
    assert torch.allclose(loss[[0, 2]], error[[0, 2]], rtol=1e-5)
    assert torch.allclose(loss[1], plain[1])
    assert not torch.allclose(plain[[0, 2]], error[[0, 2]], rtol=1e-2)


def test_a_training_set_says_which_pictures_are_real(tiny_pipeline_folder: Path) -> None:
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    rows, objective = make_dataset(losers=1, rows=8), OBJECTIVES.find("nft")
    before = rows.remove_columns("real")  # as earlier versions wrote it
    some = before.add_column("real", [row % 3 == 0 for row in range(12)])
    for none in (rows, before):
        assert load_training_set(none, denoiser, objective).real is None
    data = load_training_set(some, denoiser, objective)
    assert data.real is not None
    assert data.real.tolist() == [row % 3 == 0 for row in range(12)]
    assert data.digest != load_training_set(rows, denoiser, objective).digest


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1e6])
def test_importance_is_a_softmax_of_scores_within_the_prompt(
    temperature: float, tiny_pipeline_folder: Path
) -> None:
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    data = load_training_set(make_dataset(rows=12), denoiser, OBJECTIVES.find("weighted"), temperature)
    # Three rows a prompt with evenly spaced scores: −√1.5, 0, √1.5 standard deviations.
    expected = torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]).repeat_interleave(4).div(temperature).exp()
    assert data.importance is not None
    assert torch.allclose(data.importance, expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_soft_labels_are_scores_within_the_prompt(spread: float, tiny_pipeline_folder: Path) -> None:
    denoiser = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})
    nft = OBJECTIVES.find("nft")
    rows = make_dataset(losers=1, rows=8)
    hard = load_training_set(rows, denoiser, nft)
    assert hard.label.tolist() == [1.0] * 8 + [-1.0] * 4
    soft = load_training_set(rows, denoiser, nft, soft_labels=spread)
    # Three rows a prompt with evenly spaced scores: −√1.5, 0, √1.5 standard deviations.
    expected = torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]).repeat_interleave(4).div(spread).clamp(-1, 1)
    assert torch.allclose(soft.label, expected)
    assert soft.digest != hard.digest
    with pytest.raises(UserError, match=r"no column score.*train\.soft_labels"):
        load_training_set(rows.remove_columns("score"), denoiser, nft, soft_labels=spread)


def test_spin_is_dpo_against_the_adapter_it_began_with(tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder)
    before = _shaken(tiny_pipeline_folder)  # the same adapter, as a model of its own
    z0, loser, noise, t = _draw()
    condition = denoiser.encode_prompts(PROMPTS)
    names = [p for p in denoiser.network.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in names]
    with torch.no_grad():
        for parameter in names:
            parameter.mul_(1.5)

    @contextlib.contextmanager
    def at_start():
        now = [p.data for p in names]
        for parameter, value in zip(names, start, strict=True):
            parameter.data = value
        yield
        for parameter, value in zip(names, now, strict=True):
            parameter.data = value

    batch = Batch(z0, noise, t, condition, rejected=loser, anchor=at_start)
    with torch.no_grad():
        gains = [
            mse(before, Batch(z, noise, t, condition)) - mse(denoiser, Batch(z, noise, t, condition))
            for z in (z0, loser)
        ]
    expected = -torch.log(torch.sigmoid(20.0 * (gains[0] - gains[1])))
    assert torch.allclose(spin(denoiser, batch, 40.0), expected, atol=1e-5)
    against_base = Batch(z0, noise, t, condition, rejected=loser)
    assert not torch.allclose(dpo(denoiser, against_base, 40.0), expected, atol=1e-4)


def test_layout_weights_count_errors_of_the_picture_where_it_is_settled() -> None:
    schedule = NoiseSchedule.ddpm()
    t = torch.tensor([200, 500, 700, 900])
    ratio = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    for power in (0.5, 1.0):
        weight = LayoutWeight(schedule, power, 200, 1000)
        assert float(weight(torch.arange(200, 1000)).mean()) == pytest.approx(1, abs=1e-5)
        expected = ratio.clamp(max=1.0) ** -power
        assert torch.allclose((weight(t) / weight(t[:1])).double(), expected / expected[0], rtol=1e-5)


def test_weights_multiply_the_errors_of_every_objective(tiny_pipeline_folder: Path) -> None:
    denoiser = _shaken(tiny_pipeline_folder)
    z0, loser, noise, t = _draw()
    condition = denoiser.encode_prompts(PROMPTS)
    weight = torch.tensor([0.5, 1.0, 3.0])
    plain = Batch(z0, noise, t, condition, rejected=loser)
    weighted = Batch(z0, noise, t, condition, rejected=loser, weight=weight)
    assert torch.allclose(mse(denoiser, weighted), weight * mse(denoiser, plain))
    for row, factor in enumerate(weight):  # dpo's weight is a factor on its beta, row by row
        assert torch.allclose(
            dpo(denoiser, weighted, 40.0)[row], dpo(denoiser, plain, 40.0 * float(factor))[row], atol=1e-6
        )


def test_objectives_are_found_by_name() -> None:
    assert [OBJECTIVES.find(name).name for name in OBJECTIVES] == list(OBJECTIVES)
    assert {name: objective.rows for name, objective in OBJECTIVES.items()} == {
        "mse": 1, "weighted": 1, "dpo": 2, "spin": 2, "kto": 1, "nft": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"train.objective='dpoo' is not known, did you mean 'dpo'\?"):
        OBJECTIVES.find("dpoo")


def test_conditions_of_a_pair_are_shared() -> None:
    """One t and one noise for winner and loser: swapping the two turns the sign inside."""
    schedule = NoiseSchedule.ddpm()
    seen: list[torch.Tensor] = []

    class Echo:
        prediction_type = "epsilon"

        def __init__(self) -> None:
            self.schedule = schedule

        def base(self):
            return torch.no_grad()

        def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
            seen.append(t)
            return 0.1 * len(seen) * z

    z0, loser, noise, t = _draw()
    condition = Condition({"text": torch.zeros(3, 1)})
    forth = dpo(Echo(), Batch(z0, noise, t, condition, rejected=loser), 3.0)  # type: ignore[arg-type]
    seen.clear()
    back = dpo(Echo(), Batch(loser, noise, t, condition, rejected=z0), 3.0)  # type: ignore[arg-type]
    assert torch.allclose(torch.exp(-forth) + torch.exp(-back), torch.ones(3), atol=1e-5)  # σ(x) + σ(−x) = 1
    assert all(torch.equal(times, torch.cat([t, t])) for times in seen)
