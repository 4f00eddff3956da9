"""Racing: who is dropped, that survivors are untouched, and that every forward is accounted for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mitune.errors import UserError
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample, sample_population
from mitune.sampling.racing import (
    Cut,
    Pilot,
    Racing,
    best_of_groups,
    check_cuts,
    cuts_for,
    rows_of,
    steps_at,
)
from tests.analytic import After, three_clouds

pytestmark = pytest.mark.fresh_draws

SAMPLER = SamplerConfig("ddpm", 10, guidance=2.0, spacing="leading")
LABELS = ["a"] * 6 + ["b"] * 6
GROUPS = torch.tensor([0] * 6 + [1] * 6)
SEEDS = torch.randint(2**40, (12,), generator=torch.Generator().manual_seed(torch.seed() % 2**32)).tolist()


def raced(cuts, by="llr", batch_size=None, model=None, look=None):
    """(what is left, the policy, the observers) of a race of both groups."""
    model = model or three_clouds()
    observers = [PathMI(model.schedule), PathLLR()]
    policy = Racing(cuts, GROUPS, look or by)
    left = sample_population(
        model, model.encode_prompts(LABELS), SEEDS, SAMPLER, observers, policy, batch_size
    )
    return left, policy, observers


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_best_of_every_group_are_those_a_plain_sort_finds(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=30))
    values = data.draw(st.lists(st.integers(-3, 3), min_size=len(groups), max_size=len(groups)))
    count = data.draw(st.integers(1, 6))
    wanted = []
    for group in set(groups):
        rows = [row for row, own in enumerate(groups) if own == group]
        wanted += sorted(rows, key=lambda row: (-values[row], row))[:count]
    found = best_of_groups(torch.tensor(values, dtype=torch.float64), torch.tensor(groups), count)
    assert found.tolist() == sorted(wanted)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("by", ["mi", "llr"])
def test_survivors_are_those_that_would_have_been_drawn(by: str, batch_size: int | None) -> None:
    model = three_clouds()
    observers = [PathMI(model.schedule), PathLLR()]
    condition = model.encode_prompts(LABELS)
    whole = sample(model, condition, SEEDS, SAMPLER, observers)
    scores = [observer.result() for observer in observers]
    left, policy, watching = raced([Cut(3, 4), Cut(7, 2)], by, batch_size)
    assert left.rows.tolist() == (policy.dropped_at == 0).nonzero().flatten().tolist()
    assert torch.equal(left.latents, whole[left.rows])
    for observer, score in zip(watching, scores, strict=True):
        assert torch.equal(observer.result(), score[left.rows])


def test_the_lowest_of_every_prompt_are_dropped_and_noted() -> None:
    """The running score is known without racing: a pilot notes it, and drops nobody."""
    model = three_clouds()
    pilot = Pilot({"llr": "llr"}, {"llr": [3, 7, 10]})
    whole = sample_population(
        model, model.encode_prompts(LABELS), SEEDS, SAMPLER, [PathLLR()], pilot
    )  # fmt: skip
    assert len(whole.rows) == 12
    assert set(pilot.scores["llr"]) == {3, 7}  # the seam is not asked after the last step
    _, policy, _ = raced([Cut(3, 4), Cut(7, 1)])
    for group in (GROUPS == 0, GROUPS == 1):
        rows = group.nonzero().flatten()
        first, second = (pilot.scores["llr"][step] for step in (3, 7))
        through = rows[first[rows].argsort(descending=True)][:4]
        winner = through[second[through].argmax()]
        for row in rows.tolist():
            ranked = row in through.tolist()
            assert policy.dropped_at[row] == (0 if row == winner else 7 if ranked else 3)
            assert policy.score[row] == (second if ranked else first)[row]


def test_a_look_sees_the_predicted_picture_and_its_forwards_count() -> None:
    model, seen = three_clouds(), []

    def look(z0: Tensor, rows: Tensor, step: int) -> Tensor:
        seen.append((rows.tolist(), step, len(z0)))
        model.predict(z0, 500, model.encode_prompts([LABELS[row] for row in rows]))
        return model.information(z0, [LABELS[row] for row in rows])

    cuts = [Cut(4, 3), Cut(8, 2)]
    left, policy, _ = raced(cuts, model=model, look=look)
    assert [(step, n) for _, step, n in seen] == [(4, 12), (8, 6)]
    assert model.forwards == 2 * rows_of(cuts, 6, 10, look=1)
    assert len(left.rows) == 4
    assert torch.isfinite(policy.score).all()
    alone = sample(model, model.encode_prompts([LABELS[row] for row in left.rows]), [SEEDS[row] for row in left.rows],
                   SAMPLER)  # fmt: skip
    assert torch.equal(left.latents, alone)


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_predicted_picture_is_the_mean_of_the_pictures_there_could_be(kind: str) -> None:
    """Unguided, ẑ_0 = E[z_0|z_t, c]; for one Gaussian N(m, s²) that is (s² α z + σ² m)/(α² s² + σ²)."""
    schedule = NoiseSchedule.ddpm() if kind == "vp" else NoiseSchedule.rectified_flow()
    model = three_clouds(schedule, "epsilon" if kind == "vp" else "flow")
    model._weights[0] = torch.tensor([1.0, 0.0, 0.0])
    checked = []

    def policy(step, population):
        alpha, sigma = float(schedule.alpha(step.t)), float(schedule.sigma(step.t))
        if alpha > 0.01:
            mean = (0.3 * alpha * step.z + sigma**2 * model.means[0]) / (alpha**2 * 0.3 + sigma**2)
            torch.testing.assert_close(step.predicted, mean, rtol=1e-6, atol=1e-6)
            checked.append(step.index)

    plain = SamplerConfig("ddim", 8, eta=1.0, guidance=1.0, spacing="leading")
    sample(model, model.encode_prompts(["a"] * 5), SEEDS[:5], plain, guide=After(policy))
    assert len(checked) >= 5


def test_racing_by_the_exact_information_beats_a_smaller_pool() -> None:
    """What racing is for: by a look that knows, the winner of 16 is kept far more often than by lot (4 of 16)."""
    model, prompts, each = three_clouds(), 400, 16
    labels, groups = ["b"] * (prompts * each), torch.arange(prompts).repeat_interleave(each)
    seeds = torch.arange(len(labels)).add(SEEDS[0]).tolist()
    sampler, condition = (
        SamplerConfig("ddpm", 20, guidance=2.0, spacing="leading"),
        model.encode_prompts(labels),
    )
    whole = sample(model, condition, seeds, sampler)
    best = model.information(whole, labels).reshape(prompts, each).argmax(1) + torch.arange(prompts) * each
    policy = Racing([Cut(14, 4)], groups, lambda z0, rows, step: model.information(z0, ["b"] * len(z0)))
    left = sample_population(model, condition, seeds, sampler, guide=policy)
    kept = torch.isin(best, left.rows).double().mean()
    # By lot 0.25, with a standard error of 0.022 over 400 prompts.
    assert kept > 0.25 + 4 * 0.022


def test_a_nan_is_not_dropped_out_of_sight() -> None:
    def look(z0: Tensor, rows: Tensor, step: int) -> Tensor:
        return torch.where(rows == 4, float("nan"), rows.double())

    left, policy, _ = raced([Cut(2, 1)], look=look)
    assert left.rows.tolist() == [4, 11]
    assert policy.score[4].isnan()


# -- schedules ---------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_rows_are_those_that_candidates_take_one_by_one(data: st.DataObject) -> None:
    steps, candidates = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 20))
    at = sorted(data.draw(st.sets(st.integers(1, steps - 1), min_size=1, max_size=3)))
    lefts = sorted(
        data.draw(st.lists(st.integers(1, candidates), min_size=len(at), max_size=len(at))), reverse=True
    )
    cuts = [Cut(step, left) for step, left in zip(at, lefts, strict=True)]
    look, finish = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    total = 0
    for rank in range(candidates):  # a candidate is dropped at the first cut that leaves fewer than its rank
        end = next((number for number, cut in enumerate(cuts) if rank >= cut.survivors), None)
        total += 2 * (steps if end is None else cuts[end].step)
        total += look * (len(cuts) if end is None else end + 1) + (finish if end is None else 0)
    assert rows_of(cuts, candidates, steps, look, finish) == total


@pytest.mark.parametrize(("at", "look"), [([6], 0), ([4, 9], 0), ([4], 4), ([3, 6, 12], 1)])
@pytest.mark.parametrize(("candidates", "branches"), [(12, 2), (16, 2), (50, 2), (16, 3)])
def test_a_speedup_is_reached_with_as_many_survivors_as_it_allows(
    candidates: int, branches: int, at: list[int], look: int
) -> None:
    steps = 20
    cuts = cuts_for(1.9, at, candidates, steps, 1, look, branches)
    whole = rows_of([], candidates, steps, branches=branches)
    assert [cut.step for cut in cuts] == at
    assert whole >= 1.9 * rows_of(cuts, candidates, steps, look, branches=branches)
    check_cuts(cuts, candidates, 1)
    more = [*cuts[:-1], Cut(at[-1], cuts[-1].survivors + 1)]
    if len(at) == 1:
        assert whole < 1.9 * rows_of(more, candidates, steps, look, branches=branches)


def test_a_look_weighs_less_where_a_step_has_more_branches() -> None:
    assert [cuts_for(1.2, [1], 4, 3, 1, 2, branches)[0].survivors for branches in (3, 4)] == [1, 2]
    with pytest.raises(UserError, match=r"fall 1\.20 times only"):
        cuts_for(1.3, [1], 4, 3, 1, 2)


def test_schedules_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"speedup=4.*fall 2\.\d+ times only"):
        cuts_for(4, [8], 16, 20, 1)
    with pytest.raises(UserError, match="3 cuts need more than 3 candidates"):
        cuts_for(1.1, [2, 4, 6], 3, 20, 1)
    with pytest.raises(UserError, match=r"survivors=\[8,2\]: 3 candidates a prompt must be left"):
        check_cuts([Cut(4, 8), Cut(8, 2)], 16, 3)
    with pytest.raises(UserError, match="after step 8 leaves 8 of 8"):
        check_cuts([Cut(4, 8), Cut(8, 8)], 16, 3)
    assert steps_at([0.4, 15], 20) == [8, 15]
    for at in ([0.0], [-1], [1.5], [20], [0.5, 0.4], [0.5, 10], [float("nan")], []):
        with pytest.raises(UserError, match=r"sampler\.racing\.at"):
            steps_at(at, 20)
    model = three_clouds()
    policy = Racing([Cut(1, 1)], torch.zeros(2), "mi")
    with pytest.raises(ValueError, match="no observer 'mi'; there are llr"):
        sample(model, model.encode_prompts(["a", "a"]), [1, 2], SAMPLER, [PathLLR()], policy)
