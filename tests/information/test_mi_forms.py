"""``scorer.mi.form``: on one path our sums are RFMI's formulas, written out with the network's own velocities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.catalogue import MIConfig
from mitune.information.mi import PathMI, path_mi, path_mi_continuous, path_rfmi
from mitune.information.scoring import Scoring
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Step, sample
from tests.analytic import three_clouds

FLOW = NoiseSchedule.rectified_flow()


class Published:
    """RFMI's sum over the visited steps as its paper and its code have it, float64: (1−t)/t · v·(v − v̂_∅), averaged.

    v is the velocity with the prompt, or the guided one.
    """

    name = "published"

    def __init__(self, denoiser: Any, prompts: list[str], guided: bool, t_min: int) -> None:
        self.denoiser, self.guided, self.t_min = denoiser, guided, t_min
        self.given = Condition.cat([denoiser.null(len(prompts)), denoiser.encode_prompts(prompts)])
        self.terms: list[Tensor] = []

    def start(self, n: int, device: torch.device) -> None: ...

    def select(self, rows: Tensor) -> None: ...

    def observe(self, step: Step) -> None:
        if step.t <= self.t_min:
            return
        t = step.t / 1000
        with (
            torch.no_grad()
        ):  # both in one forward, as the sampler asks: how a network rounds depends on the rows
            raw = self.denoiser.predict(torch.cat([step.z, step.z]), step.t, self.given)
        v_null, v_c = raw.double().chunk(2)
        v = v_null + step.guidance * (v_c - v_null) if self.guided else v_c
        self.terms.append((1 - t) / t * (v * (v - v_null)).flatten(1).sum(1))

    def result(self) -> Tensor:
        return torch.stack(self.terms).mean(0)


def both(denoiser: Any, prompts: list[str], form: str, guidance: float, t_min: int) -> tuple[Tensor, Tensor]:
    ours = path_mi(denoiser.schedule, MIConfig(t_min=t_min, form=form))
    theirs = Published(denoiser, prompts, form == "guided", t_min)
    given = denoiser.encode_prompts(prompts)
    sample(
        denoiser, given, range(len(prompts)), SamplerConfig("euler", 12, guidance=guidance), [ours, theirs]
    )
    assert ours.name == "mi"
    return ours.result().double(), theirs.result()


@pytest.mark.parametrize("form", ["orthogonal", "guided"])
@pytest.mark.parametrize(("guidance", "t_min"), [(1.0, 0), (4.0, 50)])
def test_on_a_flow_it_is_the_published_formula(form: str, guidance: float, t_min: int) -> None:
    ours, theirs = both(three_clouds(FLOW, "flow"), ["a", "b", "a"], form, guidance, t_min)
    assert bool((theirs != 0).all())
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["orthogonal", "guided"])
def test_on_the_embedded_flow_model_too(form: str) -> None:
    denoiser = load_denoiser("shapes_flow", device="cpu", dtype="float32")
    prompts = ["a red circle", "a blue square on a green circle"]
    ours, theirs = both(denoiser, prompts, form, 4.0, 50)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_the_forms_differ_and_without_guidance_two_are_one() -> None:
    model = three_clouds(FLOW, "flow")

    def values(guidance: float) -> dict[str, Tensor]:
        forms: dict[str, str | None] = {"square": None, "orthogonal": "orthogonal", "guided": "guided"}
        return {name: both(model, ["a", "b"], form, guidance, 50)[0] for name, form in forms.items()}  # type: ignore[arg-type]

    guided, plain = values(4.0), values(1.0)
    assert torch.equal(plain["orthogonal"], plain["guided"])
    assert not torch.allclose(guided["orthogonal"], guided["guided"], rtol=0.1)
    assert not torch.allclose(plain["square"], plain["orthogonal"], rtol=0.1)


def test_the_square_form_is_what_nothing_said_means() -> None:
    model = three_clouds()
    observers = [
        PathMI(model.schedule),
        path_mi(model.schedule, MIConfig()),
        path_mi(model.schedule, MIConfig(form="square")),
    ]
    for number, observer in enumerate(observers):
        observer.name = str(number)
    sample(
        model, model.encode_prompts(["a", "b"]), range(2), SamplerConfig("ddpm", 10, guidance=3), observers
    )  # type: ignore[arg-type]
    assert torch.equal(observers[0].result(), observers[1].result())
    assert torch.equal(observers[0].result(), observers[2].result())


def test_with_continuous_weights_the_orthogonal_form_is_rfmi() -> None:
    model = three_clouds(FLOW, "flow")
    rfmi, ours = path_rfmi(FLOW, MIConfig()), path_mi_continuous(FLOW, MIConfig(form="orthogonal"))
    assert (rfmi.name, ours.name) == ("rfmi", "mi_continuous")
    sample(
        model, model.encode_prompts(["a", "b"]), range(2), SamplerConfig("ddpm", 10, guidance=3), [rfmi, ours]
    )
    assert torch.equal(rfmi.result(), ours.result())


def test_on_a_diffusion_the_orthogonal_form_is_measured_and_the_guided_one_refused() -> None:
    model = three_clouds()
    settings = {"mi": {"t_min": 50, "form": "orthogonal"}}
    (observer,) = Scoring(["mi"], settings, model).observers()
    sample(
        model, model.encode_prompts(["a", "b"]), range(2), SamplerConfig("ddpm", 10, guidance=1), [observer]
    )
    assert observer.name == "mi"
    assert bool(observer.result().isfinite().all())
    settings["mi"]["form"] = "guided"
    with pytest.raises(UserError, match="a diffusion, for which there is none; say scorer"):
        Scoring(["mi"], settings, model)
