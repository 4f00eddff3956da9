"""Adapters (LoRA, DoRA) inside a network, and the diffusers LoRA file that holds them.

LoRA (Hu et al., 2106.09685): W' = W + (alpha/r) B A.  DoRA (Liu et al., 2402.09353): W' = m · (W + (alpha/r)
B A) / ‖W + (alpha/r) B A‖, the norm taken over each output's row, with m trained beside A and B.

In the file a parameter is called ``<component>.<layer>.lora_A.weight`` (``lora_B.weight``,
``lora_magnitude_vector``); r and alpha are in the header, where diffusers looks for them.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.errors import UserError
from mitune.families import adapter_files
from mitune.families.adapter_files import SavedAdapter
from mitune.families.adapter_files import read_adapter as read_adapter
from mitune.families.adapter_place import ADAPTER_FILE as FILE
from mitune.families.headers import header_of, header_text
from mitune.families.layers import check_size, sizes
from mitune.files import atomic_folder, write_bytes

_A, _B, _MAGNITUDE = adapter_files.A, adapter_files.B, adapter_files.MAGNITUDE
NAME = "default"  # what peft calls the one adapter that a module carries


def write_adapter(folder: str | Path, pipeline_class: Any, components: Mapping[str, nn.Module]) -> None:
    """Write the adapter of ``components`` ({"unet": …, "text_encoder": …}) to ``folder``, atomically, by diffusers' own
    writer."""
    # PixArt's pipelines have no writer of their own: they take that of a pipeline with a transformer alone.
    from diffusers.loaders import SanaLoraLoaderMixin

    layers: dict[str, dict[str, Tensor]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for component, module in components.items():
        tensors = {key: value.data for key, value in adapter_parameters(module).items()}
        if not tensors:
            continue
        config: Any = module.peft_config[NAME]  # type: ignore[index]
        if component.startswith("text_encoder") and not hasattr(module, "text_model"):
            # Older transformers nest CLIP's text model one level deeper; diffusers strips the level where it
            # is absent.
            tensors = {f"text_model.{key}": value for key, value in tensors.items()}
        if component.startswith("text_encoder"):
            # transformers 5 looks for a magnitude under its full name and, not finding it, leaves it as it
            # was; older versions take both names.
            tensors = {key + ".weight" * key.endswith(_MAGNITUDE): value for key, value in tensors.items()}
        layers[f"{component}_lora_layers"] = {key: value.cpu().contiguous() for key, value in tensors.items()}
        settings[f"{component}_lora_adapter_metadata"] = _settings(config, module)
    if not layers:
        raise ValueError("there is no adapter to write")
    with atomic_folder(folder) as partial:
        writer = pipeline_class if hasattr(pipeline_class, "save_lora_weights") else SanaLoraLoaderMixin
        writer.save_lora_weights(str(partial), **layers, **settings)
        data = _canonical((partial / FILE).read_bytes())
        (partial / FILE).unlink()
        write_bytes(partial / FILE, data)


def _settings(config: Any, module: nn.Module) -> dict[str, Any]:
    """Say in the header what a component's adapter is."""
    given = {"r": config.r, "lora_alpha": config.lora_alpha, "use_dora": config.use_dora}
    if config.use_rslora:
        given["use_rslora"] = True
    if isinstance(config.target_modules, str):  # of an adapter that was read: every layer has its own values
        wrapped = {
            key: layer for key, layer in module.named_modules() if NAME in getattr(layer, "lora_A", {})
        }
        ranks = {f"^{key}": layer.r[NAME] for key, layer in wrapped.items()}
        alphas = {f"^{key}": layer.lora_alpha[NAME] for key, layer in wrapped.items()}
        targets = sorted(wrapped)
        patterns = {
            "rank_pattern": {key: value for key, value in ranks.items() if value != config.r},
            "alpha_pattern": {key: value for key, value in alphas.items() if value != config.lora_alpha},
        }
    else:
        targets = sorted(config.target_modules)
        patterns = {"rank_pattern": dict(config.rank_pattern), "alpha_pattern": dict(config.alpha_pattern)}
    return {**given, "target_modules": targets, **{key: value for key, value in patterns.items() if value}}


def _canonical(data: bytes) -> bytes:
    """Put the keys of a safetensors file's header in order: equal adapters are to be equal files."""
    found, tensors = header_of(data)
    header = header_text(found)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + tensors


def make_canonical(folder: Path) -> None:
    """Do the same to every safetensors file below ``folder``; its tensors are not read."""
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("r+b") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = header_text(json.loads(stream.read(size)))
            if len(header) <= size:  # written in place: the rest of the file may be many gigabytes
                stream.seek(8)
                stream.write(header.ljust(size))


# -- inside a network ----------------------------------------------------------------------------------------


