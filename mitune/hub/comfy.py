"""The adapter under the names that ComfyUI and its kin (Forge, kohya's scripts) read: ``lora_unet_….lora_up.weight``.

diffusers' own converter (``convert_state_dict_to_kohya``) serves LoRA of rank = alpha only: it writes the rank as alpha
and leaves DoRA's magnitudes without a name. Hence this one.

Layers keep diffusers' names, which ComfyUI maps to its own: below ``lora_unet_`` for a UNet, ``lora_transformer_`` for
a transformer, ``lora_te_`` for a single text encoder, ``lora_te1_``, ``lora_te2_``, … for several.

DoRA: ComfyUI and Forge compute W' = diag(s / ‖W‖) (W + B A) from ``dora_scale`` s, with the norm of W where the paper
has that of W + B A. The scale written here is s = m ‖W‖ / ‖W + B A‖, which makes their W' the adapter's own. A program
that follows the paper wants m: give it the diffusers file.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mitune.families.stacking import Update


def prefixes(components: list[str]) -> dict[str, str]:
    """Component of a diffusers file -> what its layers' names begin with."""
    encoders = [name for name in components if name.startswith("text_encoder")]
    found = {}
    for name in components:
        if name not in encoders:
            found[name] = f"lora_{name}"
        elif len(encoders) == 1:
            found[name] = "lora_te"
        else:
            found[name] = f"lora_te{name.removeprefix('text_encoder').removeprefix('_') or '1'}"
    return found


def comfy_tensors(updates: Mapping[str, Mapping[str, Update]]) -> dict[str, Tensor]:
    """Give ``Denoiser.adapter_updates`` as named tensors, float32. The scale is in ``lora_up``: alpha is the rank.

    Raises ValueError where two layers would have one name.
    """
    heads = prefixes(list(updates))
    tensors: dict[str, Tensor] = {}
    for component, layers in updates.items():
        for layer, update in layers.items():
            if component.startswith("text_encoder") and not layer.startswith("text_model."):
                layer = f"text_model.{layer}"
            name = f"{heads[component]}_{layer.replace('.', '_')}"
            if f"{name}.alpha" in tensors:
                raise ValueError(f"two layers are called {name}")
            tensors[f"{name}.lora_down.weight"] = update.down
            tensors[f"{name}.lora_up.weight"] = update.up
            tensors[f"{name}.alpha"] = torch.tensor(float(len(update.down)))
            if update.gain is not None and update.norm is not None:
                scale = update.gain * update.norm
                tensors[f"{name}.dora_scale"] = scale.reshape(-1, *[1] * (update.down.ndim - 1))
    return tensors
