"""A layer's weight put together before it meets the pictures: one product a layer in place of two or three.

peft adds the adapter's output to its layer's: y = W x + (alpha/r) B (A x), for DoRA rescaled. That takes no memory for
a second weight, but a rank that is no small part of the layer's width costs more than it saves, and for DoRA the sum
of both is formed anyway, for its norm. Here y = W' x with W' = W + (alpha/r) B A, or m · W' / ‖W'‖ with the norm taken
as a constant, as peft and the paper do (Liu et al., 2402.09353, 4.3): the same function and gradient, in float32 up to
rounding. In fewer bits W' would lose small updates, so there nothing changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# What peft's DoRA does to every output of a layer takes as long as this many inputs of a product (measured, one core).
_OUTPUT = 1024


@contextlib.contextmanager
def composed(layers: Iterable[Any]) -> Iterator[None]:
    """Let the layers for which it pays compose their weight in every forward, for the time of the block.

    ``layers``: peft's, each with one adapter. What reads or switches them (``switched_off``, values that change places)
    finds them as ever. Not for autocast, nor for weights that are sharded.
    """
    changed = [layer for layer in layers if _pays(layer)]
    for layer in changed:
        layer.forward = partial(_forward, layer, layer.forward)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward  # that of the class


def _pays(layer: Any) -> bool:
    """Tell whether W' can take W's place, and costs less: a product of W's size for its gradient against three of A's
    and B's, forward and back."""
    base, name = layer.get_base_layer(), _name(layer)
    kinds = type(base) is nn.Linear or (type(base) is nn.Conv2d and base.groups == 1)
    if name is None or not kinds or layer.lora_bias.get(name) or getattr(layer.lora_dropout[name], "p", 0.0):
        return False
    weight, down, up = base.weight, layer.lora_A[name].weight, layer.lora_B[name].weight
    if type(weight.data) is not Tensor or {weight.dtype, down.dtype, up.dtype} != {torch.float32}:
        return False
    spared = 3 * (down.numel() + up.numel()) + layer.use_dora[name] * _OUTPUT * len(weight)
    return spared > weight.numel()


def _name(layer: Any) -> str | None:
    names = list(layer.active_adapters)
    return names[0] if len(names) == 1 and names[0] in layer.lora_A else None


def _forward(layer: Any, plain: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters or layer.merged or args or kwargs or x.dtype != torch.float32:
        return plain(x, *args, **kwargs)
    base = layer.get_base_layer()
    weight = _weight(layer)
    if isinstance(base, nn.Conv2d):
        return base._conv_forward(x, weight, base.bias)
    return functional.linear(x, weight, base.bias)


def _weight(layer: Any) -> Tensor:
    """Compose W' [outputs, inputs, …] of one of peft's layers; its gradient goes to A, B and m [outputs] (eq. 5)."""
    name, weight = _name(layer), layer.get_base_layer().weight
    whole = weight + layer.get_delta_weight(name)
    if not layer.use_dora[name]:
        return whole
    magnitude = layer.lora_magnitude_vector[name].weight
    norm = whole.detach().flatten(1).norm(dim=1)
    return whole * (magnitude.flatten() / norm).view(-1, *[1] * (weight.ndim - 1))