def adapter_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Collect the adapter's parameters under peft's names (the file's, without the component)."""
    found = {}
    for key, parameter in module.named_parameters():
        if ".lora_" in key and f".{NAME}." in key:
            key = key.replace(f".{NAME}.", ".")
            found[key.removesuffix(".weight") if key.endswith(f"{_MAGNITUDE}.weight") else key] = parameter
    return found


def adapter_layers(modules: Iterable[nn.Module]) -> list[Any]:
    """List every layer of ``modules`` that carries an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for module in modules for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def inject(module: nn.Module, config: Any) -> None:
    """Put an adapter of this ``peft.LoraConfig`` into ``module``, through the method its own library offers, or
    peft's where it has none (PixArt's transformer).
    """
    if hasattr(module, "add_adapter"):
        module.add_adapter(config, adapter_name=NAME)  # type: ignore[operator]
    else:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, module, NAME)


def inject_saved(module: nn.Module, saved: SavedAdapter, component: str) -> None:
    """Rebuild a saved adapter in ``module``, frozen, in the module's dtype. Raises UserError where it does
    not fit.
    """
    from peft import LoraConfig

    tensors = fitted(module, saved, component)
    ranks = {layer: value.shape[0] for layer, value in _by_layer(tensors, _A)}
    alphas = {layer: saved.alpha(component, layer, rank) for layer, rank in ranks.items()}
    rank, alpha = _usual(ranks), _usual(alphas)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern=_pattern(ranks, rank),
        alpha_pattern=_pattern(alphas, alpha),
        use_rslora=saved.rslora(component),
        # As one expression: of names in a list, peft also takes every layer that ends in one.
        target_modules="|".join(re.escape(layer) for layer in sorted(ranks)),
        use_dora=saved.is_dora(component),
    )
    inject(module, config)
    copy_into(module, tensors)
    for parameter in adapter_parameters(module).values():
        parameter.requires_grad_(False)


def _usual(values: Mapping[str, Any]) -> Any:
    return collections.Counter(values.values()).most_common(1)[0][0]


def _pattern(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """Give the values that differ, under peft's expressions of whole names, one for each value."""
    other: dict[Any, list[str]] = collections.defaultdict(list)
    for layer, value in values.items():
        if value != usual:
            other[value].append(re.escape(layer))
    return {f"^({'|'.join(layers)})": value for value, layers in other.items()}


def _by_layer(tensors: Mapping[str, Tensor], suffix: str) -> Iterator[tuple[str, Tensor]]:
    return ((key.removesuffix(suffix), value) for key, value in tensors.items() if key.endswith(suffix))


def fitted(module: nn.Module, saved: SavedAdapter, component: str) -> dict[str, Tensor]:
    """Give the tensors of ``component`` under this module's own layer names. Raises UserError if a layer is missing or
    of another shape."""
    tensors = saved.tensors[component]
    if not hasattr(module, "text_model"):
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    known = sizes(module)
    for layer, down in _by_layer(tensors, _A):
        if layer not in known:
            raise UserError(
                f"the adapter {saved.path} is for another model: this {component} has no layer '{layer}'"
            )
        what = f"the adapter {saved.path} is for another model: '{component}.{layer}'"
        check_size(what, known[layer], down, tensors[layer + _B])
    return tensors


@torch.no_grad()
def copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the adapter's values. Raises ValueError if the names differ (the callers check shapes first)."""
    parameters = adapter_parameters(module)
    if parameters.keys() != tensors.keys():
        raise ValueError(f"adapters differ in {sorted(parameters.keys() ^ tensors.keys())[:4]}")
    for key, parameter in parameters.items():
        parameter.copy_(tensors[key])


def remove(module: nn.Module) -> None:
    """Take every adapter out of ``module``, or the part that is there of one; its own weights were never touched."""
    from diffusers.utils import recurse_remove_peft_layers

    # peft writes down that there is an adapter after its last layer, diffusers before the first.
    marked = getattr(module, "peft_config", None) or getattr(module, "_hf_peft_config_loaded", False)
    if not marked and not adapter_layers([module]):
        return
    recurse_remove_peft_layers(module)
    vars(module).pop("peft_config", None)
    module._hf_peft_config_loaded = False  # type: ignore[assignment]


@contextlib.contextmanager
def switched_off(layers: Iterable[Any]) -> Iterator[None]:
    """Run the network as if it had no adapter, for the time of the block.

    peft's own switch (``enable_adapters``) also resets ``requires_grad`` of every parameter: five times the cost,
    and wrong for frozen adapters. This sets the flag that ``forward`` reads, and nothing else.
    """
    layers = list(layers)
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value


@contextlib.contextmanager
def merged(layers: Iterable[Any]) -> Iterator[None]:
    """Multiply the adapter into the weights, so that it costs nothing; on leaving, the old ones return bit for bit."""
    layers = list(layers)
    before = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, before, strict=True):
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
