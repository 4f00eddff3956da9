"""The layers of a network that an adapter may change, under the names they have without one."""

from __future__ import annotations

from torch import Tensor, nn

from mitune.errors import UserError


def sizes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Layer -> (outputs, inputs).

    Not from the weights: those of 4 bits are packed into another shape.
    """
    return {
        key.removesuffix(".base_layer"): (layer.out_features, layer.in_features)
        if isinstance(layer, nn.Linear)
        else (layer.out_channels, layer.in_channels)
        for key, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".lora_" not in key
    }


def plain(module: nn.Module) -> dict[str, nn.Module]:
    """Layer -> the layer as it is without an adapter."""
    found = dict(module.named_modules())
    return found | {
        name.removesuffix(".base_layer"): layer
        for name, layer in found.items()
        if name.endswith(".base_layer")
    }


def matrix(layer: nn.Module, name: str) -> Tensor:
    """Give a layer's weight as a matrix [out, inputs], float32, on the CPU. Raises UserError for packed weights."""
    weight = layer.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or type(weight.data) is not Tensor:
        raise UserError(
            f"'{name}' has packed weights, whose norms are needed for a DoRA here: say model.quantization=none"
        )
    return weight.detach().float().cpu().flatten(1)


def check_size(what: str, size: tuple[int, int], down: Tensor, up: Tensor) -> None:
    """Raise UserError unless A (``down``) and B (``up``) are for a layer of this ``size``. ``what`` names both."""
    for here, there, side in ((size[1], down.shape[1], "inputs"), (size[0], up.shape[0], "outputs")):
        if here != there:
            raise UserError(f"{what} has {here} {side} here, {there} there")
