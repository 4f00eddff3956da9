"""`cas` against closed forms: the rule, the densities of Gaussian mixtures, one probe at a time, 16-bit networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mitune.information.cas as module
from mitune.analytic import AnalyticDenoiser
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.cas import CAS, in_float32, path_nodes, quadrature
from mitune.information.catalogue import RULES, SPACINGS, CASConfig
from mitune.noise import NoiseSchedule
from mitune.sampling.seeds import candidate_seed
from tests.analytic import three_clouds

SCHEDULES = {"ddpm": NoiseSchedule.ddpm(), "flow": NoiseSchedule.rectified_flow()}


def mixture(dimensions: int, strength: float, kind: str, seed: int) -> AnalyticDenoiser:
    """Four clouds; "a" is mostly two of them. ``strength``: distance of the centres from the origin, in deviations."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(4, dimensions, generator=generator, dtype=torch.float64)
    means *= strength / means.norm(dim=1, keepdim=True)
    variances = 0.5 + 0.3 * torch.rand(4, generator=generator, dtype=torch.float64) / dimensions**0.5
    weights = {"a": [1, 1, 0.1, 0.1], "b": [0.1, 0.1, 1, 1]}
    return AnalyticDenoiser(means, variances, weights, {"a": 0.5, "b": 0.5}, SCHEDULES[kind])


def cas(
    model: AnalyticDenoiser,
    z0: Tensor,
    condition: Condition,
    seeds: Sequence[int],
    steps: int = 10,
    probes: int = 20,
    recursion: int = 2,
    divergence: str = "hutchinson",
    *,
    rule: str = "simpson38",
    inversion: str = "trapezoid",
    end: str = "denoised",
    spacing: str = "angle",
    **options: Any,
) -> CAS:
    """``cas`` with its keys as arguments."""
    settings = CASConfig(steps, probes, recursion, divergence, rule, inversion, end, spacing)
    return module.cas(model, z0, condition, seeds, settings, **options)


def draw(model: AnalyticDenoiser, n: int, seed: int = 0) -> tuple[Tensor, list[str], Condition]:
    labels = [model.labels[row % len(model.labels)] for row in range(n)]
    return model.sample(labels, torch.Generator().manual_seed(seed)), labels, model.encode_prompts(labels)


