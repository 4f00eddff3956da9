"""Where the steps of a sampler lie: as the model's own scheduler says, unless the configuration says otherwise."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.solver import solver_of
from mitune.scheduler_config import check_scheduler, sampler_defaults
from mitune.stages.inputs import sampler_of
from tests.cli import compose

MODELS = ("sd15", "sd21", "sdxl", "spright", "sd35_medium", "flux1_dev", "pixart_sigma", "sana")


class Named:
    sampler_defaults = {"spacing": "linspace", "steps_offset": 3, "set_alpha_to_one": True}  # noqa: RUF012


def grid(arguments: list[str], denoiser: Any = Named) -> tuple[str, int, bool]:
    sampler = sampler_of(compose(arguments), denoiser)
    return sampler.spacing, sampler.steps_offset, sampler.set_alpha_to_one


@pytest.mark.parametrize("name", MODELS)
def test_presets_of_models_take_the_model_s_own(name: str) -> None:
    assert grid([f"model={name}"]) == ("linspace", 3, True)
    assert grid([f"model={name}", "sampler.spacing=leading", "sampler.steps_offset=0"]) == (
        "leading",
        0,
        True,
    )


@pytest.mark.parametrize("name", ["mitune_sd21", "mitune_sd21_k7", "mitune_sd21_m500", "shapes_paper"])
def test_presets_of_the_paper_take_the_model_s_own(name: str) -> None:
    assert grid([f"experiment={name}"]) == ("linspace", 3, True)


@pytest.mark.parametrize("name", ["shapes", "shapes_full", "shapes_flow", "shapes_attention"])
def test_presets_of_the_demonstration_keep_theirs(name: str) -> None:
    assert grid([f"experiment={name}"]) == ("trailing", 0, False)
    assert grid([f"experiment={name}", "model.path=elsewhere"]) == ("trailing", 0, False)
    assert grid([f"experiment={name}", "sampler.spacing=null"]) == ("linspace", 0, False)


def test_the_paper_s_preset_on_the_shapes_starts_where_their_scheduler_says() -> None:
    assert grid(["experiment=shapes_paper"], load_denoiser("shapes")) == ("leading", 1, False)


def test_a_model_s_scheduler_is_read(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    told = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    assert grid(["model=sd15"], load_denoiser(str(folder))) == ("trailing", 1, True)
    with pytest.raises(UserError, match="steps_offset=x"):
        sampler_defaults({"beta_schedule": "linear", "steps_offset": "x"})


VP = {"beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}


@pytest.mark.parametrize(
    ("said", "multistep", "heun", "ddim"),
    [
        ({}, "linspace", "linspace", "linspace"),
        ({"use_karras_sigmas": True}, "karras", "karras", "linspace"),
        (
            {"use_karras_sigmas": False, "use_beta_sigmas": None, "lambda_min_clipped": -math.inf},
            *3 * ["linspace"],
        ),
    ],
)
def test_samplers_that_step_in_sigma_take_what_the_scheduler_says_of_it(
    said: dict[str, Any], multistep: str, heun: str, ddim: str
) -> None:
    """diffusers' DDIM scheduler has no such key, and takes its times from the same configuration as before."""
    told = {"dpmpp_2m": multistep, "dpmpp_2m_sde": multistep, "unipc": multistep, "heun": heun, "ddim": ddim}
    for name, spacing in told.items():
        assert SamplerConfig(name).resolved(sampler_defaults(VP | said)).spacing == spacing
        own = SamplerConfig(name, spacing="trailing")
        assert own.resolved(sampler_defaults(VP | said)).spacing == "trailing"


@pytest.mark.parametrize(
    "key", ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "lambda_min_clipped"]
)
def test_what_is_not_known_of_sigma_is_refused_where_it_would_count(key: str) -> None:
    said = sampler_defaults(VP | {key: -5.1 if key == "lambda_min_clipped" else True})
    with pytest.raises(
        UserError, match=rf"scheduler lays its steps by {key}, .*: say sampler.spacing= with one of"
    ):
        SamplerConfig("dpmpp_2m").resolved(said)
    assert SamplerConfig("dpmpp_2m", spacing="karras").resolved(said).spacing == "karras"
    assert SamplerConfig("ddim").resolved(said).spacing == "linspace"


def test_a_flow_that_ends_at_the_first_timestep_is_refused() -> None:
    flow = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}
    check_scheduler(flow | {"final_sigmas_type": "zero"})
    with pytest.raises(UserError, match="final_sigmas_type=sigma_min, and that must be zero"):
        check_scheduler(flow | {"final_sigmas_type": "sigma_min"})


def test_a_model_with_the_scheduler_of_a_solver_is_drawn_as_it_says(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    told = {
        "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min",
    }  # fmt: skip
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    denoiser = load_denoiser(str(folder))
    steps = solver_of(denoiser, SamplerConfig("dpmpp_2m", 6)).steps
    assert steps[0].time == 999
    assert steps[-1].interval.sigma_prev > 0  # type: ignore[attr-defined]
    assert [at.t for at in solver_of(denoiser, SamplerConfig("ddim", 2)).steps] == [999, 0]
