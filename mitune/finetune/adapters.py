"""Attach a trainable adapter (DoRA or LoRA, through peft) to a denoiser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.denoiser import Denoiser
from mitune.errors import UserError, nearest
from mitune.families import lora
from mitune.families.adapted import Adapted
from mitune.families.layers import sizes
from mitune.finetune.catalogue import ALL, AdapterConfig


def attach(
    denoiser: Denoiser, config: AdapterConfig, init_from: str | Path | None = None, seed: int = 0
) -> list[nn.Parameter]:
    """Put a fresh adapter (or a copy of the one in ``init_from``) in the place of the present one.

    Returns its parameters, float32 and trainable; everything else stays frozen. A fresh one changes nothing
    yet (B = 0; DoRA: m = ‖W‖) and depends on ``seed`` alone.
    Raises UserError: a target that matches no layer, a saved adapter of another model, kind, rank or targets.
    """
    from peft import LoraConfig

    config.check("adapter.")
    if not isinstance(denoiser, Adapted):
        raise UserError(f"{denoiser.identity} has no network an adapter could attach to")
    modules = _modules(denoiser, config)
    saved = lora.read_adapter(init_from, denoiser.components) if init_from is not None else None
    if saved is not None:
        for component, (module, _) in modules.items():
            if component in saved.tensors:
                lora.fitted(module, saved, component)
    denoiser.unload_adapter()
    parameters: list[nn.Parameter] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module, targets in modules.values():
            peft_config = LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=list(targets),
                use_dora=config.kind == "dora",
                init_lora_weights=True,
            )
            lora.inject(module, peft_config)
            _to_float32(module)
    if saved is not None:
        _copy(saved, {component: module for component, (module, _) in modules.items()}, config)
    for module, _ in modules.values():
        for parameter in lora.adapter_parameters(module).values():
            parameter.requires_grad_(True)
            parameters.append(parameter)
    return parameters


def trainable_parameters(denoiser: Adapted) -> dict[str, nn.Parameter]:
    """Collect the parameters that train, under the names they have in an adapter file."""
    return {
        f"{component}.{name}": parameter
        for component, module in denoiser.components.items()
        for name, parameter in lora.adapter_parameters(module).items()
        if parameter.requires_grad
    }


def _modules(denoiser: Adapted, config: AdapterConfig) -> dict[str, tuple[nn.Module, Sequence[str]]]:
    """Find component -> (module, targets). Raises UserError for targets that match nothing."""
    encoders = denoiser.text_encoders
    if config.text_encoder and not encoders:
        raise UserError(
            f"adapter.text_encoder=true: an adapter of {denoiser.identity} holds no text encoder; leave it false"
        )
    if config.text_encoder and denoiser.offloaded != "none":
        raise UserError(
            "adapter.text_encoder=true: a text encoder that trains cannot wait on the CPU; say model.offload=none"
        )
    modules: dict[str, tuple[nn.Module, Sequence[str]]] = {}
    for component, module in denoiser.components.items():
        is_text = any(module is encoder for encoder in encoders)
        if is_text and not config.text_encoder:
            continue
        targets, key = (
            (config.text_targets, "adapter.text_targets")
            if is_text
            else (config.targets or denoiser.adapter_targets, "adapter.targets")
        )
        if list(targets) == [ALL]:
            targets = list(sizes(module))
        _check_targets(module, targets, key, component)
        modules[component] = (module, targets)
    return modules


def _check_targets(module: nn.Module, targets: Sequence[str], key: str, component: str) -> None:
    names = list(sizes(module))
    if not targets:
        raise UserError(f"{key} is empty; this {component} has {', '.join(_endings(names))}")
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            endings = _endings(names)
            raise UserError(
                f"{key}: '{target}' matches no layer of the {component}{nearest(target, endings)}; it has "
                f"{', '.join(endings)}"
            )


def _endings(names: Iterable[str]) -> list[str]:
    """List what layers are called: the last part of each name, with the part before it where the last is a number."""
    found = []
    for name in names:
        parts = name.split(".")
        at = len(parts) - 1
        while at > 0 and parts[at].isdigit():
            at -= 1
        found.append(".".join(parts[at:]))
    return sorted(set(found))


@torch.no_grad()
def _to_float32(module: nn.Module) -> None:
    """Cast the adapter to float32, whatever the weights are in; DoRA's magnitudes are taken from float32 norms (bf16
    ones are 0.4 % off)."""
    for layer in lora.adapter_layers([module]):
        for name, parameter in layer.named_parameters():
            if ".lora_" in f".{name}":
                parameter.data = parameter.data.float()
        weight = layer.get_base_layer().weight
        for magnitude in getattr(layer, "lora_magnitude_vector", {}).values():
            plain = type(weight.data) is Tensor and weight.is_floating_point()
            if plain and weight.ndim == 2:  # of packed ones peft has taken the norm itself
                magnitude.weight.data = torch.linalg.norm(weight.float(), dim=1)  # B = 0: ‖W + s·BA‖ = ‖W‖


def _copy(saved: lora.SavedAdapter, modules: dict[str, Any], config: AdapterConfig) -> None:
    """Fill the fresh adapter with the saved values. Raises UserError where the two are not of one make."""
    what = f"the adapter {saved.path}"
    for component, module in modules.items():
        if component not in saved.tensors:
            continue  # a round that starts to train the text encoder
        kind = "dora" if saved.is_dora(component) else "lora"
        if kind != config.kind:
            raise UserError(f"{what} is a {kind}; go on with adapter.kind={kind}, or start afresh")
        ranks = set(saved.ranks(component).values())
        if ranks != {config.rank}:
            shown = ", ".join(map(str, sorted(ranks)))
            raise UserError(f"{what} has rank {shown}; go on with adapter.rank={shown}, or start afresh")
        scales = {saved.scale(component, layer, rank) for layer, rank in saved.ranks(component).items()}
        alpha = next(iter(scales)) * config.rank
        if len(scales) > 1:
            raise UserError(f"{what} scales its layers differently, and training has one alpha; start afresh")
        if not math.isclose(alpha, config.alpha):
            raise UserError(
                f"{what} has alpha {alpha:g}; go on with adapter.alpha={alpha:g}, or start afresh"
            )
        tensors = lora.fitted(module, saved, component)
        different = sorted(tensors.keys() ^ lora.adapter_parameters(module).keys())
        if different:
            raise UserError(
                f"{what} has other target layers ('{different[0]}'); go on with the adapter.targets it was made with"
            )
        lora.copy_into(module, tensors)
    extra = [component for component in saved.tensors if component not in modules]
    if extra:
        raise UserError(f"{what} also adapts the {extra[0]}; go on with adapter.text_encoder=true")