def line(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    """Pearson's r, and the slope of the estimate in the exact value."""
    covariance = torch.cov(torch.stack([estimate, exact]))
    r = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
    return float(r), float(covariance[0, 1] / covariance[1, 1])


# -- the rule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "degree"), [("simpson38", 3), ("simpson13", 3), ("trapezoid", 1)])
@pytest.mark.parametrize("points", range(3, 15))
def test_a_rule_is_exact_up_to_its_degree_and_no_further(rule: str, degree: int, points: int) -> None:
    x = torch.arange(points, dtype=torch.float64)
    weights = quadrature(points, rule)
    for power in range(degree + 2):
        exact = (points - 1) ** (power + 1) / (power + 1)
        error = abs(float((weights * x**power).sum()) / exact - 1)
        assert (error < 1e-13) == (power <= degree)


def test_the_rules_are_those_of_the_books() -> None:
    assert (8 * quadrature(7, "simpson38")).tolist() == [3, 9, 9, 6, 9, 9, 3]
    torch.testing.assert_close(3 * quadrature(5, "simpson13"), torch.tensor([1, 4, 2, 4, 1]).double())
    assert quadrature(4, "trapezoid").tolist() == [0.5, 1, 1, 0.5]
    assert all(quadrature(2, rule).tolist() == [0.5, 0.5] for rule in RULES)
    assert all((quadrature(points, rule) > 0).all() for rule in RULES for points in range(2, 30))


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_nodes_integrate_over_log_s(kind: str, spacing: str) -> None:
    nodes = path_nodes(SCHEDULES[kind], 400, "simpson38", spacing)
    ends = (1, 999) if SCHEDULES[kind].kind == "flow" else (0, 999)
    assert (float(nodes.t[0]), float(nodes.t[-1])) == pytest.approx(ends, abs=1e-6)
    assert (nodes.t.diff() > 0).all()
    even = torch.atan(nodes.s) if spacing == "angle" else nodes.t
    torch.testing.assert_close(even.diff(), even.diff().mean().expand(399), rtol=1e-6, atol=0)
    # ∫ (s²/(v + s²) − s²/(1 + s²)) d log s = ½ log((v + s²)/(1 + s²)): Gaussian data of variance v, less the part of
    # unit variance, which is integrated in closed form.
    for v in (0.1, 1.0, 3.0):
        ends = 0.5 * torch.log((v + nodes.s[[0, -1]] ** 2) / (1 + nodes.s[[0, -1]] ** 2))
        integral = (nodes.weights * (nodes.s**2 / (v + nodes.s**2) - nodes.gaussian)).sum()
        assert float(integral) == pytest.approx(float(ends[1] - ends[0]), abs=2e-3)


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(
    ("dimensions", "strength", "seed"),
    [(2, 1.5, 11), (2, 4.0, 12), (16, 2.0, 13), (64, 3.0, 14), (256, 3.0, 15)],
)
def test_converged_it_is_the_information_of_each_picture(
    kind: str, dimensions: int, strength: float, seed: int
) -> None:
    model = mixture(dimensions, strength, kind, seed)
    z0, labels, condition = draw(model, 40, seed)
    found = cas(model, z0, condition, range(40), steps=31, probes=32, recursion=3, batch_size=1024)
    exact = model.information(z0, labels)
    r, slope = line(found.total, exact)
    assert r >= 0.99
    assert abs(slope - 1) <= 0.05
    # Both densities too: of the path and the rule 0.02 nats a dimension; of the probes what they say; of the end, where
    # the data's spread about strength² is neglected beside S² = 213 in the table of Stable Diffusion, their ratio.
    noise = 4 * float(found.standard_error.square().mean().sqrt())
    assert float((found.total - exact).square().mean().sqrt()) <= 0.05 + noise
    for density, truth in (
        (found.conditional, model.log_prob(z0, labels)),
        (found.unconditional, model.log_prob(z0, None)),
    ):
        assert abs(float((density - truth).mean())) <= 0.02 * (dimensions + 1) + strength**2 / 200
        assert line(density, truth)[0] >= 0.99


def test_the_average_is_the_divergence() -> None:
    model = mixture(8, 2.0, "ddpm", 5)
    labels = ["a"] * 300
    z0 = model.sample(labels, torch.Generator().manual_seed(6))
    found = cas(model, z0, model.encode_prompts(labels), range(300), steps=16, probes=32, batch_size=4096)
    error = found.total - model.information(z0, labels)
    assert abs(float(error.mean())) <= 3 * float(error.std()) / 300**0.5 + 0.03


def test_more_steps_bring_it_closer_and_the_better_path_is_better() -> None:
    model = mixture(4, 1.5, "flow", 3)
    z0, labels, condition = draw(model, 60, 4)
    exact = model.log_prob(z0, labels)

    def error(steps: int, inversion: str) -> float:
        found = cas(
            model, z0, condition, range(60), steps, 64, 3, "jvp", inversion=inversion, batch_size=4096
        )
        return abs(float((found.conditional - exact).mean()))

    coarse, fine = error(10, "ddim"), error(40, "ddim")
    assert fine < 0.5 * coarse  # first order: a quarter, and the noise of the probes
    assert error(10, "trapezoid") < 0.6 * coarse


def test_a_prompt_that_says_nothing_has_no_information() -> None:
    # Both branches share their probes: the difference is 0, not only on average.
    model = three_clouds()
    z0, _, _ = draw(model, 5)
    found = cas(model, z0, model.null(5), range(5), probes=3)
    assert found.total.abs().max() < 1e-12
    assert found.standard_error.max() < 1e-12


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample", "flow"])
def test_every_prediction_type_gives_the_same(prediction_type: str) -> None:
    kind = "flow" if prediction_type == "flow" else "ddpm"
    plain, other = three_clouds(SCHEDULES[kind]), three_clouds(SCHEDULES[kind], prediction_type)
    z0, _, condition = draw(plain, 6)
    first, second = (cas(model, z0, condition, range(6), probes=3) for model in (plain, other))
    torch.testing.assert_close(first.conditional, second.conditional, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first.total, second.total, rtol=1e-6, atol=1e-6)


def test_a_finite_difference_tends_to_the_exact_derivative() -> None:
    model = three_clouds()
    z0, _, condition = draw(model, 20)
    exact = cas(model, z0, condition, range(20), divergence="jvp").total
    errors = [
        float((cas(model, z0, condition, range(20), epsilon=epsilon).total - exact).abs().max())
        for epsilon in (1e-1, 1e-3, 1e-5)
    ]
    assert errors[1] < 0.05 * errors[0]  # first order in epsilon
    assert errors[2] < 1e-4


def test_the_standard_error_is_the_spread_over_probes() -> None:
    model = mixture(12, 2.0, "ddpm", 8)
    z0, _, condition = draw(model, 1)
    n = 400
    found = cas(model, z0.expand(n, -1), condition[[0] * n], range(500, 500 + n), probes=8, batch_size=4096)
    # The spread of n values is known to 1/√(2n) = 3.5 %.
    assert float(found.standard_error.square().mean().sqrt()) == pytest.approx(
        float(found.total.std()), rel=0.15
    )
    assert cas(model, z0, condition, [1], probes=1).standard_error.isnan().all()


def test_where_signal_is_left_at_the_end_it_is_not_forgotten() -> None:
    # Stable Diffusion's table ends at α = 0.068: centres 6 away are still 0.4 deviations apart.
    model = mixture(8, 6.0, "ddpm", 9)
    z0, labels, condition = draw(model, 60, 2)
    exact = model.information(z0, labels)
    options = {"steps": 31, "probes": 32, "recursion": 3, "batch_size": 4096}
    denoised = cas(model, z0, condition, range(60), **options).total - exact
    normal = cas(model, z0, condition, range(60), **options, end="normal").total - exact
    assert denoised.square().mean() < 0.3 * normal.square().mean()


# -- one at a time -----------------------------------------------------------------------------------------------------


def one_at_a_time(
    model: AnalyticDenoiser, z0: Tensor, condition: Condition, seed: int, epsilon: float, inversion: str
) -> float:
    """log p of one picture [1, d] with two probes, ten nodes and one recursion, every number on its own."""
    nodes = path_nodes(model.schedule, 10)
    generator = torch.Generator().manual_seed(candidate_seed(seed, "cas", 0))
    x, d, total = z0, z0.numel(), 0.0
    for j in range(10):
        t, alpha, sigma = (float(values[j]) for values in (nodes.t, nodes.alpha, nodes.sigma))
        eps = model.epsilon(alpha * x, t, condition)
        signs = torch.randint(0, 2, (2, d), generator=generator, dtype=torch.uint8)
        trace = 0.0
        for v in 2.0 * signs.double() - 1:
            moved = model.epsilon(alpha * x + epsilon * sigma * v, t, condition)
            trace += float((v * (moved - eps)).sum()) / epsilon / 2
        s = sigma / alpha
        total += float(nodes.weights[j]) * (trace - d * s**2 / (1 + s**2))
        if j < 9:
            step = float(nodes.s[j + 1]) - s
            ahead = model.epsilon(
                float(nodes.alpha[j + 1]) * (x + step * eps), float(nodes.t[j + 1]), condition
            )
            x = x + step * (ahead if inversion == "ddim" else (eps + ahead) / 2)
    first, last = float(nodes.s[0]), float(nodes.s[-1])
    end = -0.5 * float(eps.square().sum()) * (1 + last**-2) - 0.5 * d * math.log(2 * math.pi * (1 + last**2))
    return total + end + 0.5 * d * math.log((1 + last**2) / (1 + first**2))


@pytest.mark.parametrize("inversion", ["trapezoid", "ddim"])
def test_it_is_what_one_picture_and_one_probe_at_a_time_give(inversion: str) -> None:
    model = three_clouds()
    z0, _, condition = draw(model, 5, 3)
    found = cas(model, z0, condition, range(40, 45), probes=2, recursion=1, inversion=inversion, batch_size=7)
    for row in range(5):
        for density, told in ((found.conditional, condition[row]), (found.unconditional, model.null(1))):
            expected = one_at_a_time(model, z0[row : row + 1], told, 40 + row, 1e-2, inversion)
            assert float(density[row]) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("divergence", ["hutchinson", "jvp"])
def test_neither_batch_size_nor_company_changes_the_numbers(divergence: str) -> None:
    model = mixture(5, 2.0, "flow", 1)
    z0, _, condition = draw(model, 9)
    options = {"steps": 4, "probes": 3, "divergence": divergence}
    whole = cas(model, z0, condition, range(9), **options)
    for batch_size in (1, 2, 7, 1000):
        part = cas(model, z0, condition, range(9), **options, batch_size=batch_size)
        torch.testing.assert_close(part.total, whole.total, rtol=0, atol=1e-9)
        torch.testing.assert_close(part.conditional, whole.conditional, rtol=0, atol=1e-9)
        torch.testing.assert_close(part.standard_error, whole.standard_error, rtol=0, atol=1e-9)
    rows = [6, 2, 8]
    some = cas(model, z0[rows], condition[rows], rows, **options)
    torch.testing.assert_close(some.total, whole.total[rows], rtol=0, atol=1e-9)


def test_the_seed_of_a_candidate_decides() -> None:
    model = three_clouds()
    z0, _, condition = draw(model, 2)
    first = cas(model, z0, condition, [3, 4], probes=2)
    again = cas(model, z0, condition, [3, 5], probes=2)
    assert first.total[0] == again.total[0]
    assert first.total[1] != again.total[1]


class Counting(AnalyticDenoiser):
    """Notes the rows of every forward."""

    rows: list[int]

    def predict(self, z: Tensor, t: Tensor | int | float, condition: Condition) -> Tensor:
        self.rows = [*getattr(self, "rows", []), len(z)]
        return super().predict(z, t, condition)


@pytest.mark.parametrize(("divergence", "cost"), [("hutchinson", 5 + 1), ("jvp", 2 * 5)])
def test_it_costs_what_it_says(divergence: str, cost: int) -> None:
    model = Counting([[0.0, 1.0]], [0.5], {"a": [1]}, {"a": 1.0}, SCHEDULES["ddpm"])
    cas(
        model, torch.zeros(6, 2), model.encode_prompts(["a"] * 6), range(6), 4, 5, 2, divergence, batch_size=8
    )
    assert model.forwards == 2 * 6 * (4 * cost + 3 * 2)
    assert max(model.rows) == 8
    # 4 + 2 pictures: hardly more forwards than full ones would be.
    network_rows = model.forwards - (2 * 6 * 4 * 5 if divergence == "jvp" else 0)
    assert len(model.rows) <= network_rows / 8 + 8


# -- networks ----------------------------------------------------------------------------------------------------------


def test_the_embedded_model_has_densities() -> None:
    model = load_denoiser({"path": "shapes", "device": "cpu", "dtype": "float32"})
    condition = model.encode_prompts(["a red circle", "a blue square left of a green triangle"])
    z0 = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(2))
    options = {"steps": 3, "probes": 2, "recursion": 1}
    found: dict[str, CAS] = {
        name: cas(model, z0, condition, [1, 2], **options, divergence=name) for name in ("hutchinson", "jvp")
    }
    for name, got in found.items():
        assert got.total.shape == (2,), name
        assert got.total.dtype == torch.float64
        assert got.conditional.isfinite().all()
        assert (got.total.abs() < 0.3 * got.conditional.abs()).all()
    # The same probes: what is left is the curvature within a hundredth of a deviation, and float32.
    apart = found["hutchinson"].conditional - found["jvp"].conditional
    assert float(apart.abs().max()) < 0.005 * float(found["jvp"].conditional.abs().max())
    torch.testing.assert_close(
        cas(model, z0, condition, [1, 2], **options, batch_size=1).total,
        found["hutchinson"].total,
        rtol=0,
        atol=0.05,
    )


