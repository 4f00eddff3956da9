"""The training script, run whole on a handful of pictures: what it writes is a standard pipeline folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from mitune.files import read_json
from mitune.worlds.shapes import CATEGORIES, all_prompts, architecture, train
from mitune.worlds.shapes.corpus import build_corpus


def test_every_word_of_the_world_is_one_token() -> None:
    texts = [text for category in CATEGORIES for text in all_prompts(category)[::7]]
    tokenizer = architecture.build_tokenizer(texts)
    for text in texts:
        assert len(tokenizer(text).input_ids) == len(text.replace(",", " ,").split()) + 2
    assert max(len(tokenizer(text).input_ids) for text in texts) <= architecture.PROMPT_TOKENS
    # Words it has never seen come out in pieces, and come back whole.
    assert tokenizer.decode(tokenizer("Façade 42").input_ids, skip_special_tokens=True) == "façade 4 2"


def test_crops_are_parts_of_their_pictures_with_colour_in_them() -> None:
    pictures = build_corpus(5, 1, 0.0, seed=1).pictures
    drawn = train.crops(pictures, np.random.default_rng(0), 20, 32)
    assert drawn.shape == (20, 32, 32, 3)
    assert all(np.ptp(crop, axis=-1).max() > 40 for crop in drawn)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (32, 32), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 32, 32, 3)
    for crop in drawn:
        assert (windows == crop).all(axis=(1, 2, 3)).any()


@pytest.mark.slow
def test_the_script_writes_a_pipeline_that_diffusers_loads(tmp_path: Path) -> None:
    out = tmp_path / "model"
    small = "--pictures 24 --captions 2 --vae-steps 10 --decoder-steps 3 --steps 4 --batch 4 --save-every 2 --workers 1"
    train.main(["--out", str(out), "--device", "cpu", *small.split()])
    pipeline = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    picture = pipeline("a red circle", num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert np.isfinite(picture).all()
    log = read_json(out / "training_log.json")
    assert log["options"]["steps"] == 4
    assert log["seconds"] >= 0
    assert (tmp_path / "model-step-2").is_dir()


def test_sharpening_leaves_the_encoder_alone() -> None:
    torch.manual_seed(0)
    options = train.arguments(["--out", "unused", "--decoder-steps", "2", "--device", "cpu"])
    vae: AutoencoderKL = architecture.build_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    train.sharpen(vae, build_corpus(6, 1, 0.0, seed=2), options, [])
    changed = {
        name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"decoder", "post_quant_conv"}
