"""An adapter as numbers, and the files that the tools in use make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mitune.families import load_denoiser, lora


@dataclass(frozen=True)
class Layer:
    """W' = W + (alpha / rank) B A of ``component.name``."""

    component: str
    name: str
    down: Tensor
    up: Tensor
    alpha: float

    def added(self) -> Tensor:
        """What is added to the weight, as a matrix."""
        return self.alpha / len(self.down) * self.up.flatten(1) @ self.down.flatten(1)


def make(components: Mapping[str, nn.Module], endings: Sequence[str], alike: bool = False) -> list[Layer]:
    """An adapter far from zero, ranks 2 and 3 and alphas 1, 2, 3 in turn (``alike``: rank 2, alpha 3)."""
    generator = torch.Generator().manual_seed(4)
    found: list[Layer] = []
    for component, module in components.items():
        for name, layer in module.named_modules():
            if not isinstance(layer, (nn.Linear, nn.Conv2d)) or not name.endswith(tuple(endings)):
                continue
            rank = 2 if alike else 2 + len(found) % 2
            inputs, rest = layer.weight.shape[1:2], layer.weight.shape[2:]
            down = 0.3 * torch.randn(rank, *inputs, *rest, generator=generator)
            up = 0.3 * torch.randn(len(layer.weight), rank, *[1] * len(rest), generator=generator)
            found.append(Layer(component, name, down, up, 3 if alike else 1 + len(found) % 3))
    return found


def open_model(folder: Path, **more: Any) -> Any:
    return load_denoiser({"path": str(folder), "device": "cpu", **more})


def weights_of(denoiser: Any) -> dict[str, Tensor]:
    """All weights with the adapter merged, by peft, under the names they have without one."""
    with lora.merged(lora.adapter_layers(denoiser.components.values())):
        return plain_weights(denoiser.components)


def plain_weights(components: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{component}.{name.replace('.base_layer', '')}": value.clone()
        for component, module in components.items()
        for name, value in module.state_dict().items()
        if ".lora_" not in name
    }


def expected(base: Mapping[str, Tensor], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The weights by the formula."""
    found = dict(base)
    for layer in layers:
        key = f"{layer.component}.{layer.name}.weight"
        found[key] = base[key] + layer.added().reshape(base[key].shape)
    return found


def apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of weights."""
    assert left.keys() == right.keys()
    return max(float((left[key] - right[key]).abs().max()) for key in left)


# -- files ---------------------------------------------------------------------------------------------------


def outer(layer: Layer) -> str:
    """The name in files: CLIP's has its outer level."""
    inner = layer.name.removeprefix("text_model.")
    return f"text_model.{inner}" if layer.component.startswith("text_encoder") else inner


def write_kohya(file: Path, layers: Sequence[Layer], name: Callable[[Layer], str], **metadata: str) -> Path:
    """``name`` gives the part before ``.lora_down.weight``."""
    tensors = {}
    for layer in layers:
        head = name(layer)
        tensors[f"{head}.lora_down.weight"] = layer.down.clone()
        tensors[f"{head}.lora_up.weight"] = layer.up.clone()
        tensors[f"{head}.alpha"] = torch.tensor(float(layer.alpha))
    save_file(tensors, file, metadata=metadata or None)
    return file


def write_diffusers(file: Path, layers: Sequence[Layer], settings: Mapping[str, Any] | None = None) -> Path:
    """peft's names; ``settings``: the header of every component."""
    tensors, header = {}, {}
    for layer in layers:
        name = f"{layer.component}.{outer(layer)}"
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = layer.down, layer.up
        for key, value in (settings or {}).items():
            header[f"{layer.component}.{key}"] = value
    save_file(tensors, file, metadata={"lora_adapter_metadata": json.dumps(header)} if header else None)
    return file


def write_peft(folder: Path, layers: Sequence[Layer], settings: Mapping[str, Any]) -> Path:
    folder.mkdir()
    tensors = {}
    for layer in layers:
        name = f"base_model.model.{layer.name}"
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = layer.down, layer.up
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    return folder
