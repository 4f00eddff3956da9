"""FLUX.1: packed latents, a shift that follows the size, true guidance, the guidance embedding of distilled models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.errors import UserError
from mitune.families.flux import FluxDenoiser, pack, unpack
from tests.families import checks, tiny

DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> checks.Model:
    return describe(build(tmp_path_factory.mktemp("flux")))


def describe(folder: Path, **options: Any) -> checks.Model:
    return checks.Model(
        folder,
        checks.EULER,
        options={"resolution": 16, "max_tokens": 20, **options},
        guidance="true_cfg_scale",
        call={"negative_prompt": [""] * 3, "guidance_scale": 1.0, "max_sequence_length": 20},
        pack=pack,
        unpack=lambda tokens: unpack(tokens, 8, 8),
    )


def build(folder: Path, distilled: bool = False, **scheduler: Any) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer, encoder = tiny.clip(folder / "clip", 16, projected=False)
    tokenizer_2, encoder_2 = tiny.t5(32)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or DYNAMIC)),
        vae=tiny.autoencoder(shift=0.1159, scale=0.3611),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=tiny.enliven(transformer),
    )
    return tiny.save(pipeline, folder / "model")


class TestFlux(checks.Common):
    text_adapters = True


def test_it_knows_its_shapes(model: checks.Model) -> None:
    assert isinstance(model.ours, FluxDenoiser)
    assert model.ours.latent_shape == (4, 8, 8)
    assert model.ours.picture_size == (16, 16)
    assert list(model.ours.components) == ["transformer", "text_encoder"]
    assert describe(model.folder).load(resolution=None).latent_shape == (4, 128, 128)


def test_packing_is_the_pipelines(model: checks.Model) -> None:
    from diffusers import FluxPipeline

    z = torch.randn(2, 4, 6, 10)
    assert torch.equal(pack(z), FluxPipeline._pack_latents(z, 2, 4, 6, 10))
    assert torch.equal(unpack(pack(z), 6, 10), z)


def test_a_fixed_shift(tmp_path: Path) -> None:
    checks.same_latents(describe(build(tmp_path, shift=1.0)))


def test_a_distilled_model_is_refused_unless_told_what_its_embedding_is(tmp_path: Path) -> None:
    folder = build(tmp_path, distilled=True)
    with pytest.raises(UserError, match=r"guidance-distilled.*model.guidance_embedding=1") as caught:
        describe(folder).load()
    assert "\n" not in str(caught.value)
    checks.same_latents(describe(folder, guidance_embedding=1.0))


def test_options_that_do_not_apply_are_refused(model: checks.Model) -> None:
    with pytest.raises(UserError, match=r"model.guidance_embedding=1.0: .* is not guidance-distilled"):
        model.load(guidance_embedding=1.0)


def test_sizes_that_do_not_divide_are_refused(model: checks.Model) -> None:
    with pytest.raises(UserError, match=r"model.resolution=18: this model's pictures divide by 4"):
        model.load(resolution=18)
