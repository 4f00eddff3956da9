"""Where the steps of a sampler lie: as the model's own scheduler says, unless the configuration says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.scheduler_config import sampler_defaults
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
