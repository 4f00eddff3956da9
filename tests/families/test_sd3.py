"""Stable Diffusion 3: rectified flow, a transformer over text and picture, any of three text encoders may lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.errors import UserError
from mitune.families.sd3 import SD3Denoiser
from tests.families import checks, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> checks.Model:
    return describe(build(tmp_path_factory.mktemp("sd3")))


def describe(folder: Path) -> checks.Model:
    return checks.Model(folder, checks.EULER, {"max_tokens": 20}, call={"max_sequence_length": 20})


def build(
    folder: Path, encoders: str = "123", wide: bool = True, dual: tuple[int, ...] = (), **scheduler: Any
) -> Path:
    """A tiny pipeline with the first CLIP (1), the second (2) and T5 (3), as asked for; its network made for all
    three, or (not ``wide``) for the first alone. ``dual``: its layers with a second attention, of the picture alone.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    widths = {"1": 16, "2": 24}
    for number, suffix in (("1", ""), ("2", "_2")):
        there = number in encoders
        pair = tiny.clip(folder / number, widths[number]) if there else (None, None)
        parts[f"tokenizer{suffix}"], parts[f"text_encoder{suffix}"] = pair
    parts["tokenizer_3"], parts["text_encoder_3"] = tiny.t5(48) if "3" in encoders else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48 if wide else 16,
        caption_projection_dim=16,
        pooled_projection_dim=40 if wide else 16,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=tiny.enliven(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=tiny.autoencoder(shift=0.0609, scale=1.5305),
        **parts,
    )
    return tiny.save(pipeline, folder / "model")


class TestSD3(checks.Common):
    text_adapters = True


def test_it_knows_its_shapes(model: checks.Model) -> None:
    assert isinstance(model.ours, SD3Denoiser)
    assert model.ours.latent_shape == (4, 8, 8)
    assert model.ours.prediction_type == "flow"
    assert model.ours.schedule.shift == 3.0
    assert list(model.ours.components) == ["transformer", "text_encoder", "text_encoder_2"]
    assert model.ours.encode_prompts(["a red circle"]).tensors["text"].shape == (1, 16 + 20, 48)


def test_latents_with_a_shift_that_follows_the_size(tmp_path: Path) -> None:
    checks.same_latents(describe(build(tmp_path, use_dynamic_shifting=True)))


def test_dual_attention_is_the_pictures_own(tmp_path: Path) -> None:
    model = describe(build(tmp_path, dual=(0, 1)))
    checks.sees_attention(model)
    denoiser = model.load()
    z, told = torch.randn(1, *denoiser.latent_shape), denoiser.encode_prompts(["a cat"])
    assert len(denoiser.attention(z, 400, told).places) == 2  # the second attention reads no text


def test_latents_without_t5(tmp_path: Path) -> None:
    checks.same_latents(describe(build(tmp_path, "12")))


@pytest.mark.parametrize(
    ("encoders", "tokens"), [("1", 16 + 20), ("2", 16 + 20), ("3", 77 + 20), ("23", 16 + 20)]
)
def test_any_encoder_may_be_absent(encoders: str, tokens: int, model: checks.Model, tmp_path: Path) -> None:
    denoiser = describe(build(tmp_path, encoders)).ours
    whole = model.ours.encode_prompts(checks.PROMPTS).tensors
    condition = denoiser.encode_prompts(checks.PROMPTS)
    assert condition.tensors["text"].shape == (3, tokens, 48)
    assert condition.tensors["pooled"].shape == (3, 40)
    z = torch.zeros(3, *denoiser.latent_shape)
    assert denoiser.epsilon(z, 500.0, condition).isfinite().all()
    if encoders == "1":  # the same seed made it, so its part of the whole is the same
        assert torch.equal(condition.tensors["pooled"][:, :16], whole["pooled"][:, :16])
        assert torch.equal(condition.tensors["text"][:, :16, :16], whole["text"][:, :16, :16])
        assert not condition.tensors["text"][:, 16:].any()
    if "1" not in encoders:  # the second CLIP keeps its place behind the first
        assert not condition.tensors["pooled"][:, :16].any()
        assert not condition.tensors["text"][:, :16, :16].any()


def test_a_model_made_for_one_encoder_has_its_tokens_only(tmp_path: Path) -> None:
    denoiser = checks.Model(build(tmp_path, "1", wide=False), checks.EULER).ours
    condition = denoiser.encode_prompts(checks.PROMPTS)
    assert condition.tensors["text"].shape == (3, 16, 16)
    assert condition.tensors["pooled"].shape == (3, 16)
    assert denoiser.epsilon(torch.zeros(3, 4, 8, 8), 500.0, condition).isfinite().all()


def test_a_model_without_any_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none of its text encoders"):
        describe(build(tmp_path, "")).load()


def test_sizes_beyond_the_position_table_are_refused(model: checks.Model) -> None:
    assert model.load(resolution=64).latent_shape == (4, 32, 32)
    with pytest.raises(UserError, match=r"model.resolution=68: this model draws up to 64 pixels a side"):
        model.load(resolution=68)
    with pytest.raises(UserError, match=r"model.resolution=18: this model's pictures divide by 4"):
        model.load(resolution=18)


def test_a_prompt_is_cut_only_where_the_longest_reader_cuts(model: checks.Model, tmp_path: Path) -> None:
    prompt = "a red circle and " * 4  # 16 tokens; CLIP keeps 14, T5 19
    assert model.ours.prompt_length_report([prompt]) == []
    assert describe(build(tmp_path, "1")).ours.prompt_length_report([prompt])