@pytest.mark.parametrize("divergence", ["hutchinson", "jvp"])
def test_a_16_bit_network_works_in_float32_and_comes_back(
    tiny_pipeline_folder: Path, divergence: str
) -> None:
    half, full = (
        load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu", "dtype": dtype})
        for dtype in ("bfloat16", "float32")
    )
    before = {name: value.clone() for name, value in half.network.state_dict().items()}
    full.network.load_state_dict({name: value.float() for name, value in before.items()})
    condition = half.encode_prompts(["a red circle", "a cat"])
    z0 = torch.randn(2, *half.latent_shape, generator=torch.Generator().manual_seed(1))
    options = {"steps": 3, "probes": 2, "divergence": divergence}
    found = cas(half, z0, condition, [1, 2], **options)
    # The same weights in float32, and the same embeddings: the same numbers.
    expected = cas(full, z0, condition, [1, 2], **options, null=half.null(2))
    assert torch.equal(found.conditional, expected.conditional)
    assert torch.equal(found.unconditional, expected.unconditional)
    assert half.dtype == torch.bfloat16
    for name, value in half.network.state_dict().items():
        assert torch.equal(value, before[name])
    # Left at 16 bits it is rough, but not wrong.
    rough = cas(half, z0, condition, [1, 2], **options, upcast=False)
    assert float((rough.conditional - expected.conditional).abs().max()) < 0.1 * float(
        expected.conditional.abs().max()
    )


