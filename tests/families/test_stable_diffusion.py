"""The Stable Diffusion family against the pipeline it wraps."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.families.settings import ModelConfig
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise
from tests.families import checks, solvers

PROMPTS = ["a red circle", "a blue square on a green star", "two dogs"]


@pytest.fixture(scope="module")
def denoiser(tiny_pipeline_folder: Path) -> StableDiffusionDenoiser:
    return load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu", "dtype": "float32"})


def _pipeline(folder: Path):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        str(folder), safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_knows_its_shapes_and_is_frozen(denoiser: StableDiffusionDenoiser) -> None:
    assert denoiser.latent_shape == (4, 8, 8)
    assert denoiser.picture_size == (16, 16)
    assert denoiser.prediction_type == "epsilon"
    assert denoiser.schedule.num_train_timesteps == 1000
    for module in denoiser.components.values():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_model_is_named_by_its_path_its_keys_or_its_settings(tiny_pipeline_folder: Path) -> None:
    keys = {"path": str(tiny_pipeline_folder), "device": "cpu", "dtype": "float16", "variant": None}
    for given in (keys, ModelConfig(**{key: value for key, value in keys.items() if value is not None})):
        assert load_denoiser(given).dtype == torch.float16
        assert load_denoiser(given, dtype="float32").dtype == torch.float32
    assert load_denoiser(tiny_pipeline_folder, device="cpu").identity == load_denoiser(keys).identity
    with pytest.raises(UserError, match=r"model\.path is empty"):
        load_denoiser({"path": ""})


@pytest.mark.parametrize("fixture", ["tiny_pipeline_folder", "tiny_v_pipeline_folder"])
@pytest.mark.parametrize("name", solvers.CLASSES)
def test_solvers_draw_what_diffusers_schedulers_draw(
    fixture: str, name: str, request: pytest.FixtureRequest
) -> None:
    solvers.same_as(checks.Model(request.getfixturevalue(fixture), checks.DDIM), name, checks.SEEDS)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_solvers_begin_in_pure_noise_as_diffusers_do(
    name: str, tiny_v_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_v_pipeline_folder, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    told = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    trailing = replace(checks.DDIM, spacing="trailing", steps_offset=0)
    solvers.same_as(checks.Model(folder, trailing), name, checks.SEEDS)


@pytest.mark.parametrize("fixture", ["tiny_pipeline_folder", "tiny_v_pipeline_folder"])
@pytest.mark.parametrize("guidance", [2.0, 7.5])
def test_our_loop_gives_the_pipelines_latents(
    fixture: str, guidance: float, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    denoiser = load_denoiser({"path": folder, "device": "cpu", "dtype": "float32"})
    seeds, steps = [11, 12, 13], 8
    sampler = SamplerConfig(
        name="ddim",
        steps=steps,
        eta=0.0,
        spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        guidance=guidance,
    )
    ours = sample(denoiser, denoiser.encode_prompts(PROMPTS), seeds, sampler)
    noise = torch.stack([candidate_noise(seed, denoiser.latent_shape, steps)[0] for seed in seeds])
    theirs = _pipeline(folder)(
        PROMPTS, num_inference_steps=steps, guidance_scale=guidance, latents=noise, output_type="latent"
    ).images
    assert (ours - theirs).abs().max() <= 1e-4
    assert denoiser.forwards == 2 * len(seeds) * steps


def test_pictures_are_the_pipelines(denoiser: StableDiffusionDenoiser, tiny_pipeline_folder: Path) -> None:
    pipeline = _pipeline(tiny_pipeline_folder)
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    ours = denoiser.decode(z)
    assert ours.shape == (3, 3, 16, 16)
    assert torch.allclose(ours, theirs.clamp(0, 1), atol=1e-6)
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    latents = pipeline.vae.encode(2 * pictures - 1).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert torch.allclose(denoiser.encode_image(pictures), latents, atol=1e-6)


def test_the_autoencoders_shift_is_undone(
    denoiser: StableDiffusionDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.rand(2, 3, 16, 16)
    plain, decoded = denoiser.encode_image(pictures), denoiser.decode(torch.ones(1, 4, 8, 8))
    monkeypatch.setattr(denoiser._autoencoder, "shift", 0.25)
    assert torch.allclose(
        denoiser.encode_image(pictures), plain - 0.25 * denoiser._autoencoder.scale, atol=1e-6
    )
    moved = torch.ones(1, 4, 8, 8) - 0.25 * denoiser._autoencoder.scale
    assert torch.allclose(denoiser.decode(moved), decoded, atol=1e-5)


def test_pictures_of_a_size_that_does_not_divide_are_refused(denoiser: StableDiffusionDenoiser) -> None:
    with pytest.raises(UserError, match="17x16"):
        denoiser.encode_image(torch.rand(1, 3, 16, 17))


def test_prompts_are_encoded_as_the_pipeline_does(
    denoiser: StableDiffusionDenoiser, tiny_pipeline_folder: Path
) -> None:
    ours = denoiser.encode_prompts(PROMPTS).tensors["text"]
    theirs, null = _pipeline(tiny_pipeline_folder).encode_prompt(PROMPTS, "cpu", 1, True)
    assert torch.equal(ours, theirs)
    assert torch.allclose(denoiser.null(3).tensors["text"], null, atol=1e-6)


def test_time_may_be_a_number_or_a_tensor(denoiser: StableDiffusionDenoiser) -> None:
    z, condition = torch.randn(3, 4, 8, 8), denoiser.encode_prompts(PROMPTS)
    assert torch.equal(
        denoiser.predict(z, 500, condition), denoiser.predict(z, torch.full((3,), 500), condition)
    )
    assert torch.allclose(
        denoiser.predict(z, 500.0, condition), denoiser.predict(z, 500, condition), atol=1e-6
    )
    half = denoiser.predict(z, 500.5, condition)
    assert not torch.equal(half, denoiser.predict(z, 500, condition))


def test_a_long_prompt_is_cut_with_one_warning_that_says_what_is_lost(
    denoiser: StableDiffusionDenoiser,
) -> None:
    words = "a red circle left of a blue square above a small green star below a big yellow cat"
    assert denoiser.prompt_length_report(["a red circle", words]) == [(words, "a big yellow cat")]
    with pytest.warns(UserWarning, match="cut off: 'a big yellow cat'"):
        cut = denoiser.encode_prompts([words]).tensors["text"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(denoiser.encode_prompts([words]).tensors["text"], cut)
    kept = "a red circle left of a blue square above a small green star below"
    assert denoiser.prompt_length_report([kept]) == []
    assert torch.equal(denoiser.encode_prompts([kept]).tensors["text"], cut)


def test_identity_follows_the_weights_not_the_place(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    here = load_denoiser(str(tiny_pipeline_folder)).identity
    moved = tmp_path / "model"
    shutil.copytree(tiny_pipeline_folder, moved)
    assert load_denoiser(str(moved)).identity == here
    file = moved / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1e-3 for name, value in load_file(file).items()}, file)
    assert load_denoiser(str(moved)).identity != here


def test_memory_layout_changes_nothing(denoiser: StableDiffusionDenoiser, tiny_pipeline_folder: Path) -> None:
    other = load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu", "channels_last": True})
    z, condition = torch.randn(2, 4, 8, 8), denoiser.encode_prompts(PROMPTS[:2])
    assert other.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(other.predict(z, 700, condition), denoiser.predict(z, 700, condition), atol=1e-5)


def test_bfloat16_weights_take_and_give_float32(tiny_pipeline_folder: Path) -> None:
    denoiser = load_denoiser(str(tiny_pipeline_folder), device="cpu", dtype="bfloat16")
    assert denoiser.dtype is torch.bfloat16
    output = denoiser.predict(torch.randn(1, 4, 8, 8), 10, denoiser.null(1))
    assert output.dtype is torch.float32
    assert denoiser.decode(torch.randn(1, 4, 8, 8)).dtype is torch.float32


def _with(folder: Path, target: Path, file: str, **changes: object) -> Path:
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_wrong_models_are_refused_in_one_line(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(b"")
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    other = _with(
        tiny_pipeline_folder, tmp_path / "other", "model_index.json", _class_name="StableDifusionPipeline"
    )
    nowhere = _with(tiny_pipeline_folder, tmp_path / "nowhere", "model_index.json", _class_name=None)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline_folder, broken)
    (broken / "model_index.json").write_text("{")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_pipeline_folder, pickled)
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    for path, message in {
        empty: "no model_index.json",
        tmp_path / "missing": "neither a folder nor a Hub id",
        checkpoint: "pickled",
        single: "damaged",
        other: "did you mean 'StableDiffusionPipeline'",
        nowhere: "names no pipeline class",
        broken: "not valid JSON",
        pickled: "pickled weights only",
        "": "model.path is empty",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            load_denoiser(str(path))
        assert "\n" not in str(caught.value)


def test_wrong_options_are_refused(tiny_pipeline_folder: Path) -> None:
    for options, message in (
        ({"dtype": "float23"}, "did you mean 'float32'"),
        ({"device": "gpu"}, "model.device=gpu"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"variant": "fp16"}, "leave model.variant out"),
    ):
        with pytest.raises(UserError, match=message):
            load_denoiser({"path": str(tiny_pipeline_folder)} | options)


def test_distilled_and_inpainting_models_are_refused(tiny_pipeline_folder: Path) -> None:
    pipeline = _pipeline(tiny_pipeline_folder)
    pipeline.unet.register_to_config(time_cond_proj_dim=256)
    with pytest.raises(UserError, match="no null prompt"):
        StableDiffusionDenoiser(pipeline, "distilled")
    pipeline.unet.register_to_config(time_cond_proj_dim=None, in_channels=9)
    with pytest.raises(UserError, match="9 latent channels"):
        StableDiffusionDenoiser(pipeline, "inpainting")
