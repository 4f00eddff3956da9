"""Several adapters with weights are one adapter: W + Σ w_i (W'_i − W), with W'_i as peft merges each alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.families import load_denoiser, lora
from mitune.families.stacking import updates
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig
from mitune.hub.comfy import comfy_tensors, prefixes

ATTENTION, CONVOLUTIONS = ("to_q", "to_v"), ("to_k", "conv1")
CLOSE = 2e-6  # of float32 products of weights of size about 0.1, 32 to 288 terms long


@pytest.fixture(scope="module")
def saved(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters far from zero, of different kinds, ranks, layers and components."""
    folder = tmp_path_factory.mktemp("adapters")
    configs = {
        "dora": AdapterConfig(kind="dora", rank=2, alpha=3, targets=ATTENTION, text_encoder=True),
        "dora conv": AdapterConfig(kind="dora", rank=3, alpha=1, targets=CONVOLUTIONS),
        "lora": AdapterConfig(kind="lora", rank=1, alpha=2, targets=(*ATTENTION, *CONVOLUTIONS)),
        "lora text": AdapterConfig(kind="lora", rank=2, alpha=2, targets=ATTENTION, text_encoder=True),
    }
    for seed, (name, config) in enumerate(configs.items()):
        denoiser = load(tiny_pipeline_folder)
        generator = torch.Generator().manual_seed(seed)
        parameters = attach(denoiser, config, seed=seed)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        denoiser.save_adapter(folder / name)
    return {name: folder / name for name in configs}


def load(folder: Path, **more: Any) -> Any:
    return load_denoiser({"path": str(folder), "device": "cpu", **more})


def weights_of(denoiser: Any) -> dict[str, Tensor]:
    """All weights with the adapter merged, by peft, under the names they have without one."""
    with lora.merged(lora.adapter_layers(denoiser.components.values())):
        return {
            f"{component}.{name.replace('.base_layer', '')}": value.clone()
            for component, module in denoiser.components.items()
            for name, value in module.state_dict().items()
            if ".lora_" not in name
        }


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["lora", "lora text"], [0.7, 0.3]),
        (["dora", "dora conv"], [0.5, 0.8]),
        (["lora", "dora", "dora conv"], [-0.4, 1.0, 0.6]),
        (["dora"], [0.25]),
        (["lora", "lora"], []),
    ],
)
def test_a_stack_is_the_weighted_sum_of_what_each_changes(
    names: list[str], weights: Sequence[float], saved: dict[str, Path], tiny_pipeline_folder: Path
) -> None:
    base = weights_of(load(tiny_pipeline_folder))
    expected = {name: value.clone() for name, value in base.items()}
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        alone = weights_of(load(tiny_pipeline_folder, adapter=saved[name]))
        for key, value in alone.items():
            expected[key] += weight * (value - base[key])
    folders = [str(saved[name]) for name in names]
    stacked = load(tiny_pipeline_folder, adapter=folders, adapter_weights=list(weights))
    found = weights_of(stacked)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= CLOSE, key
    assert max(float((expected[key] - base[key]).abs().max()) for key in base) > 1000 * CLOSE
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = stacked.encode_prompts(["a red cat", "a dog"])
    with torch.no_grad():
        beside = stacked.epsilon(z, 500, condition)
        with stacked.fused():
            assert (stacked.epsilon(z, 500, condition) - beside).abs().max() <= 1e-4
    stacked.unload_adapter()
    after = weights_of(stacked)
    assert all(torch.equal(after[key], base[key]) for key in base)


def test_identities_tell_stacks_apart(saved: dict[str, Path], tiny_pipeline_folder: Path) -> None:
    pair = [saved["lora"], saved["dora"]]
    denoiser, found = load(tiny_pipeline_folder, adapter=pair), set()
    for weights in ([1.0, 1.0], [0.5, 1.0], [1.0, 0.5]):
        denoiser.load_adapter(pair, weights=weights)
        found.add(denoiser.identity)
    denoiser.load_adapter(pair[::-1])
    found.add(denoiser.identity)
    denoiser.load_adapter(pair[0], weights=[1.0])
    assert denoiser.identity == load(tiny_pipeline_folder, adapter=pair[0]).identity
    assert len(found | {denoiser.identity}) == 5


