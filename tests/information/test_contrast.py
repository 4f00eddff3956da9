"""`contrast` against closed forms: Gaussian mixtures whose labels are the prompts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mitune.analytic import AnalyticDenoiser
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.information.contrast import contrast, soft_least
from mitune.information.denoising import gaps
from mitune.information.llr import llr_image
from mitune.information.negatives import Pool
from mitune.information.noising import Noising
from mitune.information.times import Weighting, time_grid
from mitune.noise import NoiseSchedule

LABELS = ("a", "b", "c", "d")


class Counting(AnalyticDenoiser):
    """An analytic denoiser that notes which texts it encodes and how many rows each forward has."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        weights = {label: torch.eye(4)[k] + 0.05 for k, label in enumerate(LABELS)}
        super().__init__(
            means, torch.full((4,), 0.3), weights, dict.fromkeys(LABELS, 0.25), NoiseSchedule.ddpm()
        )
        self.encoded: list[str] = []
        self.batches: list[int] = []

    def encode_prompts(self, prompts: list[str]) -> Condition:
        self.encoded += prompts
        return super().encode_prompts(prompts)

    def predict(self, z: Tensor, t: Tensor | int | float, condition: Condition) -> Tensor:
        self.batches.append(len(z))
        return super().predict(z, t, condition)


def case(n: int) -> tuple[Counting, Tensor, list[str], list[list[str]], list[int]]:
    model = Counting()
    prompts = [LABELS[row % 4] for row in range(n)]
    z0 = model.sample(prompts, torch.Generator().manual_seed(1))
    model.encoded.clear()
    # Three negatives for most, fewer for some.
    negatives = [
        [x for x in LABELS if x != prompt][: 3 - (row % 5 == 0)] for row, prompt in enumerate(prompts)
    ]
    return model, z0, prompts, negatives, list(range(100, 100 + n))


def test_soft_least_is_the_infonce_form() -> None:
    gap = torch.tensor([[1.0, 2.0], [-3.0, 500.0]], dtype=torch.float64)
    expected = [-torch.log(torch.exp(-row).sum()) for row in gap]
    torch.testing.assert_close(soft_least(gap), torch.stack(expected))
    assert (soft_least(gap) <= gap.min(dim=1).values).all()


def test_contrast_is_minus_log_sum_exp_of_the_gaps() -> None:
    model, z0, prompts, negatives, seeds = case(7)
    t, weights = time_grid(model.schedule, 5, 100, 900)
    score = contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 16))
    for row in range(7):
        conditions = [model.encode_prompts([text]) for text in (prompts[row], *negatives[row])]
        error = gaps(model, z0[row : row + 1], conditions, Noising(t, weights, seeds[row : row + 1])).double()
        expected = -torch.logsumexp(error[0, 0] - error[0, 1:], dim=0)
        assert score[row].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("noise", ["independent", "antithetic", "coupled"])
def test_contrast_follows_the_exact_log_ratio(noise: str) -> None:
    model, z0, prompts, negatives, seeds = case(60)
    t, weights = time_grid(model.schedule, 60, 20, 1000)
    score = contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 256, noise))
    own = model.log_prob(z0, prompts)
    exact = torch.stack(
        [
            soft_least(
                torch.stack([own[row] - model.log_prob(z0[row : row + 1], [x])[0] for x in negatives[row]])
            )
            for row in range(60)
        ]
    )
    assert torch.corrcoef(torch.stack([score, exact]))[0, 1] > 0.9


def test_a_picture_of_another_prompt_scores_lower() -> None:
    model, _, prompts, negatives, seeds = case(40)
    t, weights = time_grid(model.schedule, 20, 100, 1000)
    right = model.sample(prompts, torch.Generator().manual_seed(2))
    wrong = model.sample([others[0] for others in negatives], torch.Generator().manual_seed(2))
    better = contrast(model, right, prompts, negatives, Noising(t, weights, seeds))
    worse = contrast(model, wrong, prompts, negatives, Noising(t, weights, seeds))
    assert better.mean() > worse.mean() + 1


