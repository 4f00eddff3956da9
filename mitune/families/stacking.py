"""What an adapter makes of a weight, layer by layer, and several adapters with weights as one.

Every adapter here turns a weight W into W' = diag(g) (W + B A): LoRA with g = 1, DoRA (2402.09353) with
g = m / ‖W + B A‖, row by row. A weighted stack is the weighted sum of the differences each adapter makes alone:

    W + Σ w_i (W'_i − W) = diag(1 + h) W + Σ w_i diag(g_i) B_i A_i,   h = Σ w_i (g_i − 1),

which is an adapter again, exactly: its A are those of all, one below the other; its B the w_i diag(g_i / (1 + h)) B_i,
side by side; its magnitude m = (1 + h) ‖W + B A‖. Its rank is the sum of the ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mitune.errors import UserError
from mitune.families.adapter_files import SavedAdapter
from mitune.families.layers import matrix, plain
from mitune.families.lora import fitted


@dataclass(frozen=True)
class Update:
    """An update makes W' = diag(gain) (W + up · down) of one layer, in float32: ``down`` [r, in, …], ``up`` [out, r, …]
    (the scale alpha / r in it), ``gain`` and ``norm`` = ‖W‖ [out], both None for LoRA.
    """

    down: Tensor
    up: Tensor
    gain: Tensor | None = None
    norm: Tensor | None = None

    def added(self) -> Tensor:
        """Multiply B A to a matrix [out, inputs]."""
        return self.up.flatten(1) @ self.down.flatten(1)


def updates(module: nn.Module, saved: SavedAdapter, component: str) -> dict[str, Update]:
    """Give layer -> what ``saved`` does to it. Raises UserError if the adapter does not fit this module, or is a DoRA
    on packed weights."""
    tensors = fitted(module, saved, component)
    layers = plain(module)
    found = {}
    for key, value in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        layer = key.removesuffix(".lora_A.weight")
        down = value.float()
        up = saved.scale(component, layer, len(down)) * tensors[f"{layer}.lora_B.weight"].float()
        magnitude = tensors.get(f"{layer}.lora_magnitude_vector")
        if magnitude is None:
            found[layer] = Update(down, up)
            continue
        weight = matrix(layers[layer], layer)
        after = torch.linalg.norm(weight + up.flatten(1) @ down.flatten(1), dim=1)
        gain = magnitude.float().reshape(-1) / after
        found[layer] = Update(down, up, gain, torch.linalg.norm(weight, dim=1))
    return found


def stack(
    components: Mapping[str, nn.Module], adapters: Sequence[SavedAdapter], weights: Sequence[float]
) -> SavedAdapter:
    """Make the one adapter that does what ``adapters`` do together with these ``weights``.

    Raises UserError: one does not fit, or the weights take a row of a weight through zero (1 + h ≤ 0).
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    for component, module in components.items():
        parts = [
            (weight, updates(module, saved, component))
            for saved, weight in zip(adapters, weights, strict=True)
            if component in saved.tensors
        ]
        if not parts:
            continue
        dora = any(update.gain is not None for _, part in parts for update in part.values())
        layers = plain(module)
        tensors[component] = {}
        for layer in dict.fromkeys(layer for _, part in parts for layer in part):
            both = [(weight, part[layer]) for weight, part in parts if layer in part]
            base = matrix(layers[layer], layer) if dora else None
            tensors[component] |= {
                f"{layer}.{name}": value for name, value in _one(both, base, layer, adapters).items()
            }
    told = json.dumps([[saved.digest for saved in adapters], list(weights)])
    name = "+".join(f"{weight:g}*{saved.path}" for saved, weight in zip(adapters, weights, strict=True))
    return SavedAdapter(Path(name), hashlib.sha256(told.encode()).hexdigest()[:12], tensors)


def _one(
    parts: Sequence[tuple[float, Update]], base: Tensor | None, layer: str, adapters: Sequence[SavedAdapter]
) -> dict[str, Tensor]:
    """Stack one layer: its tensors under peft's names; ``base``: W as a matrix where the stack is a DoRA."""
    down = torch.cat([update.down for _, update in parts])
    if base is None:
        return {
            "lora_A.weight": down,
            "lora_B.weight": torch.cat([weight * update.up for weight, update in parts], dim=1),
        }
    gains = [torch.ones(len(base)) if update.gain is None else update.gain for _, update in parts]
    total = 1 + sum(weight * (gain - 1) for (weight, _), gain in zip(parts, gains, strict=True))
    assert isinstance(total, Tensor)
    if not bool((total > 0).all()):
        raise UserError(
            f"model.adapter_weights: with these, {' and '.join(str(saved.path) for saved in adapters)} cancel"
            f" '{layer}'; give weights nearer to 1"
        )
    up = torch.cat(
        [
            (weight * gain / total).reshape(-1, *[1] * (update.up.ndim - 1)) * update.up
            for (weight, update), gain in zip(parts, gains, strict=True)
        ],
        dim=1,
    )
    magnitude = total * torch.linalg.norm(base + up.flatten(1) @ down.flatten(1), dim=1)
    if down.ndim > 2:  # a convolution's has the shape of its output
        magnitude = magnitude.reshape(1, -1, *[1] * (down.ndim - 2))
    return {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": magnitude}
