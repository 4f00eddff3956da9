"""A pipeline that the user has loaded is a model like one from its folder, and is given back as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mitune
from tests.api.conftest import SHORT, TRAIN
from tests.families import test_flux, test_pixart, test_sana, test_sd3, test_sdxl


@pytest.fixture
def pipeline(tiny_pipeline_folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(str(tiny_pipeline_folder), safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def values(pipeline: Any) -> dict[str, torch.Tensor]:
    """All weights, by name."""
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    return {
        f"{name}.{key}": value.clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


def test_it_draws_and_scores_as_the_same_model_from_its_folder(pipeline: Any, model: mitune.Model) -> None:
    scores = ["mi", "elbo", "contrast"]
    ours = mitune.load(pipeline).draw(TRAIN, candidates=2, scores=scores, sampler=SHORT)
    theirs = model.draw(TRAIN, candidates=2, scores=scores, sampler=SHORT)
    pd.testing.assert_frame_equal(ours.table, theirs.table, check_exact=True)
    assert torch.equal(ours.pictures(), theirs.pictures())


def test_training_leaves_it_as_it_was(pipeline: Any) -> None:
    def drawn() -> Any:
        noise = torch.Generator().manual_seed(0)
        return pipeline("a red circle", num_inference_steps=2, generator=noise, output_type="np").images

    weights, picture = values(pipeline), drawn()
    model = mitune.load(pipeline)
    training = model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi")
    tuned = model.train(
        training, mitune.TrainConfig(steps=2, batch_size=2, lr=0.1), mitune.AdapterConfig(rank=2)
    )
    tuned.evaluate(TRAIN[:1], scores="elbo", candidates=1, sampler=SHORT)
    after = values(pipeline)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert (drawn() == picture).all()
    with tuned.active():
        assert not (drawn() == picture).all()  # only here is the adapter in it
    assert (drawn() == picture).all()


def test_diffusers_loads_the_adapter(pipeline: Any, tmp_path: Path) -> None:
    model = mitune.load(pipeline)
    training = model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi")
    tuned = model.train(
        training, mitune.TrainConfig(steps=2, batch_size=2, lr=0.1), mitune.AdapterConfig(rank=2)
    )
    tuned.save_adapter(tmp_path / "adapter")
    latents = torch.randn(1, *model.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    with tuned.active() as denoiser:
        ours = denoiser.predict(latents, 500, denoiser.encode_prompts(["a red circle"]))
    pipeline.load_lora_weights(str(tmp_path / "adapter"))
    text, _ = pipeline.encode_prompt(["a red circle"], "cpu", 1, False)
    with torch.no_grad():
        theirs = pipeline.unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_its_weights_and_its_scheduler_identify_it(pipeline: Any) -> None:
    first = mitune.load(pipeline).identity
    assert mitune.load(pipeline).identity == first
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(0.5)
    second = mitune.load(pipeline).identity
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, beta_end=0.02)
    assert len({first, second, mitune.load(pipeline).identity}) == 3


def adapted(pipeline: Any) -> None:
    from peft import LoraConfig

    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="mine")


def quantized(pipeline: Any) -> None:
    pipeline.unet.is_quantized = True


def compiled(pipeline: Any) -> None:
    pipeline.unet.compile()


def offloaded(pipeline: Any) -> None:
    from accelerate.hooks import CpuOffload, add_hook_to_module

    add_hook_to_module(pipeline.text_encoder, CpuOffload(execution_device="cpu"))


def meta(pipeline: Any) -> None:
    pipeline.vae.to("meta")


def without_text(pipeline: Any) -> None:
    pipeline.text_encoder = None


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (adapted, r"its unet has an adapter.*pipeline\.fuse_lora"),
        (quantized, r"its unet is quantized; give the model's path"),
        (compiled, "its unet is compiled"),
        (offloaded, r"its text_encoder waits on the CPU"),
        (meta, r"its parts are on cpu, meta; put them on one device"),
        (without_text, "has no text_encoder"),
    ],
)
def test_one_that_cannot_be_asked_as_it_is_is_refused_in_a_line(
    pipeline: Any, spoil: Callable[[Any], None], line: str
) -> None:
    spoil(pipeline)
    with pytest.raises(mitune.UserError, match=line) as caught:
        mitune.load(pipeline)
    assert "\n" not in str(caught.value)


def test_settings_that_the_pipeline_has_decided_are_refused(pipeline: Any) -> None:
    with pytest.raises(mitune.UserError, match="device is the loaded pipeline's own"):
        mitune.load(pipeline, device="cpu")
    assert mitune.load(pipeline, resolution=32).denoiser.picture_size == (32, 32)


@pytest.mark.parametrize("given", ["path", "pipeline"])
def test_a_setting_that_is_none_is_refused_in_a_line(
    given: str, pipeline: Any, tiny_pipeline_folder: Path
) -> None:
    model = pipeline if given == "pipeline" else tiny_pipeline_folder
    with pytest.raises(mitune.UserError, match="no setting 'devize', did you mean 'device'") as caught:
        mitune.load(model, devize="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(mitune.UserError, match="no setting 'path'"):
        mitune.load(model, path="shapes")


QUIET = """
import mitune
from transformers.utils import logging
from diffusers.utils import logging as theirs
logging.set_verbosity_info(), theirs.set_verbosity_info()
mitune.load("shapes", device="cpu")
assert logging.get_verbosity() == logging.INFO
assert theirs.get_verbosity() == theirs.INFO
assert logging.is_progress_bar_enabled()
"""


def test_loading_is_quiet_and_leaves_the_libraries_as_talkative_as_they_were() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[transformers]" not in done.stderr


def compiling(network: Any) -> None:
    network._compiled_call_impl = network._call_impl


@pytest.mark.parametrize("before", [False, True])
def test_training_leaves_the_network_as_compiled_as_it_was(
    before: bool, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mitune.load(pipeline)
    training = model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi")
    monkeypatch.setattr(type(pipeline.unet), "compile", compiling)
    if before:
        pipeline.unet.compile()
    settings = mitune.TrainConfig(steps=1, batch_size=2, compile=True)
    seen: list[bool] = []

    def validate(tuned: mitune.Model) -> float:
        seen.append(pipeline.unet._compiled_call_impl is not None)
        return 0.0

    model.train(training, settings, mitune.AdapterConfig(rank=2), validate=validate)
    assert seen == [True]
    assert (pipeline.unet._compiled_call_impl is not None) == before
    if not before:
        mitune.load(pipeline)  # which refuses what is compiled


@pytest.mark.usefixtures("no_hub")
def test_the_card_of_one_draws_as_the_evaluation_did(pipeline: Any, tmp_path: Path) -> None:
    pipeline.to(torch.bfloat16)
    model = mitune.load(pipeline)
    training = model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi")
    tuned = model.train(training, mitune.TrainConfig(steps=1, batch_size=2), mitune.AdapterConfig(rank=2))
    shown = tuned.evaluate(TRAIN[:1], scores="elbo", candidates=1, sampler=SHORT)
    folder = tuned.export(tmp_path / "export", shown, base_model="someone/small", license="mit")
    card = (folder / "README.md").read_text()
    assert "pipeline.scheduler = diffusers.DDIMScheduler.from_config(" in card
    assert 'from_pretrained("someone/small", torch_dtype=torch.bfloat16)' in card


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(mitune.UserError, match="a dict is no model"):
        mitune.load({"path": "shapes"})
    with pytest.raises(mitune.UserError, match="neither a folder nor a Hub id"):
        mitune.load("no such folder/here/there")


FAMILIES = (test_sdxl, test_sd3, test_flux, test_pixart, test_sana)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition("_")[2])
def test_every_family_can_be_loaded_already(family: Any, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    folder = family.build(tmp_path / "model")
    pipeline = DiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    models = [mitune.load(folder, device="cpu", dtype="float32"), mitune.load(pipeline)]
    z = torch.randn(1, *models[0].denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    flow = models[0].denoiser.schedule.kind == "flow"
    found = []
    for model in models:
        with torch.no_grad(), model.active() as denoiser:
            found.append(
                denoiser.predict(z, 500.0 if flow else 500, denoiser.encode_prompts(["a red circle"]))
            )
    assert torch.equal(found[0], found[1])