def test_neither_batch_size_nor_company_changes_a_score() -> None:
    model, z0, prompts, negatives, seeds = case(9)
    t, weights = time_grid(model.schedule, 4, 200, 900)
    whole = contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 64))
    torch.testing.assert_close(
        whole, contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 3)), rtol=1e-5, atol=1e-5
    )
    order = [5, 2, 8, 0]
    some = contrast(
        model,
        z0[order],
        [prompts[i] for i in order],
        [negatives[i] for i in order],
        Noising(t, weights, [seeds[i] for i in order]),
    )
    torch.testing.assert_close(some, whole[order], rtol=1e-5, atol=1e-5)


def test_it_costs_one_forward_for_each_condition_and_time_and_encodes_a_text_once() -> None:
    model, z0, prompts, negatives, seeds = case(20)
    t, weights = time_grid(model.schedule, 4, 200, 900)
    contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 32))
    rows = 4 * sum(len(others) + 1 for others in negatives)
    assert model.forwards == sum(model.batches) == rows
    assert sorted(model.encoded) == sorted(set(itertools.chain(prompts, *negatives)))
    # Candidates of different prompts share the batches: hardly more of them than full ones would be.
    assert max(model.batches) <= 32
    assert len(model.batches) <= rows / 32 + 2


def test_on_a_path_it_is_the_llr_against_one_other_prompt() -> None:
    model, z0, prompts, negatives, seeds = case(4)
    one = [others[:1] for others in negatives]
    t, weights = time_grid(model.schedule, 6, 50, 1000)
    score = contrast(model, z0, prompts, one, Noising(t, weights, seeds, noise="coupled"))
    own, other = model.encode_prompts(prompts), model.encode_prompts([texts[0] for texts in one])
    of_own, of_other = (llr_image(model, z0, c, Noising(t, torch.ones_like(t), seeds)) for c in (own, other))
    torch.testing.assert_close(score.float(), of_own - of_other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighting", ["paper", "uniform"])
def test_other_weightings_rank_much_alike(weighting: str) -> None:
    model, z0, prompts, negatives, seeds = case(40)
    t, natural = time_grid(model.schedule, 30, 20, 1000)
    weights = time_grid(model.schedule, 30, 20, 1000, weighting).weights
    weight = Weighting(model.schedule, weighting, 20, 1000)
    for noise, emphasis in (("antithetic", None), ("coupled", weight.emphasis(t))):
        plain = contrast(model, z0, prompts, negatives, Noising(t, natural, seeds, 512, noise))
        other = contrast(model, z0, prompts, negatives, Noising(t, weights, seeds, 512, noise, emphasis))
        assert not torch.allclose(plain, other)
        assert torch.corrcoef(torch.stack([plain, other]))[0, 1] > 0.7


def test_the_batchs_own_prompts_serve_as_negatives() -> None:
    model, z0, prompts, _, seeds = case(8)
    t, weights = time_grid(model.schedule, 30, 20, 1000)
    pool = Pool(prompts)
    others = [pool.others(prompt, "pool", 3) for prompt in prompts]
    score = contrast(model, z0, prompts, others, Noising(t, weights, seeds, 512, "coupled"))
    assert all(set(texts) == set(LABELS) - {prompt} for prompt, texts in zip(prompts, others, strict=True))
    assert score.mean() > 0


def test_what_is_refused() -> None:
    model, z0, prompts, negatives, seeds = case(3)
    t, weights = time_grid(model.schedule, 2, 200, 900)
    with pytest.raises(UserError, match="'b'"):
        contrast(model, z0, prompts, [negatives[0], [], negatives[2]], Noising(t, weights, seeds))
    with pytest.raises(ValueError, match="2 prompts"):
        contrast(model, z0, prompts[:2], negatives, Noising(t, weights, seeds))
    assert contrast(model, z0[:0], [], [], Noising(t, weights, [])).shape == (0,)
