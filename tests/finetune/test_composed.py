"""Composed weights against peft's own forward: the same function, the same gradient, and only where it is due."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mitune.families import lora
from mitune.finetune.composed import composed

LAYERS = {
    "linear": (lambda: nn.Linear(12, 20), (5, 7, 12)),
    "linear without bias": (lambda: nn.Linear(12, 6, bias=False), (5, 12)),
    "convolution": (lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1), (2, 6, 8, 8)),
    "1x1": (lambda: nn.Conv2d(6, 10, 1), (2, 6, 4, 4)),
}


class Net(nn.Module):
    """One layer to adapt."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def adapted(layer: nn.Module, dora: bool, dropout: float = 0.0, rank: int = 4) -> tuple[Net, list[Any]]:
    """(network with an adapter far from zero, its layers)."""
    from peft import LoraConfig, inject_adapter_in_model

    net = Net(layer).requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=3,
        target_modules=["layer"],
        use_dora=dora,
        lora_dropout=dropout,
        init_lora_weights=True,
    )
    inject_adapter_in_model(config, net)
    with torch.no_grad():
        for parameter in lora.adapter_parameters(net).values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net, lora.adapter_layers([net])


def changed(layers: list[Any]) -> bool:
    """Whether its forward is not the class's any more."""
    return "forward" in vars(layers[0])


def gradients(net: Net, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x = x.clone().requires_grad_(True)
    y = net(x)
    (y * target).sum().backward()
    found = {name: value.grad for name, value in lora.adapter_parameters(net).items()} | {"x": x.grad}
    net.zero_grad()
    return y.detach(), found  # type: ignore[return-value]


@pytest.mark.parametrize("dora", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_function_and_gradient_of_peft(kind: str, dora: bool) -> None:
    make, shape = LAYERS[kind]
    net, layers = adapted(make(), dora)
    x = torch.randn(shape)
    target = torch.randn_like(net(x))
    plain, expected = gradients(net, x, target)
    with composed(layers):
        assert changed(layers)
        ours, found = gradients(net, x, target)
    assert not changed(layers)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert found.keys() == expected.keys()
    assert len(found) == 3 + dora
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dora", [True, False])
def test_switches_and_values_that_change_places_are_seen(dora: bool) -> None:
    net, layers = adapted(nn.Linear(12, 20), dora)
    x = torch.randn(5, 12)
    base = layers[0].get_base_layer()(x)
    with composed(layers):
        before = net(x)
        with lora.switched_off(layers):
            assert torch.equal(net(x), base)
        with lora.merged(layers):
            torch.testing.assert_close(net(x), before)
        up = layers[0].lora_B["default"].weight
        kept, up.data = up.data, torch.zeros_like(up)
        assert (net(x) - before).abs().max() > 0.01
        up.data = kept
        assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.Linear(12, 20), {"dropout": 0.1}),
        (nn.Linear(12, 20, dtype=torch.bfloat16), {}),
        (nn.Conv2d(4, 8, 3, groups=2), {}),
        (nn.Linear(200, 300), {"dora": False}),  # of a rank that is small beside its width
        (nn.Linear(1200, 1200), {}),
    ],
)
def test_left_as_it_is(layer: nn.Module, options: dict[str, Any]) -> None:
    _, layers = adapted(layer, **({"dora": True} | options))
    with composed(layers):
        assert not changed(layers)
