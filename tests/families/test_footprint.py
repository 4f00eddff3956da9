"""The footprint of a model from its headers: its parameters exactly, its activations as every tensor followed says."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.config import compose, conf_folder, groups
from mitune.families import load_denoiser
from mitune.families.footprint import ALIVE, KEPT, Footprint, footprint, reckon
from mitune.families.source import find_model
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig
from mitune.stages.forecast import memory
from mitune.verbs.amounts import size


def of(path: str | Path, **more: Any) -> Footprint:
    found = footprint(find_model(path), **more)
    assert found is not None
    return found


@pytest.mark.parametrize("path", ["shapes", "shapes_flow"])
def test_parameters_and_shapes_are_those_of_the_model(path: str) -> None:
    found, denoiser = of(path), load_denoiser(path, device="cpu", dtype="float32")
    for part, count in found.parameters.items():
        module = getattr(denoiser.pipeline, part)
        assert count == pytest.approx(sum(own.numel() for own in module.state_dict().values()), rel=1e-3), (
            part
        )
    assert found.latent == tuple(denoiser.latent_shape)
    assert found.picture == tuple(denoiser.picture_size)
    for kind in ("dora", "lora"):
        for targets in ([], ["all"]):
            settings = AdapterConfig(kind=kind, rank=4, targets=[*targets])
            trained = sum(own.numel() for own in attach(denoiser, settings))
            assert found.adapter(targets or denoiser.adapter_targets, 4, kind == "dora") == trained


def test_another_resolution_is_another_footprint() -> None:
    small, large = of("shapes"), of("shapes", resolution=2 * of("shapes").picture[0])
    assert large.picture == tuple(2 * side for side in small.picture)
    assert large.outputs == pytest.approx(4 * small.outputs, rel=0.05)


def test_a_model_that_is_not_here_has_none(tmp_path: Path) -> None:
    source = find_model("shapes")
    assert footprint(type(source)("far", None, source.pipeline, source.components)) is None


# -- activations, against every tensor of a forward without contents ---------------------------------------------------


class _Attention(torch.autograd.Function):
    """Attention as the fused kernels have it: it keeps its inputs and its output, and no map."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out


@functools.cache
def stable_diffusion(width: int = 64) -> tuple[Any, Footprint]:
    """The network of Stable Diffusion 1.5, without contents, and its footprint with its autoencoder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=width, cross_attention_dim=768, attention_head_dim=8)
        unet = unet.to(torch.bfloat16)
    return unet, _reckoned(unet, AutoencoderKL)


def _reckoned(unet: Any, kind: Any) -> Footprint:
    blocks = 4
    with torch.device("meta"):
        vae = kind(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks, layers_per_block=2,
        )  # fmt: skip
    shapes = {
        part: {name: [*value.shape] for name, value in module.state_dict().items()}
        for part, module in (("unet", unet), ("vae", vae))
    }
    found = reckon(shapes, "unet", dict(unet.config), dict(vae.config))
    assert found is not None
    return found


def _kept(unet: Any, rows: int) -> int:
    """Bytes that the backward pass of so many rows needs."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), storage)
        return tensor

    told = [torch.empty(rows, 4, 64, 64), torch.zeros(rows), torch.empty(rows, 77, 768)]
    z, t, text = (each.to("meta", torch.bfloat16) for each in told)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        unet(z, t, encoder_hidden_states=text)
    return sum(count for count, _ in kept.values())


def test_what_training_keeps_of_a_row_is_what_is_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, found = stable_diffusion()
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, *_, **__: _Attention.apply(q, k, v),
    )
    row = _kept(unet, 2) - _kept(unet, 1)
    assert 0.75 < row / (2 * KEPT * found.outputs) < 1.0
    assert found.units < found.outputs / 3  # what gradient checkpointing is for
    assert ALIVE * found.widest < KEPT * found.outputs / 5


def test_the_presets_say_the_memory_that_is_reckoned() -> None:
    _, found = stable_diffusion()
    text = 123_060_480  # parameters of Stable Diffusion's text encoder
    found = Footprint(**{**vars(found), "parameters": {**found.parameters, "text_encoder": text}})

    def asked(*words: str) -> str:
        config = compose(["experiment=mitune", *words])
        adapter = found.adapter([*config.adapter.targets], config.adapter.rank, True)
        return size(memory(config, found, 2, adapter, 2).most)

    said = (conf_folder() / "experiment" / "mitune.yaml").read_text()
    assert re.search(rf"{re.escape(asked())} with Stable Diffusion", said)
    for card in groups()["card"]:
        said = " ".join((conf_folder() / "card" / f"{card}.yaml").read_text().replace("#", "").split())
        assert f"not measured: {asked(f'card={card}')} with Stable Diffusion 1.5 or 2.1" in said
        bound = float(card.removesuffix("gb"))
        assert float(asked(f"card={card}").split()[0]) < 0.9 * bound
