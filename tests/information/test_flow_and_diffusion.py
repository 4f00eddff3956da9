"""One distribution as a diffusion and as a rectified flow: the same information, and the closed form (RFMI)."""

from __future__ import annotations

import pytest
import torch

from mitune.information.elbo import elbo, mi_and_elbo
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.information.noising import Noising
from mitune.information.times import time_grid
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from tests.analytic import exact_kl, three_clouds, within_three_errors
from tests.information.mixtures import LABELS, mixture, pictures

VP, FLOW = NoiseSchedule.ddpm(), NoiseSchedule.rectified_flow()
RANGE = (5, 1000)


def information(denoiser, z0, labels, seed=0, **form):
    """MI of each picture [n], float64, on forward noise."""
    t, weights = time_grid(denoiser.schedule, 40, *RANGE)
    seeds = range(seed, seed + len(z0))
    return mi_and_elbo(
        denoiser, z0, denoiser.encode_prompts(labels), Noising(t, weights, seeds, 5000), **form
    )[0].double()


def test_rfmi_by_velocities_is_the_divergence_in_closed_form():
    # arXiv 2503.14358: ∫ (1 − t)/t ‖v̂_c − v̂_∅‖² dt over t in (0, 1) is KL(p(z|c) ‖ p(z)); by hand, on a fine grid.
    denoiser = three_clouds(FLOW, "flow")
    n, steps = 400, 200
    z0 = denoiser.sample(["a"] * n, torch.Generator().manual_seed(0))
    c, null = denoiser.encode_prompts(["a"] * n), denoiser.null(n)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(n, dtype=torch.float64)
    low = RANGE[0] / 1000
    for k in range(steps):
        t = low + (1 - low) * (k + 0.5) / steps
        z = FLOW.add_noise(z0, torch.randn(n, 2, generator=generator, dtype=torch.float64), 1000 * t)
        gap = denoiser.predict(z, 1000 * t, c) - denoiser.predict(z, 1000 * t, null)
        total += (1 - t) / t * gap.square().sum(1) * (1 - low) / steps
    truth = exact_kl(denoiser, "a")
    assert within_three_errors(total, truth)
    # Ours, by ε̂ and λ', is the same number: on other noise, so within the error of both.
    ours = information(denoiser, z0, ["a"] * n)
    assert within_three_errors(ours, truth)
    assert within_three_errors(ours - total, 0.0)


@pytest.mark.parametrize("form", ["square", "orthogonal"])
def test_a_diffusion_and_a_flow_of_one_distribution_have_the_same_information(form):
    # Label by label the square form; the orthogonal one is a divergence only on average over the labels.
    diffusion, flow = mixture(3, 0.9, VP), mixture(3, 0.9, FLOW, prediction_type="flow")
    z0, labels = pictures(diffusion, 1200, seed=2)
    assert torch.equal(diffusion.information(z0, labels), flow.information(z0, labels))
    values = [information(model, z0, labels, form=form) for model in (diffusion, flow)]
    exact = diffusion.information(z0, labels)
    parts = [slice(k, None, len(LABELS)) for k in range(len(LABELS))] if form == "square" else [slice(None)]
    for part in parts:
        assert within_three_errors(values[0][part] - values[1][part], 0.0)
        for value in values:
            assert within_three_errors(value[part] - exact[part], 0.0)


def test_on_the_sampled_path_too():
    # Unguided stochastic paths: MI along the path, and the ratio of path densities, of both models.
    n, truth = 300, exact_kl(three_clouds(), "a")
    for model in (three_clouds(VP), three_clouds(FLOW, "flow")):
        observers = [PathMI(model.schedule, "continuous", t_min=0), PathLLR()]
        sampler = SamplerConfig("ddpm", 250, guidance=1.0, spacing="leading")
        z = sample(model, model.encode_prompts(["a"] * n), range(n), sampler, observers)
        mi, llr = (observer.result().double() for observer in observers)
        assert within_three_errors(mi, truth)
        exact = model.information(z, ["a"] * n)
        assert float(torch.corrcoef(torch.stack([llr, exact]))[0, 1]) > 0.98


def test_the_elbo_of_a_picture_is_the_same_in_both_models():
    diffusion, flow = three_clouds(VP), three_clouds(FLOW, "flow")
    z0 = diffusion.sample(["a", "b"] * 20, torch.Generator().manual_seed(4))
    labels = ["a", "b"] * 20
    exact = diffusion.information(z0, labels)
    for model in (diffusion, flow):
        t, weights = time_grid(model.schedule, 400, *RANGE)
        value = elbo(model, z0, model.encode_prompts(labels), Noising(t, weights, range(40)))
        assert float(torch.corrcoef(torch.stack([value.double(), exact]))[0, 1]) > 0.9


def test_rfmi_on_the_path_is_the_product_of_velocities():
    # arXiv 2503.14358: Σ (1 − t)/t · v̂_c·(v̂_c − v̂_∅) dt along the path, by hand with the raw outputs of the network.
    model = three_clouds(FLOW, "flow")
    labels = ["a", "b", "a"]
    given, null = model.encode_prompts(labels), model.null(3)
    observer = PathMI(FLOW, "continuous", t_min=50, form="orthogonal")
    total, edge = torch.zeros(3, dtype=torch.float64), float(observer.weighting.primitive(1000))

    class ByHand:
        name = "by hand"

        def start(self, n, device): ...

        def select(self, rows): ...

        def result(self):
            return total

        def observe(self, step):
            nonlocal total, edge
            t = step.t / 1000
            if step.t <= 50:
                return
            v_c, v_null = (model.predict(step.z, step.t, which) for which in (given, null))
            # An even share of λ, half to the last time and half to the next; dt of it is dλ / |λ'|, λ' = −2/(t(1 − t)).
            low = 50.0 if step.t_prev <= 50 else None
            own = FLOW.log_snr(
                torch.tensor([step.t, step.t_prev if low is None else low], dtype=torch.float64)
            )
            share = -0.5 * (float(own.sum()) / 2 if low is None else float(own[1]))
            stretch, edge = edge - share, share
            total = total + stretch * (1 - t) ** 2 * (v_c * (v_c - v_null)).sum(1)

    sample(
        model,
        given,
        range(3),
        SamplerConfig("ddpm", 20, guidance=3.0, spacing="leading"),
        [observer, ByHand()],
    )
    assert observer.name == "rfmi"
    assert bool((total != 0).all())
    torch.testing.assert_close(observer.result().double(), total, rtol=1e-6, atol=1e-9)


def test_rfmi_averages_to_the_mutual_information_over_labels_and_differs_from_mi_picture_by_picture():
    model = three_clouds(FLOW, "flow")
    labels = ["a", "b"] * 300
    observers = [PathMI(FLOW, "continuous", t_min=0), PathMI(FLOW, "continuous", t_min=0, form="orthogonal")]
    sampler = SamplerConfig("ddpm", 250, guidance=1.0, spacing="leading")
    sample(model, model.encode_prompts(labels), range(len(labels)), sampler, observers)
    mi, rfmi = (observer.result().double() for observer in observers)
    truth = (exact_kl(model, "a") + exact_kl(model, "b")) / 2
    assert within_three_errors(rfmi, truth)
    assert within_three_errors(mi, truth)
    assert float((rfmi - mi).abs().mean()) > 0.1
