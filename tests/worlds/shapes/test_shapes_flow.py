"""The flow model inside the package: a standard Stable Diffusion 3 folder that draws the same world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mitune.worlds.shapes as shapes
from mitune.families import load_denoiser
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise, candidate_seed
from mitune.sampling.steps import Sampler

FOLDER = Path(shapes.__file__).parent / "model_flow"
SAMPLER = Sampler(name="euler", steps=20, guidance=2.0)


@pytest.fixture(scope="module")
def denoiser():  # type: ignore[no-untyped-def]
    return load_denoiser({"path": "shapes_flow", "dtype": "float32", "device": "cpu"})


def test_the_folder_is_small_and_has_a_card() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert (FOLDER / "README.md").is_file()
    assert (FOLDER / "training_log.json").is_file()


def test_the_plain_pipeline_draws_the_same_pictures(denoiser) -> None:  # type: ignore[no-untyped-def]
    from diffusers import StableDiffusion3Pipeline

    from benchmarks.world.architecture import ABSENT

    prompts = ["a red circle", "a small striped square left of a blue cross"]
    pipeline = StableDiffusion3Pipeline.from_pretrained(str(FOLDER), dtype=torch.float32, **ABSENT)
    pipeline.set_progress_bar_config(disable=True)
    said, none = denoiser.encode_prompts(prompts).tensors, denoiser.null(2).tensors
    theirs = pipeline(  # which reads texts with two CLIPs or not at all
        prompt_embeds=said["text"],
        pooled_prompt_embeds=said["pooled"],
        negative_prompt_embeds=none["text"],
        negative_pooled_prompt_embeds=none["pooled"],
        latents=torch.cat([candidate_noise(seed, denoiser.latent_shape, 0) for seed in (1, 2)]),
        num_inference_steps=4,
        guidance_scale=2.0,
        output_type="latent",
    ).images
    sampler = Sampler(name="euler", steps=4, guidance=2.0)
    ours = sample(denoiser, denoiser.encode_prompts(prompts), [1, 2], sampler)
    assert float((ours - theirs).abs().max()) <= 1e-4


def test_both_models_read_captions_with_the_same_text_encoder(denoiser) -> None:  # type: ignore[no-untyped-def]
    from benchmarks.world.architecture import WIDTH

    other = load_denoiser({"path": "shapes", "dtype": "float32", "device": "cpu"})
    prompts = ["a red circle", "a small striped square left of a blue cross"]
    encoder = denoiser.text_encoders[0]
    with torch.no_grad():
        said, known = denoiser.encode_prompts(prompts).tensors, other.encode_prompts(prompts).tensors["text"]
        torch.testing.assert_close(encoder.text_model.final_layer_norm(said["text"]), known)
    assert said["pooled"].shape == (2, WIDTH)


def test_the_autoencoder_is_the_other_models(denoiser) -> None:  # type: ignore[no-untyped-def]
    from diffusers import AutoencoderKL

    one, other = (
        AutoencoderKL.from_pretrained(folder / "vae") for folder in (FOLDER, FOLDER.parent / "model")
    )
    assert one.config.scaling_factor == other.config.scaling_factor
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_the_flow_model_leaves_room_and_the_best_of_many_fills_it(denoiser) -> None:  # type: ignore[no-untyped-def]
    prompts = [text for category in shapes.CATEGORIES for text in shapes.split(category, "test")[:3]]
    texts = [text for text in prompts for _ in range(8)]
    seeds = [candidate_seed(9, text, index) for text in prompts for index in range(8)]
    latents = sample(denoiser, denoiser.encode_prompts(texts), seeds, SAMPLER)
    with torch.no_grad():
        scores = shapes.oracle_scores(denoiser.decode(latents), texts).reshape(len(prompts), 8)
    assert 0.4 < np.mean(scores) < 0.9
    assert scores.max(1).mean() > scores.mean() + 0.1
