"""The model inside the package: small, standard, sees fine texture, follows its prompts partly: room to improve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mitune.worlds.shapes as shapes
from mitune.families import load_denoiser
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.sampling.steps import Sampler
from tests.worlds.shapes.pairs import training_batch

FOLDER = Path(shapes.__file__).parent / "model"


@pytest.fixture(scope="module")
def denoiser():  # type: ignore[no-untyped-def]
    return load_denoiser({"path": "shapes", "dtype": "float32", "device": "cpu"})


def test_the_folder_is_small_and_has_a_card() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert (FOLDER / "README.md").is_file()
    assert (FOLDER / "training_log.json").is_file()


def test_the_autoencoder_keeps_what_the_oracle_judges(denoiser) -> None:  # type: ignore[no-untyped-def]
    pictures, texts = training_batch(np.random.default_rng(), 40, wrong_share=0.0)
    clean = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        restored = denoiser.decode(denoiser.encode_image(clean))
    # 0.995 was measured on 200 pictures; their spread of 0.05 makes 0.008 the standard error of 40.
    assert shapes.oracle_scores(restored, texts).mean() > 0.96


@pytest.mark.slow
def test_the_base_leaves_room_and_the_best_of_many_fills_it(denoiser) -> None:  # type: ignore[no-untyped-def]
    prompts = [text for category in shapes.CATEGORIES for text in shapes.split(category, "test")[:3]]
    texts = [text for text in prompts for _ in range(8)]
    seeds = [candidate_seed(9, text, index) for text in prompts for index in range(8)]
    sampler = Sampler(name="ddim", eta=1.0, steps=20, guidance=2.0, spacing="trailing")
    latents = sample(denoiser, denoiser.encode_prompts(texts), seeds, sampler)
    with torch.no_grad():
        scores = shapes.oracle_scores(denoiser.decode(latents), texts).reshape(len(prompts), 8)
    assert 0.4 < scores.mean() < 0.9
    assert scores.max(1).mean() > scores.mean() + 0.1