class SixteenBits(AnalyticDenoiser):
    """An exact denoiser behind a 16-bit door: it reads and answers in ``kept``."""

    kept = torch.bfloat16

    def predict(self, z: Tensor, t: Tensor | int | float, condition: Condition) -> Tensor:
        return super().predict(z.to(self.kept).to(z.dtype), t, condition).to(self.kept).to(z.dtype)


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-6])
def test_a_displacement_too_small_for_the_type_is_not_lost(kept: torch.dtype, epsilon: float) -> None:
    means, weights = torch.full((1, 64), 3.0), {"a": [1]}
    exact = AnalyticDenoiser(means, [0.8], weights, {"a": 1.0}, SCHEDULES["ddpm"])
    model = SixteenBits(means, [0.8], weights, {"a": 1.0}, SCHEDULES["ddpm"])
    model.dtype = model.kept = kept
    z0, _, condition = draw(exact, 8, 1)
    truth = cas(exact, z0, condition, range(8)).conditional
    found = cas(model, z0, condition, range(8), epsilon=epsilon).conditional
    # Answers of one last digit more or less, divided by the displacement, over 64 coordinates and 20 probes, ten nodes.
    digit = torch.finfo(kept).eps ** 0.5 * (64 / 20) ** 0.5
    assert float((found - truth).abs().max()) < 4 * digit * 10**0.5 + 64 * torch.finfo(kept).eps