def test_weights_that_cancel_a_row_and_adapters_that_do_not_fit_are_refused(
    saved: dict[str, Path], tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    denoiser = load(tiny_pipeline_folder, adapter=saved["lora"])
    before = denoiser.identity
    with pytest.raises(UserError, match="cancel"):
        denoiser.load_adapter([saved["dora"], saved["lora"]], weights=[-1e4, 1.0])
    with pytest.raises(UserError, match="no adapter at"):
        denoiser.load_adapter([saved["dora"], tmp_path / "nowhere"])
    assert denoiser.identity == before  # the one that was there stays


# -- ComfyUI -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dora", "dora conv", "lora text"])
def test_comfyui_gets_the_adapters_own_weights(
    name: str, saved: dict[str, Path], tiny_pipeline_folder: Path
) -> None:
    """ComfyUI's arithmetic (``comfy/weight_adapter``, 2025): alpha over rank, and DoRA's scale over the norm of W."""
    base, expected = (
        weights_of(load(tiny_pipeline_folder)),
        weights_of(load(tiny_pipeline_folder, adapter=saved[name])),
    )
    tensors = comfy_tensors(load(tiny_pipeline_folder, adapter=saved[name]).adapter_updates())
    heads = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
    read, changed = set(), 0
    for key, weight in base.items():
        component, _, layer = key.partition(".")
        layer = layer.removesuffix(".weight").removeprefix("text_model.")
        head = heads[component] + layer.replace(".", "_")
        if f"{head}.lora_up.weight" not in tensors:
            assert torch.equal(expected[key], weight)
            continue
        up, down = tensors[f"{head}.lora_up.weight"], tensors[f"{head}.lora_down.weight"]
        alpha, scale = tensors[f"{head}.alpha"], tensors.get(f"{head}.dora_scale")
        made = weight + (alpha / len(down)) * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        if scale is not None:
            assert scale.shape == (len(weight), *[1] * (weight.ndim - 1))
            norm = weight.flatten(1).norm(dim=1).reshape(scale.shape)
            made = made * (scale / norm)
        assert (made - expected[key]).abs().max() <= CLOSE, key
        read |= {tensor for tensor in tensors if tensor.startswith(f"{head}.")}
        changed += 1
    assert read == set(tensors)
    assert changed == len({tensor.partition(".")[0] for tensor in tensors}) > 3


def test_diffusers_reads_the_names_back(
    saved: dict[str, Path], tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    from diffusers import AutoPipelineForText2Image
    from safetensors.torch import save_file

    ours = load(tiny_pipeline_folder, adapter=saved["lora text"])
    save_file(comfy_tensors(ours.adapter_updates()), tmp_path / "comfy.safetensors")
    plain = AutoPipelineForText2Image.from_pretrained(str(tiny_pipeline_folder), safety_checker=None)
    plain.load_lora_weights(str(tmp_path / "comfy.safetensors"))
    plain.fuse_lora()
    plain.unload_lora_weights()
    expected = weights_of(ours)
    for component in ("unet", "text_encoder"):
        for key, value in getattr(plain, component).state_dict().items():
            assert (value - expected[f"{component}.{key}"]).abs().max() <= CLOSE


def test_prefixes_of_one_and_of_several_encoders() -> None:
    assert prefixes(["unet", "text_encoder"]) == {"unet": "lora_unet", "text_encoder": "lora_te"}
    assert prefixes(["transformer", "text_encoder", "text_encoder_2"]) == {
        "transformer": "lora_transformer",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }


def test_lora_needs_no_norms(saved: dict[str, Path], tiny_pipeline_folder: Path) -> None:
    denoiser = load(tiny_pipeline_folder)
    found = updates(denoiser.network, lora.read_adapter(saved["lora"]), "unet")
    assert all(update.gain is None and update.norm is None for update in found.values())
