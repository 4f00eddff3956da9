"""How fast the solvers come to the ODE's own end as steps are added, and what they remember on the way."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.information.mi import PathMI
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.grids import places_of
from mitune.sampling.loop import noise_of, sample, sample_population, walk
from mitune.sampling.racing import Cut, Racing
from mitune.sampling.solver import Grid, _intervals, solver_of
from tests.analytic import After, three_clouds

MODELS = {
    "diffusion": three_clouds(NoiseSchedule.ddpm(), "v_prediction"),
    "flow": three_clouds(NoiseSchedule.rectified_flow(), "flow"),
}
LABELS, SEEDS = ["a", "b", "a", "b", "a"], [21, 22, 23, 24, 25]
SECOND = ("dpmpp_2m", "unipc", "heun")


@functools.cache
def ended(name: str, kind: str, steps: int) -> Tensor:
    """Unguided latents; a diffusion's on the grid of Karras et al., where every network is told the time itself."""
    model = MODELS[kind]
    spacing = "karras" if kind == "diffusion" else "trailing"
    settings = SamplerConfig(name, steps, eta=0.0, guidance=1.0, spacing=spacing)
    places = places_of(model.schedule, settings, SAMPLERS["heun"])
    grid = Grid(model.schedule, model.prediction_type, _intervals(model.schedule, places, True))
    solver = SAMPLERS[name].load()(grid, settings)
    return walk(model, model.encode_prompts(LABELS), solver, noise_of(model, SEEDS), 1.0).latents


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["ddim", *SECOND])
def test_errors_fall_with_the_order_of_the_solver(name: str, kind: str) -> None:
    exact = ended("heun", kind, 640)
    coarse, fine = (float((ended(name, kind, steps) - exact).abs().max()) for steps in (20, 40))
    if name == "ddim":  # of first order: 2
        assert 1.8 < coarse / fine < 2.3
    else:
        assert coarse / fine > 3.6
        assert fine < 0.5 * float((ended("ddim", kind, 40) - exact).abs().max())
    if (name, kind) == ("unipc", "diffusion"):  # the corrector is of an order more than the predictor
        assert coarse / fine > 6
        assert fine < 0.25 * float((ended("dpmpp_2m", kind, 40) - exact).abs().max())


@pytest.mark.parametrize(
    "table", [{"rescale_zero_terminal_snr": True}, {"beta_schedule": "squaredcos_cap_v2"}]
)
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("name", SECOND)
def test_from_pure_noise_no_solver_is_worse_than_one_of_first_order(
    name: str, spacing: str, table: dict[str, Any]
) -> None:
    model = three_clouds(NoiseSchedule.ddpm(**table), "v_prediction")

    def drawn(sampler: str, steps: int) -> Tensor:
        own = SamplerConfig(sampler, steps, eta=0.0, guidance=1.0, spacing=spacing, set_alpha_to_one=True)
        return sample(model, model.encode_prompts(LABELS), SEEDS, own)

    exact = drawn("ddim", 900)
    for steps in (3, 10):
        error, first = (float((drawn(own, steps) - exact).abs().max()) for own in (name, "ddim"))
        assert error < 1.1 * first


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", SECOND)
def test_what_it_remembers_follows_the_population(name: str, kind: str) -> None:
    model, settings = MODELS[kind], SamplerConfig(name, 9, guidance=3.0, spacing="trailing")
    condition = model.encode_prompts(LABELS)
    whole = sample(model, condition, SEEDS, settings)
    chosen = {2: torch.tensor([3, 0, 4]), 5: torch.tensor([2, 0])}
    watching, alone = [PathMI(model.schedule)], [PathMI(model.schedule)]
    left = sample_population(
        model,
        condition,
        SEEDS,
        settings,
        watching,
        After(lambda step, _: chosen.get(step.index)),
        batch_size=2,
    )
    assert left.rows.tolist() == [4, 3]
    assert torch.equal(left.latents, whole[[4, 3]])
    assert torch.equal(left.latents, sample(model, condition[[4, 3]], [25, 24], settings, alone))
    assert torch.equal(watching[0].result(), alone[0].result())
    race = Racing([Cut(3, 3), Cut(6, 1)], torch.zeros(5), "mi")
    raced = sample_population(model, condition, SEEDS, settings, [PathMI(model.schedule)], race, batch_size=2)
    assert torch.equal(raced.latents, whole[raced.rows])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_candidate_does_not_depend_on_its_batch(name: str) -> None:
    kind = "flow" if SAMPLERS[name].flow_only else "diffusion"
    model, settings = MODELS[kind], SamplerConfig(name, 6, guidance=2.5, spacing="trailing")
    condition = model.encode_prompts(LABELS)
    together = sample(model, condition, SEEDS, settings)
    assert torch.equal(together, sample(model, condition, SEEDS, settings, batch_size=2))
    assert torch.equal(together[3:4], sample(model, condition[[3]], SEEDS[3:4], settings))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].flow_only])
def test_every_sampler_of_diffusions_takes_the_grid_of_karras(name: str) -> None:
    model, settings = MODELS["diffusion"], SamplerConfig(name, 12, guidance=2.0, spacing="karras")
    mi = PathMI(model.schedule)
    drawn = sample(model, model.encode_prompts(LABELS), SEEDS, settings, [mi])
    assert drawn.isfinite().all()
    assert mi.result().isfinite().all()
    times = [at.t for at in solver_of(model, settings).steps]
    assert times[0] == pytest.approx(999)
    assert times[-1] == pytest.approx(0, abs=1e-6)
    assert any(abs(t - round(t)) > 0.1 for t in times)


def test_a_grid_that_a_model_does_not_have_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"sampler.spacing=karras is for diffusions.*leave sampler.spacing out"
    ):
        solver_of(MODELS["flow"], SamplerConfig("dpmpp_2m", 5, spacing="karras"))
    with pytest.raises(UserError, match=r"sampler.steps=1000 must lie in 1…999: .* trained on 1000"):
        solver_of(MODELS["diffusion"], SamplerConfig("unipc", 1000, spacing="linspace"))
    assert len(solver_of(MODELS["diffusion"], SamplerConfig("ddim", 1000, spacing="linspace")).steps) == 1000