def test_weights_come_back_after_an_error_too() -> None:
    network = nn.Sequential(nn.Linear(3, 3).half(), nn.BatchNorm1d(3).bfloat16(), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = list(network.parameters())

    def fail() -> None:
        with in_float32(network, torch.device("cpu")):
            assert {value.dtype for value in network.parameters()} == {torch.float32}
            assert {value.dtype for value in network.buffers()} == {torch.float32, torch.int64}
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))


def test_tf32_is_off_meanwhile_on_a_gpu() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with in_float32(None, torch.device("cuda")):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "simpson"}, "rule=simpson: it is one of"),
        ({"divergence": "exact"}, "divergence=exact: it is one of"),
        ({"inversion": "ddpm"}, "inversion=ddpm: .* did you mean 'ddim'"),
        ({"end": "noise"}, "end=noise: it is one of"),
        ({"spacing": "log"}, "spacing=log: it is one of"),
        ({"steps": 1}, "steps=1: must be at least 2"),
        ({"probes": 0}, "probes=0: must be at least 1"),
        ({"recursion": -1}, "recursion=-1"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
    ],
)
def test_what_is_refused(options: dict[str, object], says: str) -> None:
    model = three_clouds()
    z0, _, condition = draw(model, 2)
    with pytest.raises(UserError, match=says):
        cas(model, z0, condition, [1, 2], **options)  # type: ignore[arg-type]


def test_lengths_must_agree_and_nothing_gives_nothing() -> None:
    model = three_clouds()
    z0, _, condition = draw(model, 2)
    with pytest.raises(ValueError, match="2 latents"):
        cas(model, z0, condition, [1])
    empty = cas(model, z0[:0], condition[:0], [])
    assert empty.total.shape == empty.conditional.shape == (0,)
